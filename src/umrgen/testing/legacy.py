"""The mode `legacy`: the first servers, as they were observed (contract, section 3)."""

import asyncio
import hashlib
import re
from email.utils import formatdate
from html import escape
from typing import Any
from urllib.parse import unquote

from umrgen.model import State
from umrgen.testing.outputs import MEDIA_TYPES, Unsatisfiable, byte_range, cut_to
from umrgen.testing.wire import Recorded, Response, html, json_response
from umrgen.testing.world import Output, ServerJob, World

__all__ = ["Legacy"]

API = "/api/v1/"
SERVED_BY = {"X-Powered-By": "Express"}


class Legacy:
    """Everything in memory, one job at a time, nothing held."""

    session_id = "sid_ext_gen"

    def __init__(self, world: World) -> None:
        self._world = world
        self._calls: dict[str, tuple[float, int]] = {}

    def restart(self) -> None:
        self._world.forget()
        self._calls.clear()

    async def answer(self, request: Recorded, address: str, gone: asyncio.Event) -> Response:
        return self._route(request, address).with_headers(SERVED_BY)

    def _route(self, request: Recorded, address: str) -> Response:
        method, route = request.method, request.route
        if request.path in self._world.exact and method in ("GET", "HEAD"):
            return _file(request, self._world.exact[request.path])
        if route.startswith("/outputs/") and method in ("GET", "HEAD"):
            return self._output(request)
        if route.startswith("/api/") and self._too_many(address):
            return _error(429, "Too many requests, please try again later.")
        if route.startswith(API):
            if request.headers.get("authorization") != f"Bearer {self._world.settings.key}":
                return _error(401, "Unauthorized: invalid or missing API key")
            if (method, route) == ("POST", API + "generate"):
                return self._generate(request)
            if method == "GET" and re.fullmatch(API + r"status/[^/]+", route):
                return self._status(unquote(route.rpartition("/")[2]))
        page = f"<!DOCTYPE html>\n<html><body>\n<pre>Cannot {method} {escape(route)}</pre>\n</body></html>\n"
        return html(404, page)

    def _too_many(self, address: str) -> bool:
        limit = self._world.settings.limit("rate_limit")
        now = self._world.now()
        since, count = self._calls.get(address, (now, 0))
        if now >= since + self._world.settings.rate_window:
            since, count = now, 0
        self._calls[address] = since, count + 1
        return limit is not None and count >= limit

    def _generate(self, request: Recorded) -> Response:
        try:
            data = request.json()
        except ValueError:
            return _error(500, "Unexpected token in JSON")
        prompt = data.get("prompt") if isinstance(data, dict) else None
        if not prompt:
            return _error(400, "prompt is required")
        if not isinstance(prompt, str):
            return _error(500, "prompt.trim is not a function")
        if (other := self._world.in_the_way()) is not None:
            return json_response(429, {"error": "CONCURRENT_LIMIT", "job_id": other.id})
        job = self._world.submit(data)
        return json_response(self._world.settings.submit_status, {"success": True, "job_id": job.id})

    def _status(self, job_id: str) -> Response:
        world = self._world
        job = world.find(job_id)
        if job is None or self._vanished(job):
            return _error(404, "Job not found")
        told: dict[str, Any] = {"success": True, "job_id": job.id, "state": job.state}
        if job.state is State.COMPLETED and job.urls and self._age(job) >= world.settings.settle_seconds:
            return json_response(200, told | {"image_url": job.urls[0]})
        told |= {"created_at": world.millis(job.created)}
        if job.state is State.COMPLETED:
            told |= {"results": {"images": [{"url": url} for url in job.urls]}}
        elif job.state is State.FAILED:
            told |= {"error": job.error}
        else:
            told |= {"queue_position": world.place(job) or 0, "eta_seconds": self._eta(job)}
        return json_response(200, told)

    def _age(self, job: ServerJob) -> float:
        """Seconds since it ended."""
        return self._world.now() - (job.ended or 0.0)

    def _vanished(self, job: ServerJob) -> bool:
        return job.state is State.FAILED and self._age(job) >= self._world.settings.forget_seconds

    def _eta(self, job: ServerJob) -> int | None:
        """The average of the last ten for each job ahead and this one; it does not count down."""
        last = self._world.durations
        return round(sum(last) / len(last) * ((self._world.place(job) or 0) + 1)) if last else None

    def _output(self, request: Recorded) -> Response:
        session_id, _, name = unquote(request.route.removeprefix("/outputs/")).partition("/")
        if request.query.get("session_id") != [session_id] or session_id != self.session_id:
            return Response(403)
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII) or ".." in name:
            return Response(400)
        self._world.advance()
        output = self._world.outputs.get(name)
        return Response(404) if output is None else _file(request, output)


def _error(status: int, words: str) -> Response:
    return json_response(status, {"error": words})


def _file(request: Recorded, output: Output) -> Response:
    """A static file with a weak validator, made of its size and time."""
    etag = f'W/"{len(output.data):x}-{hashlib.sha256(output.name.encode()).hexdigest()[:11]}"'
    modified = formatdate(output.wall, usegmt=True)
    headers = {
        "Content-Type": MEDIA_TYPES[output.name.rpartition(".")[2]],
        "Accept-Ranges": "bytes",
        "Cache-Control": "public, max-age=0",
        "ETag": etag,
        "Last-Modified": modified,
    }
    whole = Response(200, headers, output.data)
    if request.headers.get("if-range") not in (None, etag, modified):
        return whole
    try:
        span = byte_range(request.headers.get("range"), len(output.data))
    except Unsatisfiable:
        return Response(416, {"Content-Range": f"bytes */{len(output.data)}"})
    return whole if span is None else cut_to(whole, span)
