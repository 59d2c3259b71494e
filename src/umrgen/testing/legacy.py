"""The mode `legacy`: the first servers, as they were observed (they are programs of others, and share no code).

There are two public versions; the newer one (`newer_version`) has no uploads and no history.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from html import escape
from urllib.parse import unquote

from umrgen.testing.clock import ServerClock
from umrgen.testing.engine import FakeEngine
from umrgen.testing.http1 import RecordedRequest, Response, html, json_response
from umrgen.testing.legacy_bodies import (
    CONCURRENT_LIMIT,
    INVALID_FILE,
    JOB_NOT_FOUND,
    RATE_LIMITED,
    job_body,
    receipt_body,
)
from umrgen.testing.legacy_files import file_response, uploaded_file, weak_etag
from umrgen.testing.legacy_jobs import LegacyJob, LegacyJobs
from umrgen.testing.options import FaultServerOptions, ServerJob

__all__ = ["LegacyServer"]

SESSION_ID = "sid_ext_gen"
"""The session of all jobs of the API; the server's own page uses others."""
SERVED_BY = {"X-Powered-By": "Express"}
UNMEASURED = 30.0
"""Seconds that a job is expected to take before one has ended."""

Handler = Callable[[RecordedRequest, str], Response]


class LegacyServer:
    """A server with everything in memory, one job at a time and no long polls."""

    def __init__(self, options: FaultServerOptions, engine: FakeEngine, clock: ServerClock) -> None:
        self._options = options
        self._clock = clock
        self._jobs = LegacyJobs(engine, clock, SESSION_ID)
        self._calls: dict[str, tuple[int, int]] = {}
        """The minute of an address's last call, and how many calls it has made in it."""
        routes: dict[str, Handler] = {
            r"POST /api/v1/generate": self._generate,
            r"GET /api/v1/status/([^/]+)": self._status,
            r"GET /api/status": self._session_status,
            r"POST /api/cancel/([^/]+)": self._cancel,
        }
        if not options.newer_version:
            routes |= {r"POST /api/v1/upload-reference": self._upload, r"GET /api/history": self._history}
        self._routes = {re.compile(pattern): handler for pattern, handler in routes.items()}

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
        response = _with_etag(request, self._route(request, address))
        return response.with_headers(SERVED_BY | {"Date": formatdate(self._now(), usegmt=True)})

    def _now(self) -> float:
        return self._clock.wall(self._clock.monotonic())

    def _route(self, request: RecordedRequest, address: str) -> Response:
        method, route = request.method, request.route
        if route.startswith("/outputs/") and method in ("GET", "HEAD"):
            return self._output(request)
        if route.startswith("/api/") and self._rate_limited(address):
            return json_response(429, RATE_LIMITED)
        if route.startswith("/api/v1/") and request.headers.get("authorization") != f"Bearer {self._options.key}":
            return _error(401, "Unauthorized: invalid or missing API key")
        for pattern, handler in self._routes.items():
            if match := pattern.fullmatch(f"{method} {route}"):
                return handler(request, unquote(match[1]) if match.groups() else "")
        page = f"<!DOCTYPE html>\n<html><body>\n<pre>Cannot {method} {escape(route)}</pre>\n</body></html>\n"
        return html(404, page)

    def _rate_limited(self, address: str) -> bool:
        """Count a call of this address; return whether it exceeds the limit of this minute of the clock."""
        limit = self._options.limit("rate_limit")
        minute = int(self._now() // self._options.rate_window)
        last, count = self._calls.get(address, (minute, 0))
        count = count if last == minute else 0
        self._calls[address] = minute, count + 1
        return limit is not None and count >= limit

    # --- jobs ---

    def _generate(self, request: RecordedRequest, _: str) -> Response:
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

    def _status(self, _: RecordedRequest, job_id: str) -> Response:
        job = self._jobs.find(job_id)
        age = 0.0 if job is None else self._clock.monotonic() - job.ended
        if job is None or (job.shown_state == "failed" and age >= self._options.forget_seconds):
            return json_response(404, JOB_NOT_FOUND)
        body = job_body(
            job.id,
            job.shown_state,
            urls=job.urls,
            settled=age >= self._options.settle_seconds,
            error=job.error and job.error[:300],
            created_at=int(1000 * self._clock.wall(job.created)),
            queue_index=self._jobs.queue_index(job),
            eta_seconds=self._eta(job),
        )
        return json_response(200, body)

    def _eta(self, job: LegacyJob) -> int:
        """Return the average of the last ten jobs for each job ahead and this one; 0 while it runs."""
        last, index = self._jobs.durations, self._jobs.queue_index(job)
        average = sum(last) / len(last) if last else UNMEASURED
        return 0 if index is None else round(average * (index + 1))

    def _cancel(self, _: RecordedRequest, job_id: str) -> Response:
        """Show a job as cancelled, as the server's page does; its image is drawn all the same."""
        job = self._jobs.find(job_id)
        if job is None:
            return json_response(404, JOB_NOT_FOUND)
        job.cancelled = True
        return json_response(200, {"success": True})

    # --- the calls of the server's page, which need no key ---

    def _session_status(self, request: RecordedRequest, _: str) -> Response:
        active = self._jobs.blocking(1) if request.query.get("session_id") == [SESSION_ID] else None
        return json_response(200, {"active_job_id": active.id if active else None})

    def _history(self, request: RecordedRequest, _: str) -> Response:
        return json_response(200, self._jobs.history if request.query.get("session_id") == [SESSION_ID] else [])

    # --- files ---

    def _upload(self, request: RecordedRequest, _: str) -> Response:
        file = uploaded_file(request)
        if file is None:
            return json_response(400, INVALID_FILE)
        name, _content = file
        return json_response(200, {"success": True, "filename": name, "url": f"/uploads/{name}"})

    def _output(self, request: RecordedRequest) -> Response:
        session_id, _, name = unquote(request.route.removeprefix("/outputs/")).partition("/")
        if request.query.get("session_id") != [session_id] or session_id != SESSION_ID:
            return Response(403)
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII) or ".." in name:
            return Response(400)
        self._jobs.advance()
        output = self._jobs.outputs.get(name)
        return Response(404) if output is None else file_response(request, output)


def _error(status: int, message: str) -> Response:
    return json_response(status, {"error": message})


def _with_etag(request: RecordedRequest, response: Response) -> Response:
    """Return a JSON response with its weak entity tag, or a 304 when the client has this version."""
    if response.headers.get("Content-Type") != "application/json":
        return response
    etag = weak_etag(len(response.body), response.body)
    tagged = response.with_headers({"ETag": etag})
    fresh = request.method == "GET" and response.status == 200 and request.headers.get("if-none-match") == etag
    return replace(tagged, status=304, body=b"").with_headers({"Content-Type": None}) if fresh else tagged
