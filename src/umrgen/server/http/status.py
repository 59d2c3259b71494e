"""`GET /api/v1/status/{job_id}`: the call that is made most, so a plain ASGI handler ahead of the router."""

import asyncio
import logging
import math
import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec
from starlette.types import Receive, Scope, Send

from umrgen.jobs import Job, JobAnswer, State, job_to_wire, retry_after_ms
from umrgen.server.http import Services
from umrgen.server.http.auth import authenticate
from umrgen.server.http.disconnect import CancelledOnDisconnect
from umrgen.server.http.problems import Problem
from umrgen.server.http.responses import Answer
from umrgen.server.ledger import Key, LedgerUnavailable
from umrgen.server.services.job_lookup import find_job
from umrgen.server.services.refusal import Refusal

__all__ = ["PATH", "View", "requested_wait", "status", "to_problem"]

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


class View:
    """A job as it is answered now, with what decides whether it has changed."""

    def __init__(self, services: Services, job: Job, position: int | None) -> None:
        self._services = services
        self.job = job
        self.position = position
        self.eta = services.estimates.seconds_left(job, position)
        self.etag = b'"%b.%d.%d.%d"' % (job.state.encode(), job.attempt, job.step, position or 0)

    @classmethod
    async def of(cls, services: Services, job_id: str, session_id: str) -> "View":
        """Raises Refusal `job_not_found`, for another session's job too."""
        return await cls.of_job(services, await find_job(services.ledger, session_id, job_id))

    @classmethod
    async def of_job(cls, services: Services, job: Job) -> "View":
        position = await services.ledger.queue_position(job) if job.state is State.QUEUED else None
        return cls(services, job, position)

    @property
    def place(self) -> tuple[Any, ...]:
        """Where the job stands, but for the step it is at."""
        return (self.job.state, self.job.attempt, self.position)

    def wire(self) -> JobAnswer:
        sign = self._services.signatures.sign
        return job_to_wire(self.job, queue_position=self.position, eta_seconds=self.eta, sign=sign)

    def body(self) -> bytes:
        """The wire form as JSON."""
        return msgspec.json.encode(self.wire())

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"etag", self.etag), *_FIXED]
        if (delay := retry_after_ms(self.job, self.eta)) is not None:
            headers.append((b"retry-after", b"%d" % math.ceil(delay / 1000)))
        return headers


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
    known = headers.get(b"if-none-match", b"").strip().removeprefix(b"W/") or None
    del headers  # thousands of calls may wait below
    job = await find_job(services.ledger, key.session_id, unquote(scope["path"][len(PATH) :]))
    if not job.over and wait:
        if services.waits.full(key.id):
            wait = None  # answered at once, without Preference-Applied: the client polls on at its own pace
        else:
            job = await _long_poll(services, key, job, wait, known)
    return await _answer_about(services, job, wait, known)


async def _long_poll(services: Services, key: Key, job: Job, wait: int, known: bytes | None) -> Job:
    """Wait until the job is over, or differs from the version the client knows, or `wait` seconds have passed."""
    until = asyncio.get_running_loop().time() + wait
    with services.waits.subscribe([job.id], owner=key.id, queue=known is not None) as subscription:
        while True:
            job = await find_job(services.ledger, job.session_id, job.id)
            if job.over or (known is not None and (await View.of_job(services, job)).etag != known):
                return job
            if not await subscription.wait(until):
                return await find_job(services.ledger, job.session_id, job.id)


async def _answer_about(services: Services, job: Job, wait: int | None, known: bytes | None) -> Answer:
    """The answer to a client that asked for a long poll of `wait` seconds, if at all, and knows the version `known`."""
    if not job.over or known is not None or services.signatures.wanted:  # a signed URL is new in each answer
        return _encode(await View.of_job(services, job), wait, known)
    answer = services.terminal_responses.get(job, wait)
    if answer is None:
        answer = _encode(View(services, job, None), wait, None)
        services.terminal_responses.put(job, wait, answer)
    return answer


def _encode(view: View, wait: int | None, known: bytes | None) -> Answer:
    headers = view.headers()
    if wait is not None:
        headers.append((b"preference-applied", b"wait=%d" % wait))
    if known == view.etag:
        return 304, headers, b""
    body = view.body()
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return 200, headers, body
