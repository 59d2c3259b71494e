"""The mode `legacy`: the first servers, as they were observed (they are programs of others, and share no code)."""

import asyncio
import hashlib
import re
from dataclasses import replace
from email.utils import formatdate
from html import escape
from typing import Any
from urllib.parse import unquote

from umrgen.model import State
from umrgen.testing.clock import ServerClock
from umrgen.testing.engine import FakeEngine
from umrgen.testing.http1 import RecordedRequest, Response, html, json_response
from umrgen.testing.legacy_jobs import LegacyJob, LegacyJobs, LegacyOutput
from umrgen.testing.options import FaultServerOptions, ServerJob

__all__ = ["CONCURRENT_LIMIT", "JOB_NOT_FOUND", "RATE_LIMITED", "LegacyServer", "job_body", "receipt_body"]

API = "/api/v1/"
SESSION_ID = "sid_ext_gen"
SERVED_BY = {"X-Powered-By": "Express"}

JOB_NOT_FOUND = {"error": "Job not found"}
RATE_LIMITED = {"error": "Too many requests, please try again later."}
CONCURRENT_LIMIT = {"error": "CONCURRENT_LIMIT"}
"""With the `job_id` of the job that runs."""


def receipt_body(job_id: str) -> dict[str, Any]:
    """Return the body for an accepted submit."""
    return {"success": True, "job_id": job_id}


def job_body(
    job_id: str,
    state: str,
    *,
    urls: tuple[str, ...] = (),
    settled: bool = False,
    error: str | None = None,
    created_at: int = 0,
    queue_position: int = 0,
    eta_seconds: int | None = None,
) -> dict[str, Any]:
    """Return the body for a job's status. `settled`: a minute has passed since it was completed."""
    body: dict[str, Any] = {"success": True, "job_id": job_id, "state": state}
    if state == State.COMPLETED and urls and settled:
        return body | {"image_url": urls[0]}
    body |= {"created_at": created_at}
    if state == State.COMPLETED:
        return body | {"results": {"images": [{"url": url} for url in urls]}}
    if state == State.FAILED:
        return body | {"error": error}
    return body | {"queue_position": queue_position, "eta_seconds": eta_seconds}


