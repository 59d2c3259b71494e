"""Flows: rules that wait, without a clock, a socket or an `await`.

A *flow* is a generator: it yields a `Step` (what to send, and how long to wait before), receives a
`Reply`, and returns its result. A driver sends, sleeps, and throws `TransportFailure` in when there
was no answer. All time comes in with replies and failures, all chance through `Run.random`; so the
rules are one set for sync and async, and a test plays hours of them in a moment.
"""

import json
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from umrgen.errors import UmrgenError, WaitTimeout
from umrgen.model import Status

__all__ = [
    "Budget",
    "CallContext",
    "Event",
    "Flow",
    "Options",
    "Reply",
    "RetryBudget",
    "Step",
    "TransportFailure",
    "drive",
    "drive_async",
    "retry_after",
]


@dataclass(frozen=True, slots=True)
class Options:
    """Every number of the waiting, in seconds unless it says otherwise."""

    timeout: float | None = 600.0
    """Everything together: submitting, waiting, backing off, downloading. None: no end."""
    queue_timeout: float | None = None
    """Time a job may spend `queued`, of the time above."""
    wait: int = 25
    """How long to ask the server to hold a status call; below the idle limits of proxies. 0: never."""
    follow: bool = False
    """Whether a wait asks for every change on the way, to tell it, or for the end alone (fewer requests)."""
    queued_interval: float = 3.0
    """Between two looks at a queued job, when the server says nothing else."""
    running_interval: float = 2.0
    """Between two looks at a running job, when the server says nothing else."""
    jitter: float = 0.1
    """The share by which the two intervals vary at random, so that clients do not march in step."""
    eta_share: float = 0.55
    """The share of a server's estimate that passes before the first look: few jobs take less."""
    eta_interval: float = 10.0
    """The longest sleep on an estimate: they are often wrong, and an image may be early."""
    longest_delay: float = 60.0
    """What is left of any delay a server asks for."""
    requests_a_minute: int = 55
    """Calls to a server that knows no other way than being asked again; older ones refuse the 61st."""
    stall_after: float = 60.0
    """A job `running` for so long without a change is reported as stalled."""
    on_stall: Literal["report", "raise"] = "report"
    """Whether a stalled job is only reported, or ends the wait with JobStalled."""
    patience: float = 300.0
    """How long status calls outlast an unreachable or failing server, since its last good answer."""
    submit_patience: float = 10.0
    """How long a submit is tried again; nothing is at stake yet, and somebody may be watching."""
    first_backoff: float = 0.5
    """The delay after a first failure; it doubles with each further one."""
    longest_backoff: float = 15.0
    """The delay between failures grows no further than this."""
    request_timeout: float = 30.0
    """One request and its answer; a held call has `wait` on top."""
    connect_timeout: float = 10.0
    """Making a connection."""
    garbage_tries: int = 4
    """Answers in a row that make no sense, before a server never understood counts as not UMRGEN."""
    drip_rate: float = 1024.0
    """Bytes per second; a download slower than this over `drip_window` is broken off and resumed."""
    drip_window: float = 20.0
    """The span over which a download's rate is judged."""
    download_tries: int = 5
    """Times a download is taken up again without having got a byte further."""
    max_bytes: int = 256 * 1024 * 1024
    """The largest image that is accepted, in bytes."""
    follow_foreign: bool = False
    """Whether an image may be fetched from another origin than the server's (without the key)."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling while one waits.

    `kind`: submitted, status, stalled, retrying, slot, unknown_state, download, saved.
    """

    kind: str
    job_id: str | None = None
    message: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One request. `path` is relative to the base URL; `delay` seconds pass before it is sent."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None
    delay: float
    timeout: float


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. Header names are lower-case; `at` is the driver's monotonic clock, in seconds."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    at: float
    elapsed: float = 0.0
    """Seconds from sending to the whole answer."""
    wall: float = 0.0
    """Wall-clock seconds since the epoch, for dates in headers."""

    def json(self) -> dict[str, Any] | None:
        """The JSON object in the body, or None when there is none."""
        try:
            data = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return data if isinstance(data, dict) else None


class TransportFailure(Exception):
    """There was no answer. `sent` is False only when the request provably never arrived."""

    def __init__(self, reason: str, *, at: float, sent: bool) -> None:
        super().__init__(reason)
        self.at = at
        self.sent = sent


R = TypeVar("R")
Flow = Generator[Step, Reply, R]


def drive(flow: "Flow[R]", send: Callable[[Step], Reply], sleep: Callable[[float], None]) -> R:
    """Run a flow to its end: the synchronous driver. `send` raises TransportFailure."""
    try:
        step = next(flow)
        while True:
            if step.delay > 0:
                sleep(step.delay)
            try:
                reply = send(step)
            except TransportFailure as failure:
                step = flow.throw(failure)
            else:
                step = flow.send(reply)
    except StopIteration as end:
        result: R = end.value
        return result


