"""Checks of every request of the client."""

import re
from typing import TYPE_CHECKING

from simulation.exchange import Exchange, Place
from umrgen.client.flow import Options

if TYPE_CHECKING:
    from simulation.history import History

__all__ = ["BAD", "EPS", "CallRecord", "Violation", "check_request", "most_delay", "record_exchange", "require"]

EPS = 1e-6
BAD = ("lost", "transient", "garbage", "foreign")
"""Kinds of exchanges that use up a retry budget."""
OWN_PATH = re.compile(r"/(healthz|api/v1(/[A-Za-z0-9_.:~%-]+)+|api/(status|history)\?session_id=sid_ext_gen)")


class Violation(Exception):
    """The client broke a rule."""


def require(condition: bool, violation: str) -> None:
    """Raise Violation unless the condition holds."""
    if not condition:
        raise Violation(violation)


class CallRecord:
    """The responses to one method and path so far."""

    __slots__ = (
        "bad_since",
        "changed",
        "changed_at",
        "ended",
        "failures",
        "garbage",
        "imageless",
        "last",
        "place",
        "queued_since",
    )

    def __init__(self, now: float) -> None:
        self.last: Exchange | None = None
        self.place: Place | None = None
        self.changed = False
        """Whether the last response changed the job's place (state, position, step)."""
        self.changed_at = now
        self.queued_since = now
        self.bad_since: float | None = None
        self.failures = 0
        self.garbage = 0
        self.imageless = 0
        self.ended = False

    def overdue(self, options: Options) -> bool:
        """Return whether the job has been queued for longer than the options allow."""
        if options.queue_timeout is None or self.last is None or self.last.kind not in ("status", "same"):
            return False
        queued = self.place is not None and self.place[0] == "queued"
        return queued and self.last.at - self.queued_since >= options.queue_timeout


def check_request(history: "History", exchange: Exchange) -> None:
    """Raise Violation for a request that the client should not have sent."""
    step, context = exchange.step, history.context
    require(OWN_PATH.fullmatch(step.path) is not None, "a request was sent to another origin")
    require(step.delay >= 0, "a negative delay")
    require(exchange.sent_at < context.deadline + EPS, "a request was sent after the deadline")
    require(0 < step.timeout <= context.deadline - exchange.sent_at + EPS, "a request may outlast the deadline")
    most = 1.1 * context.options.longest_delay + EPS
    require(step.delay <= most or context.budget.limited, "a delay longer than any that was requested")
    if step.path == "/api/v1/generate":
        _check_submit(history, exchange)
    record = history.record(step)
    if record.last is not None:
        _check_repeat(history, record, record.last, exchange)
    _check_budget(history, exchange)


def _check_submit(history: "History", exchange: Exchange) -> None:
    step = exchange.step
    key = step.headers.get("Idempotency-Key")
    require(bool(key), "a submit without a key")
    safe = True
    for other in history.exchanges:
        if other.step.path == step.path:
            same = other.step.headers["Idempotency-Key"] == key and other.step.body == step.body
            require(same, "a submit was repeated with another key or body")
            safe = safe and not other.ambiguous
        elif other.kind == "healthy":
            safe = True
    require(
        safe, "a submit that may have arrived was repeated, and the server had not shown that it has idempotency keys"
    )
    require(sum(job.key == key for job in history.server.created) <= 1, "one submit created two jobs")


def _check_repeat(history: "History", record: CallRecord, before: Exchange, exchange: Exchange) -> None:
    """Check a repeated request: not too early, not after the job's end, and within the patience."""
    options = history.context.options
    gap, least = exchange.sent_at - before.at, _least_gap(history, record, before)
    require(
        gap >= least - EPS, f"requested again after {gap:.3f} s, at least {least:.3f} s are required ({before.kind})"
    )
    if not exchange.step.path.startswith("/api/v1/status"):
        return
    require(not record.ended and record.imageless < 2, "requested again for a job that had ended")
    for job_id in history.reported_over:
        require(
            f'"{job_id}"'.encode() not in (exchange.step.body or b""),
            "requested again for a job of a batch that had ended",
        )
    waited = 0.0 if record.bad_since is None else exchange.sent_at - record.bad_since
    slack = 60.0 if history.context.budget.limited or before.kind == "limited" or history.scenario == "many" else 0.0
    require(before.kind not in BAD or waited <= options.patience + slack + EPS, "retried beyond its patience")
    require(not record.overdue(options), "waited on although queue_timeout had passed")


def _backoff(options: Options, failures: int) -> float:
    return min(options.longest_backoff, options.first_backoff * 2.0 ** max(0, min(failures, 16) - 1))


