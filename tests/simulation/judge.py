"""What must hold of every request, whatever went wrong before it."""

import re
from typing import TYPE_CHECKING

from simulation.exchange import Exchange, Place
from umrgen.client.flow import Options

if TYPE_CHECKING:
    from simulation.history import History

__all__ = ["BAD", "EPS", "Book", "Violation", "demand", "judge_step", "most_delay", "note"]

EPS = 1e-6
BAD = ("lost", "transient", "garbage")
"""Kinds of answers that wear patience out."""
OWN_PATH = re.compile(r"/(healthz|api/v1(/[A-Za-z0-9_.~%-]+)+)")


class Violation(Exception):
    """A promise was broken."""


def demand(condition: bool, words: str) -> None:
    if not condition:
        raise Violation(words)


class Book:
    """What the client was told on one path, as the judge keeps it."""

    __slots__ = (
        "bad_since",
        "changed_at",
        "ended",
        "failures",
        "garbage",
        "imageless",
        "last",
        "news",
        "place",
        "queued_since",
    )

    def __init__(self, now: float) -> None:
        self.last: Exchange | None = None
        self.place: Place | None = None
        self.news = False
        """Whether the last answer told a place that was not known."""
        self.changed_at = now
        self.queued_since = now
        self.bad_since: float | None = None
        self.failures = 0
        self.garbage = 0
        self.imageless = 0
        self.ended = False

    def overdue(self, options: Options) -> bool:
        """Whether the job was told to be queued beyond what the options allow."""
        if options.queue_timeout is None or self.last is None or self.last.kind not in ("status", "same"):
            return False
        queued = self.place is not None and self.place[0] == "queued"
        return queued and self.last.at - self.queued_since >= options.queue_timeout


def judge_step(history: "History", exchange: Exchange) -> None:
    step, run = exchange.step, history.run
    demand(OWN_PATH.fullmatch(step.path) is not None, "a request left its origin")
    demand(step.delay >= 0, "a delay below zero")
    demand(exchange.sent_at < run.deadline + EPS, "a request was sent after the deadline")
    demand(0 < step.timeout <= run.deadline - exchange.sent_at + EPS, "a request may outlast the deadline")
    most = 1.1 * run.options.longest_delay + EPS
    demand(step.delay <= most or run.budget.limited, "a delay longer than any that was asked for")
    if step.path == "/api/v1/generate":
        _judge_submit(history, exchange)
    book = history.book(step)
    if book.last is not None:
        _judge_repeat(history, book, book.last, exchange)
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
    demand(safe, "a submit that may have arrived was repeated, and the server had not said that it keeps keys")
    demand(sum(job.key == key for job in history.world.made) <= 1, "one submit made two jobs")


def _judge_repeat(history: "History", book: Book, before: Exchange, exchange: Exchange) -> None:
    """The same is asked again: not too soon, not after the end, not beyond all patience."""
    options = history.run.options
    gap, least = exchange.sent_at - before.at, _least_gap(history, book, before)
    demand(gap >= least - EPS, f"asked again after {gap:.3f} s, at least {least:.3f} s were due ({before.kind})")
    if not exchange.step.path.startswith("/api/v1/status"):
        return
    demand(not book.ended and book.imageless < 2, "asked again for a job that was told to be over")
    for job_id in history.told_over:
        demand(f'"{job_id}"'.encode() not in (exchange.step.body or b""), "asked again for one that was over")
    waited = 0.0 if book.bad_since is None else exchange.sent_at - book.bad_since
    slack = 60.0 if history.run.budget.limited or before.kind == "limited" or history.scenario == "many" else 0.0
    demand(before.kind not in BAD or waited <= options.patience + slack + EPS, "its patience has no end")
    demand(not book.overdue(options), "it waits on, and the time for being queued is over")


def _backoff(options: Options, failures: int) -> float:
    return min(options.longest_backoff, options.first_backoff * 2.0 ** max(0, min(failures, 16) - 1))


def _asked(options: Options, before: Exchange) -> float | None:
    known = before.asked is not None and before.asked >= 0
    return min(before.asked or 0.0, options.longest_delay) if known else None


