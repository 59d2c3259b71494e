"""Flows: the client's waiting rules as generators that do no I/O.

A *flow* yields a `Step` (the request to send, and the delay before it), receives a `Reply`, and returns its result.
A driver sends and sleeps, and throws `TransportFailure` into the flow when there was no response. The current time
arrives with replies and failures, and random numbers come from `CallContext.random`. So sync and async clients share
one set of rules, and a test plays hours of waiting without a clock.
"""

import json
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from umrgen.client.responses import MAX_BODY
from umrgen.errors import UmrgenError, WaitTimeout
from umrgen.model import Status

__all__ = [
    "CallContext",
    "Event",
    "Flow",
    "Options",
    "Reply",
    "RequestBudget",
    "RetryBudget",
    "Step",
    "TransportFailure",
    "drive",
    "drive_async",
    "http_date",
    "retry_after",
    "seconds_to_next_minute",
    "server_time",
]


@dataclass(frozen=True, slots=True)
class Options:
    """All limits and intervals of the client, in seconds unless stated otherwise."""

    timeout: float | None = 600.0
    """The deadline for a whole call: submit, wait, back off, download. None: no deadline."""
    queue_timeout: float | None = None
    """The longest time a job may be `queued`, within `timeout`. None: no limit."""
    wait: int = 25
    """The longest long poll to request; below the idle limits of common proxies. 0: no long polls."""
    follow: bool = False
    """Whether a wait requests each change of the status, to report it, or only the final one (fewer requests)."""
    queued_interval: float = 3.0
    """The interval between status calls for a queued job, unless the server sets another."""
    running_interval: float = 2.0
    """The interval between status calls for a running job, unless the server sets another."""
    jitter: float = 0.1
    """The share by which both intervals vary at random, so that clients do not poll in step."""
    eta_share: float = 0.55
    """The share of the server's estimate that passes before the first status call: few jobs take less."""
    eta_interval: float = 10.0
    """The longest sleep based on an estimate: estimates are often wrong, and an image may be early."""
    longest_delay: float = 60.0
    """The cap on any delay that the server requests."""
    requests_a_minute: int = 55
    """Calls per minute to a server without long polls; older servers refuse the 61st."""
    stall_after: float = 60.0
    """A job that is `running` for this long without a change is reported as stalled."""
    on_stall: Literal["report", "raise"] = "report"
    """Whether a stalled job is only reported, or ends the wait with JobStalled."""
    patience: float = 300.0
    """How long status calls are retried while the server is unreachable or failing, since its last valid response."""
    submit_patience: float = 10.0
    """How long a submit is retried; shorter, because no job exists yet and a user may be waiting."""
    first_backoff: float = 0.5
    """The delay after the first failure; it doubles with each further one."""
    longest_backoff: float = 15.0
    """The cap on the delay between retries."""
    request_timeout: float = 30.0
    """The timeout of one request and its response; a long poll adds its `wait`."""
    connect_timeout: float = 10.0
    """The timeout for opening a connection."""
    garbage_tries: int = 4
    """Invalid responses in a row until a server that never sent a valid one is reported as not UMRGEN."""
    drip_rate: float = 1024.0
    """Bytes per second; a download slower than this over `drip_window` is aborted and resumed."""
    drip_window: float = 20.0
    """The span over which a download's rate is measured."""
    download_tries: int = 5
    """Attempts in a row without a new byte until a download fails."""
    max_bytes: int = 256 * 1024 * 1024
    """The largest image that is accepted, in bytes."""
    follow_foreign: bool = False
    """Whether an image may be fetched from another origin than the server's (without the key)."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened during a wait, for the `on_event` callback.

    `kind` is one of: submitted, status, stalled, retrying, slot, unknown_state, warning, download, saved. A warning
    reports what of the request the server did not do.
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
    limit: int = MAX_BODY
    """Bytes: a larger response is not read to its end, and counts as none."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response. Header names are lower-case; `at` is the driver's monotonic clock, in seconds."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    at: float
    elapsed: float = 0.0
    """Seconds from sending the request to the end of the response."""
    wall: float = 0.0
    """Wall-clock seconds since the epoch, for dates in headers."""

    data: Mapping[str, Any] | None = None
    """The JSON object in the body, if it is one, by `read_object`: a transport parses it before it measures `at`."""

    def json(self) -> Mapping[str, Any] | None:
        """Return `data`."""
        return self.data


