"""The rules for each request of the client, after any sequence of faults."""

import re
from typing import TYPE_CHECKING

from simulation.exchange import Exchange, Place
from umrgen.client.flow import Options

if TYPE_CHECKING:
    from simulation.history import History

__all__ = ["BAD", "EPS", "PathRecord", "Violation", "demand", "judge_step", "most_delay", "record"]

EPS = 1e-6
BAD = ("lost", "transient", "garbage")
"""Kinds of responses that count as failures in the client's retry budget."""
OWN_PATH = re.compile(r"/(healthz|api/v1(/[A-Za-z0-9_.~%-]+)+)")


class Violation(Exception):
    """The client has violated a rule."""


def demand(condition: bool, message: str) -> None:
    if not condition:
        raise Violation(message)


class PathRecord:
    """The responses that the client has received on one path."""

    __slots__ = (
        "bad_since",
        "changed_at",
        "ended",
        "failures",
        "garbage",
        "imageless",
        "last",
        "place",
        "place_changed",
        "queued_since",
    )

    def __init__(self, now: float) -> None:
        self.last: Exchange | None = None
        self.place: Place | None = None
        self.place_changed = False
        """Whether the last response had another place than the one before."""
        self.changed_at = now
        self.queued_since = now
        self.bad_since: float | None = None
        self.failures = 0
        self.garbage = 0
        self.imageless = 0
        self.ended = False

    def overdue(self, options: Options) -> bool:
        """Return whether the responses showed the job as queued for longer than the options allow."""
        if options.queue_timeout is None or self.last is None or self.last.kind not in ("status", "same"):
            return False
        queued = self.place is not None and self.place[0] == "queued"
        return queued and self.last.at - self.queued_since >= options.queue_timeout


def judge_step(history: "History", exchange: Exchange) -> None:
    step, run = exchange.step, history.run
    demand(OWN_PATH.fullmatch(step.path) is not None, "a request left its origin")
    demand(step.delay >= 0, "a negative delay")
    demand(exchange.sent_at < run.deadline + EPS, "a request was sent after the deadline")
    demand(0 < step.timeout <= run.deadline - exchange.sent_at + EPS, "a request may outlast the deadline")
    most = 1.1 * run.options.longest_delay + EPS
    demand(step.delay <= most or run.budget.limited, "a delay above the longest that the options allow")
    if step.path == "/api/v1/generate":
        _judge_submit(history, exchange)
    path = history.path_record(step)
    if path.last is not None:
        _judge_repeat(history, path, path.last, exchange)
    _judge_budget(history, exchange)


def _judge_submit(history: "History", exchange: Exchange) -> None:
    step = exchange.step
    key = step.headers.get("Idempotency-Key")
    demand(bool(key), "a submit without a key")
    safe = True
    for other in history.exchanges:
        if other.step.path == step.path:
            same = other.step.headers["Idempotency-Key"] == key and other.step.body == step.body
            demand(same, "a submit was repeated with another key or body")
            safe = safe and not other.ambiguous
        elif other.kind == "healthy":
            safe = True
    demand(safe, "a submit that may have arrived was repeated to a server that may not support idempotency keys")
    demand(sum(job.key == key for job in history.world.made) <= 1, "one submit made two jobs")


def _judge_repeat(history: "History", path: PathRecord, before: Exchange, exchange: Exchange) -> None:
    """Check a repeated request: not too early, not after the job's end, not after the retry budget is spent."""
    options = history.run.options
    gap, least = exchange.sent_at - before.at, _least_gap(history, path, before)
    demand(gap >= least - EPS, f"repeated after {gap:.3f} s instead of {least:.3f} s or more ({before.kind})")
    if not exchange.step.path.startswith("/api/v1/status"):
        return
    demand(not path.ended and path.imageless < 2, "a status call after a response with the job's end")
    for job_id in history.reported_over:
        demand(f'"{job_id}"'.encode() not in (exchange.step.body or b""), "a batch call for a job that is over")
    waited = 0.0 if path.bad_since is None else exchange.sent_at - path.bad_since
    slack = 60.0 if history.run.budget.limited or before.kind == "limited" or history.scenario == "many" else 0.0
    demand(before.kind not in BAD or waited <= options.patience + slack + EPS, "a retry after the budget was spent")
    demand(not path.overdue(options), "a status call after the queue timeout")


def _backoff(options: Options, failures: int) -> float:
    return min(options.longest_backoff, options.first_backoff * 2.0 ** max(0, min(failures, 16) - 1))


