"""`GET /api/v1/events/{job_id}`: a job as Server-Sent Events, from now to its end.

An event tells how things stand, not what has happened since the last one; so whoever was away for a
while gets one event and has missed nothing, and no history need be kept for them.
"""

from base64 import b64encode
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.types import Receive, Scope, Send

from umrgen.server.http import Services
from umrgen.server.http.api.status import to_problem, wire
from umrgen.server.http.auth import authenticate
from umrgen.server.http.disconnect import CancelledOnDisconnect
from umrgen.server.http.problems import Problem
from umrgen.server.services.caller import Caller
from umrgen.server.services.job_waits import JobEvent, JobView

__all__ = ["PATH", "events"]

PATH = "/api/v1/events/"
COME_BACK_MS = 5000
"""When to try again after the server has been stopped, in milliseconds."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"vary", b"Authorization"),
]


def event(kind: str, data: Mapping[str, Any], id: bytes | None = None) -> bytes:
    """One event; JSON has no line breaks of its own, so its data is one line."""
    head = b"" if id is None else b"id: %b\n" % id
    return b"event: %b\n%bdata: %b\n\n" % (kind.encode(), head, msgspec.json.encode(data))


async def events(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """Tell the job's state now, then each change, until it is over. Ends for good with 204 (see EventSource)
    for a caller who has already had the last event."""
    headers = dict(scope["headers"])
    try:
        caller = Caller(await authenticate(services, scope, headers))
        job = await services.job_waits.find(caller, unquote(scope["path"][len(PATH) :]))
        if not services.job_waits.may_wait(caller):
            raise Problem("rate_limited", f"{services.settings.held} calls of this key wait already")
        view = await services.job_waits.view(job)
    except Exception as error:
        await to_problem(error).response()(scope, receive, send)
        return
    known = headers.get(b"last-event-id", b"").strip().decode("latin-1")
    if job.over and known == view.version:
        await send({"type": "http.response.start", "status": 204, "headers": _HEADERS[1:]})
        await send({"type": "http.response.body", "body": b""})
        return
    previews = b"preview=1" in scope["query_string"].split(b"&")
    with CancelledOnDisconnect(scope, receive):
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async with aclosing(services.job_waits.events(caller, job, known=known, previews=previews)) as stream:
            async for each in stream:
                await send({"type": "http.response.body", "body": _encode(services, each), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _encode(services: Services, each: JobEvent) -> bytes:
    job_id = each.view.job.id
    match each.kind:
        case "status":
            return event("status", wire(services, each.view), each.view.version.encode())
        case "progress":
            return event("progress", _progress(each.view), each.view.version.encode())
        case "preview" if each.preview is not None:
            return event("preview", _preview(job_id, each.preview))
        case "stopping":
            return b"retry: %d\n: the server is stopping; come back with Last-Event-ID\n\n" % COME_BACK_MS
        case _:
            return b": still here\n\n"


def _progress(view: JobView) -> dict[str, Any]:
    return {
        "job_id": view.job.id,
        "step": view.job.step,
        "total": view.job.request.steps,
        "eta_seconds": None if view.eta is None else round(view.eta, 1),
    }


def _preview(job_id: str, image: bytes) -> dict[str, Any]:
    return {"job_id": job_id, "media_type": "image/jpeg", "data": b64encode(image).decode()}
