"""`GET /api/v1/status/{job_id}`: the call that is made most, so a plain ASGI handler ahead of the router."""

import logging
import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec
from starlette.types import Receive, Scope, Send

from umrgen.jobs import JOB_ID, Job, job_to_wire
from umrgen.server.http import Services
from umrgen.server.http.auth import authenticate
from umrgen.server.http.problems import Problem

__all__ = ["PATH", "requested_wait", "status"]

PATH = "/api/v1/status/"
log = logging.getLogger(__name__)

_WAIT = re.compile(rb"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)


def requested_wait(headers: Mapping[bytes, bytes], query: bytes, longest: float) -> int | None:
    """Seconds the caller asks to be held, cut to `longest`: `Prefer: wait=N` (RFC 7240), or `?wait=N`."""
    if match := _WAIT.search(headers.get(b"prefer", b"")):
        asked = int(match[1])
    elif b"wait=" in query and (values := parse_qs(query.decode("latin-1")).get("wait")) and values[0].isascii():
        asked = int(values[0]) if values[0].isdigit() and len(values[0]) < 7 else 0
    else:
        return None
    return min(asked, int(longest))


class View:
    """A job as it is answered now, with what decides whether it has changed."""

    def __init__(self, job: Job, position: int | None) -> None:
        self.job = job
        self.position = position
        self.etag = f'"{job.version}.{position or 0}"'.encode()

    @classmethod
    async def of(cls, services: Services, job_id: str, session_id: str) -> "View":
        """Raises Problem `job_not_found`, for another session's job too."""
        job = await services.ledger.get(job_id) if JOB_ID.fullmatch(job_id) else None
        if job is None or job.session_id != session_id:
            raise Problem("job_not_found", "there is no such job, or it is not yours")
        return cls(job, await services.ledger.queue_position(job))

    def wire(self) -> dict[str, Any]:
        return job_to_wire(self.job, queue_position=self.position)


async def status(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    headers = dict(scope["headers"])
    try:
        key = await authenticate(services, headers)
        wait = requested_wait(headers, scope["query_string"], services.settings.max_wait)
        job_id = unquote(scope["path"][len(PATH) :])
        known = headers.get(b"if-none-match", b"").strip().removeprefix(b"W/") or None
        view = await View.of(services, job_id, key.session_id)
        if wait:
            view = await _hold(services, view, wait, known, receive)
    except Problem as problem:
        await problem.response()(scope, receive, send)
        return
    except Exception:
        log.exception("a status call failed")
        await Problem("internal").response()(scope, receive, send)
        return
    await _answer(send, view, wait, known)


async def _hold(services: Services, view: View, wait: int, known: bytes | None, receive: Receive) -> View:
    """Wait until the job is over, or differs from the version the caller knows, or `wait` seconds."""
    job = view.job
    with services.waiters.join([job.id], places=known is not None) as waiting:
        async for _ in waiting.hold(wait, receive):
            view = await View.of(services, job.id, job.session_id)
            if view.job.over or (known is not None and view.etag != known):
                break
    return view


async def _answer(send: Send, view: View, wait: int | None, known: bytes | None) -> None:
    wire = view.wire()
    unchanged = known == view.etag
    headers = [(b"etag", view.etag), (b"cache-control", b"no-store"), (b"vary", b"Authorization, Prefer")]
    if wait is not None:
        headers.append((b"preference-applied", b"wait=%d" % wait))
    if (delay := wire["retry_after_ms"]) is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(delay / 1000)))
    body = b"" if unchanged else msgspec.json.encode(wire)
    if not unchanged:
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 304 if unchanged else 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
