"""Many jobs in one call: `POST /api/v1/status`, and the list `GET /api/v1/jobs`."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from umrgen.jobs import Job, JobAnswer, JobSpec, State, job_to_wire
from umrgen.server.http import Services
from umrgen.server.http.bodies import read_body
from umrgen.server.http.disconnect import CancelledOnDisconnect
from umrgen.server.http.problems import Problem
from umrgen.server.http.responses import Changes, JobsPage, ListedJob, RequestAnswer, WebhookAnswer, json_response
from umrgen.server.http.schemas import decode_object
from umrgen.server.http.status import requested_wait
from umrgen.server.ledger import Key, Webhook

__all__ = ["MAX_JOBS", "jobs", "statuses"]

MAX_JOBS = 1000
MAX_BODY = 1 << 20
MAX_PAGE = 200
SLICE = 50
"""Jobs that are looked at without a break: a few milliseconds."""
JOBS_A_REQUEST = 50
"""Jobs that may be told of in one answer; for each so many more, the key is charged a further request."""


async def statuses(services: Services, request: Request, key: Key) -> Response:
    """The jobs whose state changed since a cursor (all of them without one), held until there is one."""
    data = decode_object(await read_body(request, MAX_BODY))
    job_ids, since = _job_ids(data), _cursor(data.get("since"), "since")
    wait = requested_wait(dict(request.headers.raw), request.scope["query_string"], services.settings.max_wait)
    known = await _known(services, key, job_ids)
    newest = max(known.values(), default=0)
    if since > newest and since > await services.ledger.last_change():
        since = 0  # it is from after the moment of a backup that was put back
    if wait and services.waits.full(key.id):
        wait = None  # not held: the caller is told so, and asks again in its time
    if wait and known and newest <= since:
        with CancelledOnDisconnect(request.scope, request.receive):
            await _wait(services, key, list(known), since, wait)
        known = await _known(services, key, list(known))
    # The cursor is of the moment of one look at all of them: what changes while they are told is told again.
    jobs = await _told(services, [job_id for job_id, when in known.items() if when > since])
    services.limits.charge(key, len(jobs) // JOBS_A_REQUEST)
    unknown = [job_id for job_id in job_ids if job_id not in known]
    body = Changes(jobs=jobs, unknown=unknown, cursor=str(max([since, *known.values()])))
    headers = {"Retry-After": "2"} | ({} if wait is None else {"Preference-Applied": f"wait={wait}"})
    return json_response(body, headers=headers)


async def _told(services: Services, job_ids: Sequence[str]) -> list[JobAnswer]:
    """The jobs as they are answered; in slices, so that whoever asks for a thousand keeps nobody waiting for
    all of them."""
    answers: list[JobAnswer] = []
    for start in range(0, len(job_ids), SLICE):
        async with services.heavy:
            found = await services.ledger.get_many(job_ids[start : start + SLICE])
            answers += [_wire(services, job) for job in found]
            await asyncio.sleep(0)
    return answers


def _wire(services: Services, job: Job) -> JobAnswer:
    """The job without its place in the queue, which would cost a count for each; so an estimate is of running ones."""
    eta = services.estimates.seconds_left(job) if job.state is State.RUNNING else None
    return job_to_wire(job, eta_seconds=eta, sign=services.signatures.sign)


async def _known(services: Services, key: Key, job_ids: Sequence[str]) -> dict[str, int]:
    """When each of the session's own jobs among `job_ids` last changed, by the ledger's count."""
    changes = await services.ledger.changes(job_ids)
    return {job_id: changed for job_id, (session_id, changed) in changes.items() if session_id == key.session_id}


async def _wait(services: Services, key: Key, job_ids: list[str], since: int, seconds: int) -> None:
    """Return when one of the jobs has changed, or after `seconds`. After the first look, only jobs that are said to
    have changed are looked at."""
    until = asyncio.get_running_loop().time() + seconds
    with services.waits.subscribe(job_ids, owner=key.id) as subscription:
        changed = set(job_ids)
        while changed:
            known = await _known(services, key, list(changed))
            if any(when > since for when in known.values()):
                return
            changed = await subscription.wait(until)


def _job_ids(data: dict[str, Any]) -> list[str]:
    job_ids = data.get("job_ids")
    if not isinstance(job_ids, list) or not all(isinstance(job_id, str) for job_id in job_ids):
        raise Problem("invalid_request", "job_ids: must be a list of strings", field="job_ids")
    if not 1 <= len(job_ids) <= MAX_JOBS:
        raise Problem("invalid_request", f"job_ids: must name 1 to {MAX_JOBS} jobs", field="job_ids")
    return list(dict.fromkeys(job_ids))


def _cursor(value: Any, field: str) -> int:
    if value is None or value == "":
        return 0
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 18:
        raise Problem("invalid_request", f"{field}: must be a cursor that this server gave", field=field)
    return int(value)


async def jobs(services: Services, request: Request, key: Key) -> Response:
    """A page of the session's own jobs, newest first."""
    query = request.query_params
    state = query.get("state") or None
    if state is not None and state not in tuple(State):
        raise Problem("invalid_request", f"state: must be one of {', '.join(State)}", field="state")
    limit = query.get("limit", "50")
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= MAX_PAGE:
        raise Problem("invalid_request", f"limit: must be 1 to {MAX_PAGE}", field="limit")
    async with services.heavy:
        found, cursor = await services.ledger.page(
            key.session_id,
            state=State(state) if state else None,
            limit=int(limit),
            before=_cursor(query.get("cursor"), "cursor") or None,
        )
        await asyncio.sleep(0)
    webhooks = await services.ledger.webhooks_of([job.id for job in found if job.over and job.spec.webhook_url])
    services.limits.charge(key, len(found) // JOBS_A_REQUEST)
    listed = [
        ListedJob(
            **_wire(services, job),
            prompt=job.spec.prompt,
            request=_request(job.spec),
            webhook=_webhook(webhooks.get(job.id)),
        )
        for job in found
    ]
    return json_response(JobsPage(jobs=listed, next_cursor=None if cursor is None else str(cursor)))


def _request(spec: JobSpec) -> RequestAnswer:
    return {
        "negative": spec.negative,
        "width": spec.width,
        "height": spec.height,
        "steps": spec.steps,
        "loras": [{"name": lora.name, "strength": lora.strength} for lora in spec.loras],
        "reference_images": list(spec.reference_images),
    }


def _webhook(webhook: Webhook | None) -> WebhookAnswer | None:
    """How the message of a job's end stands; a job that is not over, or asked for none, has none."""
    if webhook is None:
        return None
    return WebhookAnswer(webhook.state.value, webhook.attempts, webhook.last_error, webhook.next_at)