def _least_gap(history: "History", book: Book, before: Exchange) -> float:
    """Seconds that must pass after an answer before the same is asked again."""
    options, asked = history.run.options, _asked(history.run.options, before)
    looking = before.step.path.startswith("/api/v1/status")
    match before.kind:
        case "lost" | "transient":
            return max(_backoff(options, book.failures if looking else 1), asked or 0.0)
        case "garbage":
            return options.running_interval if looking else options.first_backoff
        case "limited" if before.busy is not None or b"concurrent_limit" in before.body:
            # Once the job in the way is seen to be over, at once; else not in a storm.
            return 0.0 if history.exchanges[-1] is not before else 0.25
        case "limited" if before.asked is None:
            return 2 * options.queued_interval
        case "limited":
            return max(asked or 0.0, options.first_backoff)
        case "batch":
            return 0.03 if before.held or book.news else options.running_interval * (1 - options.jitter)
        case "status" | "same" if before.held:
            return 0.0
        case "status" | "same" if book.place is not None and book.place[0] == "completed":
            return options.running_interval
        case "status" | "same" if before.etag and book.news:
            return options.running_interval / 8
        case "status" | "same" if asked is not None:
            return max(asked, options.running_interval / 2)
        case "status" | "same":
            queued = book.place is not None and book.place[0] == "queued"
            return (options.queued_interval if queued else options.running_interval) * (1 - options.jitter)
    return 0.0


def most_delay(history: "History", before: Exchange) -> float:
    """Seconds that the client may at most let pass after an answer before it asks on."""
    options, asked = history.run.options, _asked(history.run.options, before)
    upwards = 1 + options.jitter
    match before.kind:
        case "lost" | "transient" | "garbage":
            failures = sum(exchange.kind in BAD for exchange in history.exchanges)
            most = max(_backoff(options, failures), asked or 0.0, options.running_interval) * upwards
        case "limited":
            most = (options.longest_delay if asked is None else max(asked, options.longest_backoff)) * upwards
        case "status" | "same" | "batch" if asked is not None:
            most = max(asked, options.running_interval / 2) * upwards
        case _:
            most = options.queued_interval * upwards
    if history.scenario == "many" and before.step.method == "GET":
        most = max(most, options.longest_delay)  # those further back come seldom
    return most + (60.0 if history.run.budget.limited else 0.0)


def _judge_budget(history: "History", exchange: Exchange) -> None:
    burst = 8 + 2 * len(history.job_ids)
    if len(history.exchanges) >= burst:
        demand(exchange.sent_at - history.exchanges[-burst].sent_at >= 1.0, "a storm of requests")
    count = history.run.options.requests_a_minute
    if history.limited_at is None or len(history.exchanges) < count or exchange.sent_at <= history.limited_at:
        return
    first = history.exchanges[-count].sent_at
    demand(exchange.sent_at - first >= 60.0 - EPS, f"more than {count} requests in a minute")


# --- keeping the books ---------------------------------------------------------------------------------


def note(history: "History", exchange: Exchange) -> None:
    """Remember what the client has now been told."""
    book = history.book(exchange.step)
    book.last, book.news = exchange, False
    if exchange.kind in BAD:
        book.failures += 1
        book.garbage += exchange.kind == "garbage"
        if book.bad_since is None:
            book.bad_since = exchange.at
        return
    if exchange.kind == "limited":
        return
    book.bad_since, book.failures, book.garbage = None, 0, 0
    if exchange.kind == "status" and exchange.place is not None:
        book.news = exchange.place != book.place
        if book.news:
            book.place, book.changed_at = exchange.place, exchange.at
        if exchange.place[0] == "completed" and not exchange.images:
            book.imageless += 1
        elif exchange.place[0] in ("completed", "failed"):
            book.ended = True
    if book.place is not None and book.place[0] != "queued":
        book.queued_since = exchange.at
    if exchange.kind == "batch":
        book.news = any(history.states.get(job_id) != state for job_id, state in exchange.jobs)
        history.states |= dict(exchange.jobs)
        history.told_over |= {name for name, state in exchange.jobs if state in ("completed", "failed", "unknown")}