def _requested_delay(options: Options, before: Exchange) -> float | None:
    known = before.retry_after is not None and before.retry_after >= 0
    return min(before.retry_after or 0.0, options.longest_delay) if known else None


def _least_gap(history: "History", path: PathRecord, before: Exchange) -> float:
    """Return the least delay in seconds between a response and the next request of the same path."""
    options, requested = history.run.options, _requested_delay(history.run.options, before)
    polling = before.step.path.startswith("/api/v1/status")
    match before.kind:
        case "lost" | "transient":
            return max(_backoff(options, path.failures if polling else 1), requested or 0.0)
        case "garbage":
            return options.running_interval if polling else options.first_backoff
        case "limited" if before.busy is not None or b"concurrent_limit" in before.body:
            # No delay after the job that occupies the slot is seen to be over; otherwise a short one.
            return 0.0 if history.exchanges[-1] is not before else 0.25
        case "limited" if before.retry_after is None:
            return 2 * options.queued_interval
        case "limited":
            return max(requested or 0.0, options.first_backoff)
        case "batch":
            return 0.03 if before.held or path.place_changed else options.running_interval * (1 - options.jitter)
        case "status" | "same" if before.held:
            return 0.0
        case "status" | "same" if path.place is not None and path.place[0] == "completed":
            return options.running_interval
        case "status" | "same" if before.etag and path.place_changed:
            return options.running_interval / 8
        case "status" | "same" if requested is not None:
            return max(requested, options.running_interval / 2)
        case "status" | "same":
            queued = path.place is not None and path.place[0] == "queued"
            return (options.queued_interval if queued else options.running_interval) * (1 - options.jitter)
    return 0.0


def most_delay(history: "History", before: Exchange) -> float:
    """Return the longest delay in seconds that is allowed between a response and the next request."""
    options, requested = history.run.options, _requested_delay(history.run.options, before)
    upwards = 1 + options.jitter
    match before.kind:
        case "lost" | "transient" | "garbage":
            failures = sum(exchange.kind in BAD for exchange in history.exchanges)
            most = max(_backoff(options, failures), requested or 0.0, options.running_interval) * upwards
        case "limited":
            most = (options.longest_delay if requested is None else max(requested, options.longest_backoff)) * upwards
        case "status" | "same" | "batch" if requested is not None:
            most = max(requested, options.running_interval / 2) * upwards
        case _:
            most = options.queued_interval * upwards
    if history.scenario == "many" and before.step.method == "GET":
        most = max(most, options.longest_delay)  # jobs further back in the queue are polled less often
    return most + (60.0 if history.run.budget.limited else 0.0)


def _judge_budget(history: "History", exchange: Exchange) -> None:
    burst = 8 + 2 * len(history.job_ids)
    if len(history.exchanges) >= burst:
        demand(exchange.sent_at - history.exchanges[-burst].sent_at >= 1.0, f"{burst} requests within a second")
    count = history.run.options.requests_a_minute
    if history.limited_at is None or len(history.exchanges) < count or exchange.sent_at <= history.limited_at:
        return
    first = history.exchanges[-count].sent_at
    demand(exchange.sent_at - first >= 60.0 - EPS, f"more than {count} requests in a minute")


# --- recording the responses ---------------------------------------------------------------------------


def record(history: "History", exchange: Exchange) -> None:
    """Record a response that the client has received."""
    path = history.path_record(exchange.step)
    path.last, path.place_changed = exchange, False
    if exchange.kind in BAD:
        path.failures += 1
        path.garbage += exchange.kind == "garbage"
        if path.bad_since is None:
            path.bad_since = exchange.at
        return
    if exchange.kind == "limited":
        return
    path.bad_since, path.failures, path.garbage = None, 0, 0
    if exchange.kind == "status" and exchange.place is not None:
        path.place_changed = exchange.place != path.place
        if path.place_changed:
            path.place, path.changed_at = exchange.place, exchange.at
        if exchange.place[0] == "completed" and not exchange.images:
            path.imageless += 1
        elif exchange.place[0] in ("completed", "failed"):
            path.ended = True
    if path.place is not None and path.place[0] != "queued":
        path.queued_since = exchange.at
    if exchange.kind == "batch":
        path.place_changed = any(history.states.get(job_id) != state for job_id, state in exchange.jobs)
        history.states |= dict(exchange.jobs)
        history.reported_over |= {name for name, state in exchange.jobs if state in ("completed", "failed", "unknown")}
