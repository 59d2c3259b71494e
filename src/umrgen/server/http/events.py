"""`GET /api/v1/events/{job_id}`: a job as Server-Sent Events, from now to its end.

An event tells how things stand, not what has happened since the last one; so whoever was away for a
while gets one event and has missed nothing, and no history need be kept for them.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import nullcontext
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.types import Receive, Scope, Send

from umrgen.jobs import Job
from umrgen.server.http import Services
from umrgen.server.http.auth import authenticate
from umrgen.server.http.disconnect import CancelledOnDisconnect
from umrgen.server.http.problems import Problem
from umrgen.server.http.status import View, to_problem
from umrgen.server.ledger import Key
from umrgen.server.services.job_waits import Subscription

__all__ = ["PATH", "events"]

PATH = "/api/v1/events/"
KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment says that the line is open: below the idle limits of proxies."""
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
        key = await authenticate(services, scope, headers)
        view = await View.of(services, unquote(scope["path"][len(PATH) :]), key.session_id)
    except Exception as error:
        await to_problem(error).response()(scope, receive, send)
        return
    if services.waits.full(key.id):
        words = f"{services.settings.held} calls of this key wait already"
        await Problem("rate_limited", words).response()(scope, receive, send)
        return
    known = headers.get(b"last-event-id", b"").strip()
    if view.job.over and known == view.etag.strip(b'"'):
        await send({"type": "http.response.start", "status": 204, "headers": _HEADERS[1:]})
        await send({"type": "http.response.body", "body": b""})
        return
    wants_previews = b"preview=1" in scope["query_string"].split(b"&")
    with (
        services.waits.subscribe([view.job.id], owner=key.id, queue=True) as subscription,
        services.previews.watch(view.job.id) if wants_previews else nullcontext(),
        CancelledOnDisconnect(scope, receive),
    ):
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async for data in _events(services, key, view.job, known, subscription):
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _events(
    services: Services, key: Key, job: Job, known: bytes, subscription: Subscription
) -> AsyncIterator[bytes]:
    """Yield events until the job is over, the key is revoked, or the server stops."""
    place, shown = None, None
    while True:
        view = await View.of(services, job.id, job.session_id)
        state_id = view.etag.strip(b'"')
        if state_id != known:
            kind, data = ("progress", _progress(view)) if place == view.place else ("status", view.wire())
            yield event(kind, data, state_id)
            known = state_id
        place = view.place
        preview = services.previews.last(job.id)
        if preview is not None and preview is not shown:
            shown = preview
            yield event("preview", _preview(job.id, preview))
        if view.job.over:
            return
        loop = asyncio.get_running_loop()
        while not await subscription.wait(loop.time() + KEEP_ALIVE):
            if subscription.closed:
                yield b"retry: %d\n: the server is stopping; come back with Last-Event-ID\n\n" % COME_BACK_MS
                return
            if not await services.keys.still_opens(key):
                return
            yield b": still here\n\n"
        if not await services.keys.still_opens(key):
            return


def _progress(view: View) -> dict[str, Any]:
    return {
        "job_id": view.job.id,
        "step": view.job.step,
        "total": view.job.spec.steps,
        "eta_seconds": None if view.eta is None else round(view.eta, 1),
    }


def _preview(job_id: str, image: bytes) -> dict[str, Any]:
    return {"job_id": job_id, "media_type": "image/jpeg", "data": b64encode(image).decode()}
