"""Jobs as rows and back: the same columns in every dialect."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import msgspec

from umrgen.jobs import Job, JobSpec, Output, State

__all__ = ["job_of", "row_of"]

_COLUMNS = tuple(field.name for field in fields(Job))
_SPEC = msgspec.json.Decoder(JobSpec)
_OUTPUTS = msgspec.json.Decoder(tuple[Output, ...])


def row_of(job: Job) -> dict[str, Any]:
    row = {name: getattr(job, name) for name in _COLUMNS}
    return row | {
        "state": job.state.value,
        "spec": msgspec.json.encode(job.spec).decode(),
        "outputs": msgspec.json.encode(job.outputs).decode(),
    }


def job_of(row: Mapping[str, Any]) -> Job:
    values = {name: row[name] for name in _COLUMNS}
    values["spec"] = _SPEC.decode(row["spec"])
    values["state"] = State(row["state"])
    values["outputs"] = _OUTPUTS.decode(row["outputs"])
    return Job(**values)