async def drive_async(
    flow: "Flow[R]", send: Callable[[Step], Awaitable[Reply]], sleep: Callable[[float], Awaitable[None]]
) -> R:
    """Run a flow to its end: the asynchronous driver."""
    try:
        step = next(flow)
        while True:
            if step.delay > 0:
                await sleep(step.delay)
            try:
                reply = await send(step)
            except TransportFailure as failure:
                step = flow.throw(failure)
            else:
                step = flow.send(reply)
    except StopIteration as end:
        result: R = end.value
        return result


# --- one call's time, patience and voice ------------------------------------------------------------


def _silent(event: Event) -> None:
    pass


class Budget:
    """How often one server is asked in a minute, over everything that one client does there.

    Counts from the start, and limits once the server has shown that it needs it.
    """

    WINDOW = 60.0

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self._times: deque[float] = deque(maxlen=requests)
        self.limited = False

    def reserve(self, at: float) -> float:
        """The time, `at` or later, at which one more request fits."""
        if self.limited and len(self._times) == self._requests:
            at = max(at, self._times[0] + self.WINDOW)
        self._times.append(at)
        return at


class CallContext:
    """What all the flows of one call share: one deadline, the options, chance, and who is told."""

    def __init__(
        self,
        options: Options,
        now: float,
        *,
        notify: Callable[[Event], None] = _silent,
        random: Callable[[], float] = random.random,
        budget: Budget | None = None,
    ) -> None:
        self.options = options
        self.budget = budget or Budget(options.requests_a_minute)
        self.now = now
        self.ends = float("inf") if options.timeout is None else now + options.timeout
        self.notify = notify
        self.random = random

    @property
    def left(self) -> float:
        return self.ends - self.now

    def step(
        self,
        method: str,
        path: str,
        *,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        held: float = 0.0,
        job_id: str | None = None,
    ) -> Step:
        """A request that fits into the time left, and into the server's budget; `body` is bytes, or goes as JSON.

        Raises WaitTimeout when no time would be left.
        """
        if delay < self.left:
            delay = self.budget.reserve(self.now + delay) - self.now
        left = self.left - delay
        if left <= 0:
            raise self.timed_out(job_id)
        timeout = min(left, self.options.request_timeout + held)
        encoded = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return Step(method, path, headers or {}, encoded, delay, timeout)

    def hold(self, *limits: float) -> int:
        """Seconds to ask the server to hold a call: the option, cut to what is left and to `limits`."""
        room = min(self.left, *limits) if limits else self.left
        return max(0, min(self.options.wait, int(room - 1) if room < self.options.wait else self.options.wait))

    def timed_out(self, job_id: str | None) -> WaitTimeout:
        if job_id is None:
            return WaitTimeout(
                f"no job was made within {self.options.timeout:g} s", next="Try again, or allow more time."
            )
        return WaitTimeout(
            f"job {job_id} is not over after {self.options.timeout:g} s; it is still alive",
            job_id=job_id,
            next=f"Carry on with: umrgen wait {job_id}",
        )

    def vary(self, interval: float) -> float:
        """`interval`, give or take the jitter."""
        return interval * (1 + self.options.jitter * (2 * self.random() - 1))

    def asked(self, seconds: float) -> float:
        """A delay the server asked for: capped, and if varied then upwards only."""
        return min(seconds, self.options.longest_delay) * (1 + self.options.jitter * self.random())


class RetryBudget:
    """How long failures in a row are borne, and how far apart the tries are."""

    def __init__(self, run: CallContext, seconds: float) -> None:
        self._run = run
        self._seconds = seconds
        self._since: float | None = None
        self.failures = 0

    def good(self) -> None:
        self._since, self.failures = None, 0

    def bear(self, error: UmrgenError, asked: float | None = None, *, job_id: str | None = None) -> float:
        """Seconds until the next try. Raises `error` when it has gone on for too long."""
        run, options = self._run, self._run.options
        if self._since is None:
            self._since = run.now
        backoff = min(options.longest_backoff, options.first_backoff * 2.0 ** min(self.failures, 16))
        delay = max(run.asked(asked or 0.0), backoff * (1 + options.jitter * run.random()))
        self.failures += 1
        if run.now + delay - self._since > self._seconds:
            raise error
        if job_id is None and delay >= run.left:
            raise error  # the deadline comes first, and there is no job yet to speak of
        run.notify(Event("retrying", job_id, str(error), {"delay": round(delay, 2), "code": error.code}))
        return delay


def retry_after(reply: Reply) -> float | None:
    """Seconds that `Retry-After` asks for (RFC 9110: a number or a date), or None if it says nothing.

    A date is read against the answer's own `Date`, so that a wrong clock on either side is harmless.
    """
    text = reply.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    from email.utils import parsedate_to_datetime  # seldom needed, and slow to import

    try:
        then = parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return None
    try:
        now = parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
    except (TypeError, ValueError):
        now = reply.wall
    return max(0.0, then - now)
