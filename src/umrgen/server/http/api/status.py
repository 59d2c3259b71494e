"""`GET /api/v1/status/{job_id}`: the call that is made most, so a plain ASGI handler ahead of the router."""

import logging
import math
import re
from collections.abc import Mapping
from contextlib import nullcontext
from urllib.parse import parse_qs, unquote

import msgspec
from starlette.types import Receive, Scope, Send

from umrgen.server.domain.job import Job
from umrgen.server.domain.job_answer import JobAnswer, job_to_wire, retry_after_ms
from umrgen.server.http import Services
from umrgen.server.http.api.responses import Answer
from umrgen.server.http.auth import authenticate
from umrgen.server.http.disconnect import CancelledOnDisconnect
from umrgen.server.http.problems import Problem
from umrgen.server.ledger import LedgerUnavailable
from umrgen.server.services.caller import Caller
from umrgen.server.services.job_waits import JobView
from umrgen.server.services.refusal import Refusal

__all__ = ["PATH", "etag", "requested_wait", "status", "to_problem", "wire"]

PATH = "/api/v1/status/"
log = logging.getLogger(__name__)

_WAIT = re.compile(rb"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)
_FIXED = [(b"cache-control", b"no-store"), (b"vary", b"Authorization, Prefer")]


def requested_wait(headers: Mapping[bytes, bytes], query: bytes, longest: float) -> int | None:
    """Seconds the caller asks to be held, cut to `longest`: `Prefer: wait=N` (RFC 7240), or `?wait=N`."""
    if match := _WAIT.search(headers.get(b"prefer", b"")):
        asked = int(match[1])
    elif b"wait=" in query and (values := parse_qs(query.decode("latin-1")).get("wait")) and values[0].isascii():
        asked = int(values[0]) if values[0].isdigit() and len(values[0]) < 7 else 0
    else:
        return None
    return min(asked, int(longest))


def etag(view: JobView) -> bytes:
    """The strong ETag of a job's version."""
    return b'"%b"' % view.version.encode()


def wire(services: Services, view: JobView) -> JobAnswer:
    """The job as it is answered, its URLs signed."""
    return job_to_wire(view.job, queue_position=view.position, eta_seconds=view.eta, sign=services.signatures.sign)


def known_versions(field: bytes | None) -> frozenset[str] | None:
    """The versions in an If-None-Match field, a list of ETags or `*` (RFC 9110); None without the field."""
    if not field:
        return None
    tags = (tag.strip().removeprefix("W/").strip('"') for tag in field.decode("latin-1").split(","))
    return frozenset(tags)


def to_problem(error: Exception) -> Problem:
    """What to answer when a plain handler failed."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refusal):
        return Problem.of(error)
    if isinstance(error, LedgerUnavailable):
        log.error("%s", error)
        return Problem("ledger_unavailable")
    log.error("a call failed", exc_info=error)
    return Problem("internal")


async def status(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    with CancelledOnDisconnect(scope, receive) if _may_wait(scope) else nullcontext():
        try:
            answer = await _answer(services, scope)
        except Exception as error:
            answer = to_problem(error).answer()
        code, fields, body = answer
        await send({"type": "http.response.start", "status": code, "headers": fields})
        await send({"type": "http.response.body", "body": body})


def _may_wait(scope: Scope) -> bool:
    """Whether the call may be a long poll: only then is it worth a task that notices a disconnect."""
    return bool(scope["query_string"]) or any(name == b"prefer" for name, _ in scope["headers"])


async def _answer(services: Services, scope: Scope) -> Answer:
    """Authenticate, wait if the caller prefers so, and answer. Raises Problem, Refusal and LedgerUnavailable."""
    headers = dict(scope["headers"])
    key = await authenticate(services, scope, headers)
    wait = requested_wait(headers, scope["query_string"], services.settings.max_wait)
    known = known_versions(headers.get(b"if-none-match"))
    del headers  # thousands of calls may wait below
    caller = Caller(key)
    job = await services.job_waits.find(caller, unquote(scope["path"][len(PATH) :]))
    if not job.over and wait:
        if services.job_waits.may_wait(caller):
            job = await services.job_waits.wait(caller, job, known=known, seconds=wait)
        else:
            wait = None  # answered at once, without Preference-Applied: the client polls on at its own pace
    return await _answer_about(services, job, wait, known)


async def _answer_about(services: Services, job: Job, wait: int | None, known: frozenset[str] | None) -> Answer:
    """The answer to a client that asked for a long poll of `wait` seconds, if at all, and knows these versions."""
    cached = job.over and known is None and not services.signatures.wanted  # a signed URL is new in each answer
    answer = services.terminal_responses.get(job, wait) if cached else None
    if answer is None:
        answer = _encode(services, await services.job_waits.view(job), wait, known)
        if cached:
            services.terminal_responses.put(job, wait, answer)
    return answer


def _encode(services: Services, view: JobView, wait: int | None, known: frozenset[str] | None) -> Answer:
    headers = [(b"etag", etag(view)), *_FIXED]
    if (delay := retry_after_ms(view.job, view.eta)) is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(delay / 1000)))
    if wait is not None:
        headers.append((b"preference-applied", b"wait=%d" % wait))
    if known is not None and view.is_known(known):
        return 304, headers, b""
    body = msgspec.json.encode(wire(services, view))
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return 200, headers, body
