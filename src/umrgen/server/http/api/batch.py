"""`POST /api/v1/status`: the jobs that changed, of many."""

from contextlib import nullcontext
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from umrgen.server.domain.job import Job
from umrgen.server.domain.job_answer import JobAnswer
from umrgen.server.http import Services
from umrgen.server.http.api.responses import Changes, json_response
from umrgen.server.http.api.schemas import read_object
from umrgen.server.http.api.status import requested_wait, wire
from umrgen.server.http.disconnect import CancelledOnDisconnect
from umrgen.server.http.problems import Problem
from umrgen.server.services.caller import Caller
from umrgen.server.services.job_waits import MAX_JOBS

__all__ = ["MAX_BODY", "changes_response", "read_cursor", "read_job_ids", "statuses"]

MAX_BODY = 256 << 10


async def statuses(services: Services, request: Request, caller: Caller) -> Response:
    """Return the jobs whose state changed since a cursor, waiting for one; without a cursor, all of the named jobs."""
    data = await read_object(request, MAX_BODY)
    job_ids, since = read_job_ids(data), read_cursor(data.get("since"), "since")
    preferred = requested_wait(dict(request.headers.raw), request.scope["query_string"])
    wait = services.job_waits.allowed_wait(caller, preferred)
    with CancelledOnDisconnect(request.scope, request.receive) if wait else nullcontext():
        changes = await services.job_waits.changes(caller, job_ids, since=since, seconds=wait or 0)
    jobs = [_wire(services, job) for job in changes.jobs]
    return changes_response(jobs, changes.unknown, changes.cursor, wait)


def changes_response(jobs: list[JobAnswer], unknown: list[str], cursor: int, wait: int | None) -> Response:
    """Return the response with the jobs that changed; `wait`: the seconds of the call's long poll, if any."""
    headers = {"Retry-After": "2"} | ({} if wait is None else {"Preference-Applied": f"wait={wait}"})
    return json_response(Changes(jobs=jobs, unknown=unknown, cursor=str(cursor)), headers=headers)


def _wire(services: Services, job: Job) -> JobAnswer:
    return wire(services, services.job_waits.brief_view(job))


def read_job_ids(data: dict[str, Any]) -> list[str]:
    """Return the different job ids of a request. Raises Problem `invalid_request`."""
    job_ids = data.get("job_ids")
    if not isinstance(job_ids, list) or not all(isinstance(job_id, str) for job_id in job_ids):
        raise Problem("invalid_request", "job_ids must be a list of strings", field="job_ids")
    if not 1 <= len(job_ids) <= MAX_JOBS:
        error = f"job_ids must name 1 to {MAX_JOBS} jobs; got {len(job_ids)}"
        raise Problem("invalid_request", error, field="job_ids")
    return list(dict.fromkeys(job_ids))


def read_cursor(value: Any, field: str) -> int:
    """Return a cursor; 0 for none. Raises Problem `invalid_request`."""
    if value is None or value == "":
        return 0
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 18:
        raise Problem("invalid_request", f"{field} must be a cursor from a response of this server", field=field)
    return int(value)