class TransportFailure(Exception):
    """No response was received. `sent` is False only when the request certainly did not reach the server.

    `server`: the base URL, for the message.
    """

    def __init__(self, reason: str, *, at: float, sent: bool, server: str = "") -> None:
        super().__init__(reason)
        self.at = at
        self.sent = sent
        self.server = server


STANDSTILL = 2.0
"""Seconds after the end of a request's time until which the driver reports it; later, the process did not run."""
LAST_LOOK = 10.0
"""Seconds that a call has after a standstill in which its deadline passed: for a last status, and the image."""

R = TypeVar("R")
Flow = Generator[Step, Reply, R]


def drive(flow: "Flow[R]", send: Callable[[Step], Reply], sleep: Callable[[float], None]) -> R:
    """Run a flow to its end, synchronously. `send` raises TransportFailure."""
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
    """Run a flow to its end, asynchronously. `send` raises TransportFailure."""
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


# --- the state that the flows of one call share -----------------------------------------------------


def _ignore(event: Event) -> None:
    pass


class RequestBudget:
    """Limits the requests that one client sends to one server per minute.

    All requests are counted; the limit applies only after `limited` is set.
    """

    WINDOW = 60.0

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self._times: deque[float] = deque(maxlen=requests)
        self._paused_until = 0.0
        self.limited = False

    def pause(self, until: float) -> None:
        """Send no request before `until`, and apply the limit from now on."""
        self._paused_until = max(self._paused_until, until)
        self.limited = True

    def reserve(self, at: float) -> float:
        """Return the earliest time, not before `at`, at which one more request fits, and count it."""
        at = max(at, self._paused_until)
        if self.limited and len(self._times) == self._requests:
            at = max(at, self._times[0] + self.WINDOW)
        self._times.append(at)
        return at


class CallContext:
    """State that all flows of one call share: the deadline, the options, randomness and the event callback."""

    def __init__(
        self,
        options: Options,
        now: float,
        *,
        notify: Callable[[Event], None] = _ignore,
        random: Callable[[], float] = random.random,
        budget: RequestBudget | None = None,
    ) -> None:
        self.options = options
        self.budget = budget or RequestBudget(options.requests_a_minute)
        self.now = now
        self.deadline = float("inf") if options.timeout is None else now + options.timeout
        self.stood_still = 0.0
        """Seconds for which the process did not run: it was stopped, or its event loop was blocked."""
        self._step_ends = float("inf")
        self._looked_last = False
        self.status_due = now
        """The earliest time of the first status call of a wait; later than now after another call asked for the job."""
        self.notify = notify
        self.random = random

    def observe(self, at: float) -> None:
        """Set the current time.

        A process that was stopped (SIGSTOP, a paused container) finds that time has passed without it. When the
        deadline has passed in this way, the call has LAST_LOOK seconds more, once.
        """
        self.now, late = at, at - min(self._step_ends, self.deadline)
        self._step_ends = float("inf")
        if late <= STANDSTILL:
            return
        self.stood_still += late
        if at >= self.deadline and not self._looked_last:
            self._looked_last = True
            self.deadline = at + LAST_LOOK

    @property
    def running_time(self) -> float:
        """The current time without the seconds for which the process did not run: budgets for failures count it."""
        return self.now - self.stood_still

    @property
    def time_left(self) -> float:
        """The seconds until the deadline."""
        return self.deadline - self.now

    def step(
        self,
        method: str,
        path: str,
        *,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        long_poll: float = 0.0,
        limit: int = MAX_BODY,
        job_id: str | None = None,
    ) -> Step:
        """Return a request that fits into the time left and into the server's request budget.

        `body` is sent as it is when it is bytes, and as JSON otherwise; `long_poll` seconds are added to the timeout
        of the request. Raises WaitTimeout when no time would be left.
        """
        if delay < self.time_left:
            delay = self.budget.reserve(self.now + delay) - self.now
        left = self.time_left - delay
        if left <= 0:
            raise self.timeout_error(job_id)
        timeout = min(left, self.options.request_timeout + long_poll)
        self._step_ends = self.now + delay + timeout
        encoded = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return Step(method, path, headers or {}, encoded, delay, timeout, limit)

    def long_poll_seconds(self, *limits: float) -> int:
        """Return the `wait` to request of a long poll: the option, capped by the time left and by `limits`."""
        available = min((self.time_left, *limits))
        return max(0, int(available - 1) if available < self.options.wait else self.options.wait)

    def timeout_error(self, job_id: str | None) -> WaitTimeout:
        """Return the error for a deadline that has passed."""
        within = self.within()
        if job_id is None:
            return WaitTimeout(f"no job was created {within}", next="Try again, or set a longer timeout.")
        return WaitTimeout(
            f"job {job_id} did not finish {within}; it continues on the server",
            job_id=job_id,
            next=f"Continue with: umrgen wait {job_id}",
        )

    def within(self) -> str:
        """Return the phrase for the timeout of the call, in an error: `within 600 s`."""
        stopped = self.stood_still
        note = f" (for {stopped:.0f} s of the time, this program was stopped or blocked)" if stopped else ""
        return f"within {self.options.timeout:g} s{note}"

    def with_jitter(self, interval: float) -> float:
        """Return `interval`, varied at random by the jitter in both directions."""
        return interval * (1 + self.options.jitter * (2 * self.random() - 1))

    def server_delay(self, seconds: float) -> float:
        """Return a delay that the server requested: capped, and varied upwards only."""
        return min(seconds * (1 + self.options.jitter * self.random()), self.options.longest_delay)


