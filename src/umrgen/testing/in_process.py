"""The mode `modern`: a server after the contract's section 2, without uploads and event streams."""

import asyncio
import hashlib
import json
import math
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from umrgen.model import LIMITS, State
from umrgen.testing.outputs import MEDIA_TYPES, Unsatisfiable, byte_range, cut_to
from umrgen.testing.wire import Recorded, Response, json_response
from umrgen.testing.world import Output, ServerJob, World

__all__ = ["Modern"]

STATUSES = {
    "invalid_request": 400,
    "unauthorized": 401,
    "forbidden_output": 403,
    "not_found": 404,
    "job_not_found": 404,
    "output_not_found": 404,
    "method_not_allowed": 405,
    "range_not_satisfiable": 416,
    "idempotency_conflict": 422,
    "rate_limited": 429,
    "concurrent_limit": 429,
}

BOUNDS = {
    "width": (LIMITS.side_min, LIMITS.side_max),
    "height": (LIMITS.side_min, LIMITS.side_max),
    "steps": (1, LIMITS.steps_max),
    "seed": (-1, LIMITS.seed_max),
}
FIELDS = {"prompt", "negative", "loras", "reference_images", "webhook_url", *BOUNDS}
LIMITED: tuple[Literal["concurrency", "rate_limit"], ...] = ("concurrency", "rate_limit")
PROBLEM = "application/problem+json"
PAGE = 50
BATCH = 1000


