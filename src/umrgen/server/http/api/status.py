"""`GET /api/v1/status/{job_id}`: the most frequent call, so a plain ASGI handler ahead of the router."""

import math
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from urllib.parse import parse_qs, unquote

import msgspec
from starlette.types import Receive, Scope, Send

from umrgen.server.domain.job import Job
from umrgen.server.domain.job_answer import JobAnswer, job_to_wire, retry_after_ms
from umrgen.server.http import Services
from umrgen.server.http.api.responses import RawResponse
from umrgen.server.http.auth import authenticate
from umrgen.server.http.disconnect import CancelledOnDisconnect
from umrgen.server.http.problems import to_problem
from umrgen.server.services.job_waits import JobView

__all__ = ["PATH", "etag", "requested_wait", "status", "status_response", "wire"]

PATH = "/api/v1/status/"
_WAIT = re.compile(rb"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)
_FIXED = [(b"cache-control", b"no-store"), (b"vary", b"Authorization, Prefer")]


def requested_wait(headers: Mapping[bytes, bytes], query: bytes) -> int | None:
    """Return the seconds of a long poll that the request prefers: `Prefer: wait=N` (RFC 7240), or `?wait=N`."""
    if match := _WAIT.search(headers.get(b"prefer", b"")):
        return int(match[1])
    if b"wait=" in query and (values := parse_qs(query.decode("latin-1")).get("wait")) and values[0].isascii():
        return int(values[0]) if values[0].isdigit() and len(values[0]) < 7 else 0
    return None


def etag(view: JobView) -> bytes:
    """Return the strong ETag of a job's version."""
    return b'"%b"' % view.version.encode()


def wire(services: Services, view: JobView) -> JobAnswer:
    """Return the job's answer, with signed URLs."""
    return job_to_wire(view.job, queue_position=view.position, eta_seconds=view.eta, sign=services.signatures.sign)


def known_versions(field: bytes | None) -> frozenset[str] | None:
    """Return the versions in an If-None-Match field, a list of ETags or `*` (RFC 9110); None without the field."""
    if not field:
        return None
    tags = (tag.strip().removeprefix("W/").strip('"') for tag in field.decode("latin-1").split(","))
    return frozenset(tags)


async def status(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    with CancelledOnDisconnect(scope, receive) if _may_wait(scope) else nullcontext():
        try:
            answer = await _answer(services, scope)
        except Exception as error:
            answer = to_problem(error).with_state().raw_response()
        code, fields, body = answer
        if scope["method"] == "HEAD":
            body = b""
        await send({"type": "http.response.start", "status": code, "headers": fields})
        await send({"type": "http.response.body", "body": body})


def _may_wait(scope: Scope) -> bool:
    """Return whether the call may be a long poll: only then a task watches for a disconnect."""
    return bool(scope["query_string"]) or any(name == b"prefer" for name, _ in scope["headers"])


async def _answer(services: Services, scope: Scope) -> RawResponse:
    """Authenticate, wait if the caller prefers it, and return the response. Raises Problem and UmrgenError."""
    headers = dict(scope["headers"])
    caller = await authenticate(services, scope, headers)
    wait = services.job_waits.allowed_wait(caller, requested_wait(headers, scope["query_string"]))
    known = known_versions(headers.get(b"if-none-match"))
    del headers  # thousands of calls may wait below
    job = await services.job_waits.find(caller, unquote(scope["path"][len(PATH) :]))
    if not job.over and wait:
        job = await services.job_waits.wait(caller, job, known=known, seconds=wait)
    return await _answer_about(services, job, wait, known)


async def _answer_about(services: Services, job: Job, wait: int | None, known: frozenset[str] | None) -> RawResponse:
    """Return the response; `wait`: the seconds of its long poll, if any; `known`: the versions that the client has."""
    cached = job.over and known is None and not services.signatures.enabled  # a signed URL is new in each answer
    answer = services.terminal_responses.get(job, wait) if cached else None
    if answer is None:
        answer = status_response(await services.job_waits.view(job), wait, known, sign=services.signatures.sign)
        if cached:
            services.terminal_responses.put(job, wait, answer)
    return answer


def status_response(
    view: JobView, wait: int | None, known: frozenset[str] | None, *, sign: Callable[[str], str] = str
) -> RawResponse:
    """Return the response for a job: 304 without a body if the client has this version."""
    headers = [(b"etag", etag(view)), *_FIXED]
    if (delay := retry_after_ms(view.job, view.eta)) is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(delay / 1000)))
    if wait is not None:
        headers.append((b"preference-applied", b"wait=%d" % wait))
    if known is not None and view.is_known(known):
        return 304, headers, b""
    body = msgspec.json.encode(job_to_wire(view.job, queue_position=view.position, eta_seconds=view.eta, sign=sign))
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return 200, headers, body