class RetryBudget:
    """Computes the backoff between retries, and raises when failures have continued for too long."""

    def __init__(self, context: CallContext, seconds: float) -> None:
        self._context = context
        self._seconds = seconds
        self._since: float | None = None
        self.failures = 0

    def reset(self) -> None:
        """Start the budget again after a success."""
        self._since, self.failures = None, 0

    def next_delay(self, error: UmrgenError, requested: float | None = None, *, job_id: str | None = None) -> float:
        """Return the seconds until the next retry, at least the `requested` ones. Raises `error` after the budget."""
        context, options = self._context, self._context.options
        if self._since is None:
            self._since = context.running_time
        backoff = min(options.longest_backoff, options.first_backoff * 2.0 ** min(self.failures, 16))
        delay = max(context.server_delay(requested or 0.0), backoff * (1 + options.jitter * context.random()))
        self.failures += 1
        if context.running_time + delay - self._since > self._seconds:
            raise error
        if job_id is None and delay >= context.time_left:
            raise error  # before there is a job, its last error is more useful than a WaitTimeout
        context.notify(Event("retrying", job_id, str(error), {"delay": round(delay, 2), "code": error.code}))
        return delay


def retry_after(reply: Reply) -> float | None:
    """Return the seconds of a `Retry-After` header (RFC 9110: a number or a date), or None without a valid one.

    A date is compared with the response's own `Date` header, so that a wrong clock on either side has no effect.
    """
    text = reply.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    then = http_date(text)
    return None if then is None else max(0.0, then - server_time(reply))


def server_time(reply: Reply) -> float:
    """Return the time of a response in seconds since the epoch: its `Date` header, or else this machine's clock."""
    date = http_date(reply.headers.get("date", ""))
    return reply.wall if date is None else date


def seconds_to_next_minute(reply: Reply) -> float:
    """Return the seconds until the server's clock begins its next minute, at which the first servers reset limits."""
    return 60.0 - server_time(reply) % 60.0


def http_date(text: str) -> float | None:
    """Return the seconds since the epoch of an HTTP date (RFC 9110), or None for any other text."""
    if not re.fullmatch(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [12][0-9]{3} [0-9:]{8} GMT", text):
        return None
    from email.utils import parsedate_to_datetime  # rarely needed, and slow to import

    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, OSError):  # a day or a year that does not exist
        return None