class Problem(Exception):
    """An error answer (RFC 9457)."""

    def __init__(self, code: str, words: str, *, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        super().__init__(words)
        self.code = code
        self.headers = headers or {}
        self.members = members

    def response(self) -> Response:
        status = STATUSES[self.code]
        told = {"type": "about:blank", "title": self.code, "status": status, "detail": str(self)}
        told |= {"success": False, "error": str(self), "code": self.code, "retryable": status == 429}
        headers = {"Retry-After": "5"} if status == 429 else {}
        return json_response(status, told | self.members, headers | dict(self.headers), media_type=PROBLEM)


@dataclass(frozen=True, slots=True)
class Call:
    """A request on its way to its handler."""

    request: Recorded
    name: str
    """What stands in the path where the route has its variable."""
    gone: asyncio.Event


Handler = Callable[[Call], Awaitable[Response]]


class Modern:
    """Jobs that outlive a restart, calls that are held, and every header of the contract."""

    session_id = "sid_0123456789abcdef0123456789abcdef"

    def __init__(self, world: World) -> None:
        self._world = world
        self._idempotent: dict[str, tuple[bytes, ServerJob]] = {}
        self._calls: dict[str, tuple[float, int]] = {}
        self._routes: list[tuple[str, str, Handler]] = [
            ("POST", r"/api/v1/generate", self._generate),
            ("GET", r"/api/v1/status/([^/]+)", self._status),
            ("POST", r"/api/v1/status", self._statuses),
            ("POST", r"/api/v1/cancel/([^/]+)", self._cancel),
            ("GET", r"/api/v1/jobs", self._jobs),
            ("GET", r"/api/v1/capabilities", self._capabilities),
            ("GET", r"/outputs/(.+)", self._output),
            ("GET", r"/healthz", self._healthz),
            ("GET", r"/readyz", self._readyz),
        ]

    def restart(self) -> None:
        """Nothing is forgotten but how often who called."""
        self._calls.clear()

    async def answer(self, request: Recorded, address: str, gone: asyncio.Event) -> Response:
        try:
            if request.path in self._world.exact and request.method in ("GET", "HEAD"):
                return _file(request, self._world.exact[request.path])
            if request.route.startswith("/api/"):
                self._admit(request, address)
            handler, name = self._handler(request)
            return await handler(Call(request, name, gone))
        except Problem as problem:
            return problem.response()

    def _admit(self, request: Recorded, address: str) -> None:
        """Check the key and count the call."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or key.strip() != self._world.settings.key:
            raise Problem("unauthorized", "this API key is not accepted", headers={"WWW-Authenticate": "Bearer"})
        limit, now = self._world.settings.limit("rate_limit"), self._world.now()
        since, count = self._calls.get(address, (now, 0))
        ends = since + self._world.settings.rate_window
        if now >= ends:
            since, count = now, 0
        self._calls[address] = since, count + 1
        if limit is not None and count >= limit:
            raise Problem("rate_limited", "too many calls", headers={"Retry-After": str(math.ceil(ends - now))})

    def _handler(self, request: Recorded) -> tuple[Handler, str]:
        method = "GET" if request.method == "HEAD" else request.method
        allowed = []
        for own, pattern, handler in self._routes:
            if match := re.fullmatch(pattern, request.route):
                if own == method:
                    return handler, unquote(match[1]) if match.lastindex else ""
                allowed.append(own)
        if allowed:
            raise Problem("method_not_allowed", "not with this method", headers={"Allow": ", ".join(allowed)})
        raise Problem("not_found", "there is nothing here")

    # --- making jobs ---

    async def _generate(self, call: Call) -> Response:
        data = _object(call.request)
        _check(data)
        key = call.request.headers.get("idempotency-key")
        mark = json.dumps(data, sort_keys=True).encode()
        if key is not None and key in self._idempotent:
            before, job = self._idempotent[key]
            if before != mark:
                raise Problem("idempotency_conflict", "this key was used for another request", job_id=job.id)
            return self._receipt(job, {"Idempotent-Replayed": "true"})
        if (other := self._world.in_the_way()) is not None:
            raise Problem("concurrent_limit", "another job is in the way", job_id=other.id)
        job = self._world.submit(data)
        if key is not None:
            self._idempotent[key] = mark, job
        return self._receipt(job, {})

    def _receipt(self, job: ServerJob, headers: Mapping[str, str]) -> Response:
        path = f"/api/v1/status/{job.id}"
        told = {
            "success": True,
            "job_id": job.id,
            "state": State.QUEUED,
            "message": "Job accepted.",
            "status_url": path,
            "retry_after_ms": 3000,
            "next": f"GET {path}",
            "warnings": [
                f"the field {name!r} is unknown and was ignored" for name in job.request if name not in FIELDS
            ],
        }
        headers = {"Location": path, "Retry-After": "3"} | dict(headers)
        return json_response(self._world.settings.submit_status, told, headers)

    async def _cancel(self, call: Call) -> Response:
        job = self._find(call)
        self._world.cancel(job)
        return json_response(200, self._wire(job))

    # --- telling of them ---

    def _find(self, call: Call) -> ServerJob:
        job = self._world.find(call.name)
        if job is None:
            raise Problem("job_not_found", "there is no such job", job_id=call.name)
        return job

    def _etag(self, job: ServerJob) -> str:
        self._world.advance()
        return f'"{job.state}.{self._world.place(job) or 0}.{job.step(self._world.now())}"'

    async def _status(self, call: Call) -> Response:
        job, wait = self._find(call), self._wait(call)
        known = call.request.headers.get("if-none-match")
        if wait is not None:

            def news() -> bool:
                etag = self._etag(job)
                return job.state.over or (known is not None and etag != known)

            await self._world.hold(news, wait, call.gone)
        etag = self._etag(job)
        headers = {"ETag": etag, "Cache-Control": "no-store"} | _applied(wait)
        if (delay := self._delay(job)) is not None:
            headers["Retry-After"] = str(math.ceil(delay))
        return Response(304, headers) if etag == known else json_response(200, self._wire(job), headers)

    async def _statuses(self, call: Call) -> Response:
        data, wait = _object(call.request), self._wait(call)
        ids, since = data.get("job_ids"), data.get("since") or None
        if not isinstance(ids, list) or len(ids) > BATCH or not all(isinstance(job_id, str) for job_id in ids):
            raise Problem("invalid_request", f"job_ids must be at most {BATCH} strings", field="job_ids")
        if since is not None and not (isinstance(since, str) and re.fullmatch(r"\d{1,18}", since)):
            raise Problem("invalid_request", "since is no cursor of this server", field="since")
        found = {job_id: self._world.find(job_id) for job_id in ids}
        jobs = [job for job in found.values() if job is not None]

        def changed() -> list[ServerJob]:
            self._world.advance()
            return [job for job in jobs if since is None or job.changed > int(since)]

        if wait is not None and since is not None:
            await self._world.hold(lambda: bool(changed()), wait, call.gone)
        told = {
            "success": True,
            "jobs": [self._wire(job) for job in changed()],
            "unknown": [job_id for job_id, job in found.items() if job is None],
            "cursor": str(self._world.changes),
        }
        return json_response(200, told, _applied(wait))

    async def _jobs(self, call: Call) -> Response:
        query = {name: values[-1] for name, values in call.request.query.items()}
        limit, cursor, state = query.get("limit", str(PAGE)), query.get("cursor", ""), query.get("state")
        if not re.fullmatch(r"[1-9]\d{0,2}", limit):
            raise Problem("invalid_request", "limit must be 1 to 999", field="limit")
        if not re.fullmatch(r"\d{0,9}", cursor):
            raise Problem("invalid_request", "this is no cursor of this server", field="cursor")
        if state is not None and state not in tuple(State):
            raise Problem("invalid_request", "there is no such state", field="state")
        before = int(cursor) if cursor else math.inf
        jobs = [job for job in reversed(self._world.everything()) if job.index < before]
        jobs = [job for job in jobs if state is None or job.state == state]
        page, more = jobs[: int(limit)], len(jobs) > int(limit)
        told = {"jobs": [self._wire(job) for job in page], "next_cursor": str(page[-1].index) if more else None}
        return json_response(200, {"success": True} | told)

    def _wait(self, call: Call) -> int | None:
        """Seconds the caller asks to be held, as `Prefer: wait=N` or `?wait=N`."""
        prefer = re.search(r"(?:^|[,;\s])wait\s*=\s*(\d{1,6})", call.request.headers.get("prefer", ""), re.IGNORECASE)
        asked = prefer[1] if prefer else call.request.query.get("wait", [""])[0]
        return min(int(asked), int(self._world.settings.max_wait)) if re.fullmatch(r"\d{1,6}", asked) else None

    def _left(self, job: ServerJob) -> float | None:
        """Seconds until a running job ends."""
        left = job.ends - self._world.now()
        return max(0.0, left) if job.state is State.RUNNING and math.isfinite(left) else None

    def _delay(self, job: ServerJob) -> float | None:
        """Seconds after which it is worth to ask again."""
        if job.state.over:
            return None
        longest, left = 3.0 if job.state is State.QUEUED else 2.0, self._left(job)
        return longest if left is None else min(longest, max(1.0, left))

    def _wire(self, job: ServerJob) -> dict[str, Any]:
        world, delay, left = self._world, self._delay(job), self._left(job)
        seed = job.request.get("seed", -1)
        return {
            "success": True,
            "job_id": job.id,
            "state": job.state,
            "image_url": job.urls[0] if job.urls else None,
            "results": {"images": [{"url": url} for url in job.urls]},
            "error": job.error,
            "error_code": job.error_code,
            "queue_position": world.place(job),
            "eta_seconds": None if left is None else round(left, 1),
            "progress": {"step": job.step(world.now()), "total": job.steps},
            "created_at": world.millis(job.created),
            "started_at": world.millis(job.started),
            "completed_at": world.millis(job.ended),
            "engine": "fault-server",
            "seed": seed if seed >= 0 else job.index,
            "attempt": int(job.started is not None),
            "retry_after_ms": None if delay is None else int(1000 * delay),
            "next": "Download image_url." if job.urls else "Ask again after retry_after_ms.",
        }

    # --- about the server ---

    async def _capabilities(self, call: Call) -> Response:
        told = {
            "success": True,
            "engine": {"name": "fault-server", "kind": "procedural"},
            "limits": {name: self._world.settings.limit(name) for name in LIMITED},
            "calls": [f"{method} {path.replace('([^/]+)', '{job_id}')}" for method, path, _ in self._routes],
        }
        return json_response(200, told)

    async def _healthz(self, call: Call) -> Response:
        return json_response(200, {"status": "ok"})

    async def _readyz(self, call: Call) -> Response:
        return json_response(200, {"status": "ready"})

    # --- images ---

    async def _output(self, call: Call) -> Response:
        session_id, _, name = call.name.partition("/")
        if call.request.query.get("session_id") != [session_id]:
            raise Problem("forbidden_output", "session_id is missing or wrong")
        self._world.advance()
        output = self._world.outputs.get(name)
        if output is None or session_id != self.session_id:
            raise Problem("output_not_found", "there is no such output")
        return _file(call.request, output)


def _applied(wait: int | None) -> dict[str, str]:
    return {} if wait is None else {"Preference-Applied": f"wait={wait}"}


def _object(request: Recorded) -> dict[str, Any]:
    try:
        data = request.json()
    except ValueError:
        raise Problem("invalid_request", "the body is not valid JSON") from None
    if not isinstance(data, dict):
        raise Problem("invalid_request", "the body must be a JSON object")
    return data


def _check(data: Mapping[str, Any]) -> None:
    """Raise Problem unless these are the values of a request that makes sense."""
    wrong = []
    prompt = data.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > LIMITS.prompt_chars:
        wrong.append({"field": "prompt", "error": f"must have 1 to {LIMITS.prompt_chars} characters"})
    for name, (least, most) in BOUNDS.items():
        if name in data and not (type(data[name]) is int and least <= data[name] <= most):
            wrong.append({"field": name, "error": f"must be an integer from {least} to {most}"})
    if wrong:
        words = "; ".join(f"{item['field']}: {item['error']}" for item in wrong)
        raise Problem("invalid_request", words, field=wrong[0]["field"], errors=wrong)


def _digest(data: bytes) -> str:
    return f"sha-256=:{b64encode(hashlib.sha256(data).digest()).decode()}:"


def _file(request: Recorded, output: Output) -> Response:
    """An image with a strong validator and the digests of RFC 9530."""
    data, asked = output.data, request.headers
    headers = {
        "Content-Type": MEDIA_TYPES[output.name.rpartition(".")[2]],
        "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
        "Repr-Digest": _digest(data),
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
    }
    if asked.get("if-none-match") == headers["ETag"]:
        return Response(304, headers)
    answer = Response(200, headers, data)
    if asked.get("if-range", headers["ETag"]) == headers["ETag"]:
        try:
            span = byte_range(asked.get("range"), len(data))
        except Unsatisfiable:
            total = {"Content-Range": f"bytes */{len(data)}"}
            raise Problem("range_not_satisfiable", "the range is outside the file", headers=total) from None
        answer = answer if span is None else cut_to(answer, span)
    return answer.with_headers({"Content-Digest": _digest(answer.body)})
