"""Jobs as rows and back: the same columns in every dialect."""

from collections.abc import Mapping
from dataclasses import fields
from operator import itemgetter
from typing import Any

import msgspec

from umrgen.jobs import Job, JobSpec, Output, State

__all__ = ["job_of", "row_of"]

_COLUMNS = tuple(field.name for field in fields(Job))
_AT = {name: at for at, name in enumerate(_COLUMNS)}
_columns_of = itemgetter(*_COLUMNS)
_STATES = {state.value: state for state in State}
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
    values = list(_columns_of(row))
    values[_AT["spec"]] = _SPEC.decode(row["spec"])
    values[_AT["state"]] = _STATES[row["state"]]
    values[_AT["outputs"]] = _OUTPUTS.decode(row["outputs"])
    return Job(*values)
