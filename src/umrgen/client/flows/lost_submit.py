"""Finding the job of a lost submit on the first servers, which have no idempotency keys.

They run one job at a time, name the running one in a call of their page, and the older of their two public versions
lists finished ones. The submit is recognised by its prompt and size, where they are listed, and by its time.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from umrgen.client.flow import CallContext, Flow, RetryBudget, TransportFailure, retry_after, server_time
from umrgen.client.flows.wait import StatusPoller
from umrgen.client.protocol import API, call, error_from, is_transient, rate_limit_delay, unreachable_message
from umrgen.client.responses import read_json
from umrgen.errors import ApiError, ConnectionFailed, JobNotFound, RateLimited
from umrgen.model import JOB_ID, LIMITS, State, Status

__all__ = ["LostSubmit", "find_lost_job", "listed_image", "require_lost_job"]

SESSION = "session_id=sid_ext_gen"
"""The session of all jobs that were submitted with an API key."""
SLACK = 2.0
"""Seconds by which the times of the two clocks may differ: the server's `Date` has whole seconds."""
LONGEST_SUBMIT = 60.0
"""Seconds after the start of a submit until which it may have reached the server."""
MOST_CANDIDATES = 5
"""Listed jobs whose time is requested, from each end of the list."""


@dataclass(frozen=True)
class LostSubmit:
    """A submit without a response. `sent_at` is its start on the driver's monotonic clock."""

    request: Mapping[str, Any]
    sent_at: float
    known_ids: Callable[[], Collection[str]] = field(default=tuple)
    """The ids of jobs that belong to other submits."""


def require_lost_job(context: CallContext, lost: LostSubmit) -> "Flow[str]":
    """Return the id of the job that a submit has created.

    Raises JobNotFound when the server has no such job, and ConnectionFailed when that is not known.
    """
    job_id, conclusive = yield from find_lost_job(context, lost)
    if job_id is not None:
        return job_id
    if conclusive:
        raise JobNotFound(
            "the response to this submit was lost, and the server has no such job: the submit did not arrive, or the "
            "job failed",
            code="job_gone",
            next="Submit it again.",
        )
    error = ConnectionFailed("it is not known whether this job was created, and this server has no idempotency keys")
    error.sent = True
    error.retryable = False
    error.next = "The job may have been created: check the server before you submit again."
    raise error


def find_lost_job(context: CallContext, lost: LostSubmit) -> "Flow[tuple[str | None, bool]]":
    """Return the id of the job that a submit has created, and whether the search was conclusive."""
    try:
        return (yield from _search(context, lost))
    except ApiError:  # the response of a gateway, which says nothing about the job
        return None, False


def _search(context: CallContext, lost: LostSubmit) -> "Flow[tuple[str | None, bool]]":
    page = yield from _page(context, "/api/status")
    if not isinstance(page, Mapping) or "active_job_id" not in page:
        return None, False
    known, active = set(lost.known_ids()), page["active_job_id"]
    running = active if _is_id(active) and active not in known else None
    if running is not None:
        created = yield from _created_at(context, running)
        if created is not None and -SLACK <= created - lost.sent_at <= LONGEST_SUBMIT + SLACK:
            return running, True
        if created is not None and created < lost.sent_at:
            known.add(running)
            running = None
    listed = yield from _history(context)
    if running is not None and listed is not None:
        # Its time does not tell whose it is: its gateway may have been slow. Its prompt is listed after its end.
        poller = StatusPoller(context, running, seen=True)
        yield from poller.next_change(until_over=True)
        context.status_due = context.now + max(poller.delay, context.options.running_interval)
        listed = yield from _history(context)
    if listed is None:
        return None, running is None
    return (yield from _find_listed(context, lost, listed, known, running)), True


def _find_listed(
    context: CallContext, lost: LostSubmit, listed: list[Mapping[str, Any]], known: Collection[str], running: str | None
) -> "Flow[str | None]":
    """Return the id of the finished job whose prompt, size and time match, or None when it is not certain.

    `running`: the job that ran during the search.
    """
    found = [item["job_id"] for item in listed if _matches(item, lost.request) and item["job_id"] not in known]
    if running in found:
        return running
    undated = []
    for job_id in dict.fromkeys([*found[:MOST_CANDIDATES], *found[-MOST_CANDIDATES:]]):
        created = yield from _created_at(context, job_id)
        if created is None:
            undated.append(job_id)
        elif created >= lost.sent_at - SLACK:
            return str(job_id)
    # The server tells the time of a job until a minute after its end.
    return undated[0] if len(undated) == 1 == len(found) and context.now - lost.sent_at > 60 else None


def _matches(item: Mapping[str, Any], request: Mapping[str, Any]) -> bool:
    if not _is_id(item.get("job_id")) or item.get("prompt") != request.get("prompt"):
        return False
    return all(_same_side(item.get(side), request.get(side)) for side in ("width", "height"))


def _same_side(listed: Any, requested: Any) -> bool:
    """Return whether a listed width or height may be the requested one, which the server clamps."""
    clamped = not isinstance(requested, int) or not LIMITS.side_min <= requested <= LIMITS.side_max
    return clamped or listed == requested


def listed_image(context: CallContext, job_id: str) -> "Flow[Status | None]":
    """Return the status of a job that the server has forgotten, but lists as finished; None if it does not."""
    for item in (yield from _history(context)) or ():
        url = item.get("imageUrl") if item.get("job_id") == job_id else None
        if isinstance(url, str) and url:
            return Status(job_id, State.COMPLETED, (url,), raw=item)
    return None


# --- the calls --------------------------------------------------------------------------------------


def _history(context: CallContext) -> "Flow[list[Mapping[str, Any]] | None]":
    """Return the finished jobs that the server lists; None on the newer version, which lists none."""
    page = yield from _page(context, "/api/history")
    return [item for item in page if isinstance(item, Mapping)] if isinstance(page, list) else None


def _page(context: CallContext, path: str) -> "Flow[Any]":
    """Return the JSON of a call of the server's page; None when this server does not have it."""
    retries = RetryBudget(context, context.options.submit_patience)
    limited = RetryBudget(context, float("inf"))
    delay = 0.0
    while True:
        try:
            reply = yield context.step("GET", f"{path}?{SESSION}", delay=delay)
        except TransportFailure as failure:
            context.observe(failure.at)
            delay = retries.next_delay(ConnectionFailed(unreachable_message(failure)))
            continue
        context.observe(reply.at)
        error = error_from(reply)
        if isinstance(error, RateLimited):
            delay = limited.next_delay(error, rate_limit_delay(context, reply, limited))
        elif is_transient(reply):
            delay = retries.next_delay(error, retry_after(reply))
        else:
            return read_json(reply.body) if reply.status == 200 else None


def _created_at(context: CallContext, job_id: str) -> "Flow[float | None]":
    """Return when a job was created, on the driver's monotonic clock; None when the server does not tell it."""
    try:
        path = f"{API}/status/{quote(job_id, safe='')}"
        reply, data = yield from call(context, "GET", path, job_id=job_id)
    except JobNotFound:
        return None
    options = context.options
    interval = options.queued_interval if data.get("state") == State.QUEUED else options.running_interval
    context.status_due = reply.at + interval
    created = data.get("created_at")
    if isinstance(created, bool) or not isinstance(created, int | float):
        return None
    return reply.at - (server_time(reply) - created / 1000)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and JOB_ID.fullmatch(value) is not None
