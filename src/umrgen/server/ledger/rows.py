"""Jobs as rows and back: the same columns in every dialect."""

from collections.abc import Mapping
from dataclasses import fields
from operator import attrgetter, itemgetter
from typing import Any

import msgspec

from umrgen.jobs import Job, JobSpec, Output, State

__all__ = ["job_of", "row_of"]

_COLUMNS = tuple(field.name for field in fields(Job))
_AT = {name: at for at, name in enumerate(_COLUMNS)}
_columns_of = itemgetter(*_COLUMNS)
_values_of = attrgetter(*_COLUMNS)
_STATES = {state.value: state for state in State}
_ENCODER = msgspec.json.Encoder()
_SPEC = msgspec.json.Decoder(JobSpec)
_OUTPUTS = msgspec.json.Decoder(tuple[Output, ...])


def row_of(job: Job) -> dict[str, Any]:
    row = dict(zip(_COLUMNS, _values_of(job), strict=True))
    row["state"] = job.state.value
    row["spec"] = _ENCODER.encode(job.spec).decode()
    row["outputs"] = _ENCODER.encode(job.outputs).decode() if job.outputs else "[]"
    return row


def job_of(row: Mapping[str, Any]) -> Job:
    values = list(_columns_of(row))
    values[_AT["spec"]] = _SPEC.decode(row["spec"])
    values[_AT["state"]] = _STATES[row["state"]]
    values[_AT["outputs"]] = _OUTPUTS.decode(row["outputs"])
    return Job(*values)