def _requested_delay(options: Options, before: Exchange) -> float | None:
    known = before.requested_delay is not None and before.requested_delay >= 0
    return min(before.requested_delay or 0.0, options.longest_delay) if known else None


def _least_gap(history: "History", record: CallRecord, before: Exchange) -> float:
    """Return the seconds that must pass after an exchange before the same request is sent again."""
    options, requested = history.context.options, _requested_delay(history.context.options, before)
    polling = before.step.path.startswith("/api/v1/status")
    match before.kind:
        case "lost" | "transient":
            # The search for a lost job is of several calls, each with a backoff of its own.
            failures = record.failures if polling and not history.submitting else 1
            return max(_backoff(options, failures), requested or 0.0)
        case "garbage" | "foreign":
            return options.running_interval if polling else options.first_backoff
        case "limited" if before.blocking is not None or b"concurrent_limit" in before.body:
            # Immediately after the blocking job was seen to end; otherwise after a short delay.
            return 0.0 if history.exchanges[-1] is not before else 0.25
        case "limited" if before.requested_delay is None:
            return options.first_backoff
        case "limited":
            return max(requested or 0.0, options.first_backoff)
        case "batch":
            return 0.03 if before.long_poll or record.changed else options.running_interval * (1 - options.jitter)
        case "status" | "same" if before.long_poll:
            return 0.0
        case "status" | "same" if record.place is not None and record.place[0] == "completed":
            return options.running_interval
        case "status" | "same" if before.etag and record.changed:
            return options.running_interval / 8
        case "status" | "same" if requested is not None:
            return max(requested, options.running_interval / 2)
        case "status" | "same":
            queued = record.place is not None and record.place[0] == "queued"
            return (options.queued_interval if queued else options.running_interval) * (1 - options.jitter)
    return 0.0


def most_delay(history: "History", before: Exchange) -> float:
    """Return the longest delay, in seconds, between an exchange and the next request."""
    options, requested = history.context.options, _requested_delay(history.context.options, before)
    upwards = 1 + options.jitter
    match before.kind:
        case "lost" | "transient" | "garbage" | "foreign":
            failures = sum(exchange.kind in BAD for exchange in history.exchanges)
            most = max(_backoff(options, failures), requested or 0.0, options.running_interval) * upwards
        case "limited":
            most = (options.longest_delay if requested is None else max(requested, options.longest_backoff)) * upwards
        case "status" | "same" | "batch" if requested is not None:
            most = max(requested, options.running_interval / 2) * upwards
        case _:
            most = options.queued_interval * upwards
    if history.scenario == "many" and before.step.method == "GET":
        most = max(most, options.longest_delay)  # the last jobs of a batch are polled less often
    return most + (60.0 if history.context.budget.limited else 0.0)


def _check_budget(history: "History", exchange: Exchange) -> None:
    burst = 8 + 2 * len(history.job_ids)
    if len(history.exchanges) >= burst:
        require(exchange.sent_at - history.exchanges[-burst].sent_at >= 1.0, "too many requests in a second")
    count = history.context.options.requests_a_minute
    if history.limited_at is None or len(history.exchanges) < count or exchange.sent_at <= history.limited_at:
        return
    first = history.exchanges[-count].sent_at
    require(exchange.sent_at - first >= 60.0 - EPS, f"more than {count} requests in a minute")


# --- records -------------------------------------------------------------------------------------------


def record_exchange(history: "History", exchange: Exchange) -> None:
    """Add an exchange to the records."""
    record = history.record(exchange.step)
    record.last, record.changed = exchange, False
    if exchange.kind in BAD:
        record.failures += 1
        record.garbage += exchange.kind == "garbage"
        if record.bad_since is None:
            record.bad_since = exchange.at
        return
    if exchange.kind == "limited":
        return
    record.bad_since, record.failures, record.garbage = None, 0, 0
    if exchange.kind == "status" and exchange.place is not None:
        record.changed = exchange.place != record.place
        if record.changed:
            record.place, record.changed_at = exchange.place, exchange.at
        if exchange.place[0] == "completed" and not exchange.images:
            record.imageless += 1
        elif exchange.place[0] in ("completed", "failed"):
            record.ended = True
    if record.place is not None and record.place[0] != "queued":
        record.queued_since = exchange.at
    if exchange.kind == "batch":
        record.changed = any(history.states.get(job_id) != state for job_id, state in exchange.jobs)
        history.states |= dict(exchange.jobs)
        history.reported_over |= {name for name, state in exchange.jobs if state in ("completed", "failed", "unknown")}
