"""`GET /api/v1/events/{job_id}`: a job as Server-Sent Events, from now to its end.

An event reports the present state, not the history: a client that reconnects gets one event and has missed nothing.
"""

from base64 import b64encode
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.types import Receive, Scope, Send

from umrgen.server.http import Services
from umrgen.server.http.api.status import wire
from umrgen.server.http.auth import authenticate
from umrgen.server.http.disconnect import CancelledOnDisconnect
from umrgen.server.http.problems import to_problem
from umrgen.server.services.job_waits import JobEvent, JobView

__all__ = ["PATH", "events"]

PATH = "/api/v1/events/"
RECONNECT_MS = 5000
"""When a client should reconnect after the server was stopped, in milliseconds."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"vary", b"Authorization"),
]


def event(kind: str, data: Mapping[str, Any], id: bytes | None = None) -> bytes:
    """Encode an event. JSON has no raw line breaks, so its data is one line."""
    head = b"" if id is None else b"id: %b\n" % id
    return b"event: %b\n%bdata: %b\n\n" % (kind.encode(), head, msgspec.json.encode(data))


async def events(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """Stream the job's state now, then each change, until it is over.

    Responds 204, which ends an EventSource, to a client that already has the final event.
    """
    headers = dict(scope["headers"])
    try:
        caller = await authenticate(services, scope, headers)
        job = await services.job_waits.find(caller, unquote(scope["path"][len(PATH) :]))
        services.job_waits.check_stream(caller)
        view = await services.job_waits.view(job)
    except Exception as error:
        await to_problem(error).response()(scope, receive, send)
        return
    known = headers.get(b"last-event-id", b"").strip().decode("latin-1")
    if job.over and known == view.version:
        await send({"type": "http.response.start", "status": 204, "headers": _HEADERS[1:]})
        await send({"type": "http.response.body", "body": b""})
        return
    if scope["method"] == "HEAD":
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
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
            return b"retry: %d\n: the server is stopping; reconnect with Last-Event-ID\n\n" % RECONNECT_MS
        case _:
            return b": keep-alive\n\n"


def _progress(view: JobView) -> dict[str, Any]:
    return {
        "job_id": view.job.id,
        "step": view.job.step,
        "total": view.job.request.steps,
        "eta_seconds": None if view.eta is None else round(view.eta, 1),
    }


def _preview(job_id: str, image: bytes) -> dict[str, Any]:
    return {"job_id": job_id, "media_type": "image/jpeg", "data": b64encode(image).decode()}