class LegacyServer:
    """A server with everything in memory, one job at a time and no long polls."""

    def __init__(self, options: FaultServerOptions, engine: FakeEngine, clock: ServerClock) -> None:
        self._options = options
        self._clock = clock
        self._jobs = LegacyJobs(engine, clock, SESSION_ID)
        self._calls: dict[str, tuple[float, int]] = {}
        """When an address's window began, and how many calls it has made in it."""

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    async def restart(self) -> None:
        """Lose every job."""
        self._jobs.forget()
        self._calls.clear()

    async def catch_up(self) -> None:
        """Nothing to do: jobs are computed when they are read."""

    async def jobs(self) -> list[ServerJob]:
        """Return all jobs, the lost ones too."""
        return [job.snapshot() for job in self._jobs.all()]

    async def respond(self, request: RecordedRequest, address: str, disconnected: asyncio.Event) -> Response:
        """Return the response to a request."""
        return self._route(request, address).with_headers(SERVED_BY)

    def _route(self, request: RecordedRequest, address: str) -> Response:
        method, route = request.method, request.route
        if route.startswith("/outputs/") and method in ("GET", "HEAD"):
            return self._output(request)
        if route.startswith("/api/") and self._rate_limited(address):
            return json_response(429, RATE_LIMITED)
        if route.startswith(API):
            if request.headers.get("authorization") != f"Bearer {self._options.key}":
                return _error(401, "Unauthorized: invalid or missing API key")
            if (method, route) == ("POST", API + "generate"):
                return self._generate(request)
            if method == "GET" and re.fullmatch(API + r"status/[^/]+", route):
                return self._status(unquote(route.rpartition("/")[2]))
        page = f"<!DOCTYPE html>\n<html><body>\n<pre>Cannot {method} {escape(route)}</pre>\n</body></html>\n"
        return html(404, page)

    def _rate_limited(self, address: str) -> bool:
        """Count a call of this address; return whether it exceeds the limit."""
        limit = self._options.limit("rate_limit")
        now = self._clock.monotonic()
        since, count = self._calls.get(address, (now, 0))
        if now >= since + self._options.rate_window:
            since, count = now, 0
        self._calls[address] = since, count + 1
        return limit is not None and count >= limit

    def _generate(self, request: RecordedRequest) -> Response:
        try:
            data = request.json()
        except ValueError:
            return _error(500, "Unexpected token in JSON")
        prompt = data.get("prompt") if isinstance(data, dict) else None
        if not prompt:
            return _error(400, "prompt is required")
        if not isinstance(prompt, str):
            return _error(500, "prompt.trim is not a function")
        if (blocking := self._jobs.blocking(self._options.limit("concurrency"))) is not None:
            return json_response(429, CONCURRENT_LIMIT | {"job_id": blocking.id})
        return json_response(self._options.submit_status, receipt_body(self._jobs.submit(data).id))

    def _status(self, job_id: str) -> Response:
        job = self._jobs.find(job_id)
        if job is None:
            return json_response(404, JOB_NOT_FOUND)
        age = self._clock.monotonic() - job.ended
        if job.state is State.FAILED and age >= self._options.forget_seconds:
            return json_response(404, JOB_NOT_FOUND)
        body = job_body(
            job.id,
            job.state,
            urls=job.urls,
            settled=age >= self._options.settle_seconds,
            error=job.error,
            created_at=int(1000 * self._clock.wall(job.created)),
            queue_position=self._jobs.queue_index(job),
            eta_seconds=self._eta(job),
        )
        return json_response(200, body)

    def _eta(self, job: LegacyJob) -> int | None:
        """Return the average of the last ten jobs, for each job ahead and this one; it does not count down."""
        last = self._jobs.durations
        return round(sum(last) / len(last) * (self._jobs.queue_index(job) + 1)) if last else None

    def _output(self, request: RecordedRequest) -> Response:
        session_id, _, name = unquote(request.route.removeprefix("/outputs/")).partition("/")
        if request.query.get("session_id") != [session_id] or session_id != SESSION_ID:
            return Response(403)
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII) or ".." in name:
            return Response(400)
        self._jobs.advance()
        output = self._jobs.outputs.get(name)
        return Response(404) if output is None else _file(request, output)


def _error(status: int, message: str) -> Response:
    return json_response(status, {"error": message})


def _file(request: RecordedRequest, output: LegacyOutput) -> Response:
    """Return a static file with a weak validator, made of its size and name."""
    etag = f'W/"{len(output.data):x}-{hashlib.sha256(output.name.encode()).hexdigest()[:11]}"'
    modified = formatdate(output.created, usegmt=True)
    headers = {
        "Content-Type": output.media_type,
        "Accept-Ranges": "bytes",
        "Cache-Control": "public, max-age=0",
        "ETag": etag,
        "Last-Modified": modified,
    }
    whole = Response(200, headers, output.data)
    if request.headers.get("if-range") not in (None, etag, modified):
        return whole
    return _range(whole, request.headers.get("range"))


def _range(whole: Response, field: str | None) -> Response:
    """Return the part of the file that a Range field names (RFC 9110, section 14), or all of it."""
    match, size = re.fullmatch(r"bytes=(\d*)-(\d*)", (field or "").strip()), len(whole.body)
    if match is None or not any(match.groups()):
        return whole
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return whole  # not a valid range, which is ignored
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if start > end:
        return Response(416, {"Content-Range": f"bytes */{size}"})
    partial = whole.with_headers({"Content-Range": f"bytes {start}-{end}/{size}"})
    return replace(partial, status=206, body=whole.body[start : end + 1])
