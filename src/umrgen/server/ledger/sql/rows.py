"""Jobs as rows and back: the same columns, in the same order, in every database."""

from typing import Any

import msgspec

from umrgen.model import State
from umrgen.server.domain.job import Job, Output
from umrgen.server.domain.request import GenerationRequest, searchable
from umrgen.server.ledger.sql.database import Row, SqlConnection

__all__ = ["COLUMNS", "find_job", "job_of", "searched_of", "values_of"]

COLUMNS = Job._fields
"""The columns of a job's record, in the order of a row."""

_REQUEST, _STATE, _OUTPUTS, _FAVORITE = (COLUMNS.index(name) for name in ("request", "state", "outputs", "favorite"))
_STATES = {state.value: state for state in State}
_ENCODER = msgspec.json.Encoder()
_REQUESTS = msgspec.json.Decoder(GenerationRequest)
_LISTS = msgspec.json.Decoder(tuple[Output, ...])


def values_of(job: Job) -> dict[str, Any]:
    """Return the job's columns by name."""
    values = job._asdict()
    values["state"] = job.state.value
    values["request"] = _ENCODER.encode(job.request).decode()
    values["outputs"] = _ENCODER.encode(job.outputs).decode() if job.outputs else "[]"
    values["favorite"] = int(job.favorite)
    return values


def job_of(row: Row) -> Job:
    """Return the job in the first columns of `row`."""
    values = list(row[: len(COLUMNS)])
    values[_REQUEST] = _REQUESTS.decode(values[_REQUEST])
    values[_STATE] = _STATES[values[_STATE]]
    values[_OUTPUTS] = _LISTS.decode(values[_OUTPUTS]) if values[_OUTPUTS] != "[]" else ()
    values[_FAVORITE] = bool(values[_FAVORITE])
    return Job._make(values)


def find_job(connection: SqlConnection, job_id: str) -> Job | None:
    """Return a job, or None."""
    row = connection.one("get_job", {"id": job_id})
    return job_of(row) if row else None


def searched_of(request: str) -> str:
    """Return what is searched of a job, from the column `request`."""
    return searchable(_REQUESTS.decode(request).prompt)
