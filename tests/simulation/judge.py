"""What must hold in every history, whatever went wrong in it."""

from typing import TYPE_CHECKING, Any

from simulation.exchange import Exchange
from umrgen import errors
from umrgen.jobs import Status

if TYPE_CHECKING:
    from simulation.history import History

__all__ = ["Violation", "judge_end", "judge_step"]

EPS = 1e-6


class Violation(Exception):
    """A promise was broken."""


def demand(condition: bool, words: str) -> None:
    if not condition:
        raise Violation(words)


# --- each request ------------------------------------------------------------------------------------


def judge_step(history: "History", exchange: Exchange) -> None:
    step, run = exchange.step, history.run
    demand(step.path.startswith("/") and not step.path.startswith("//"), "a request left its origin")
    demand(exchange.sent_at < run.ends + EPS, "a request was sent after the deadline")
    demand(0 < step.timeout <= run.ends - exchange.sent_at + EPS, "a request may outlast the deadline")
    if step.path == "/api/v1/generate":
        _judge_submit(history, exchange)
    _judge_pace(history, exchange)
    _judge_budget(history, exchange)


def _judge_submit(history: "History", exchange: Exchange) -> None:
    step = exchange.step
    earlier = [other.step for other in history.exchanges if other.step.path == step.path]
    demand(bool(step.headers.get("Idempotency-Key")), "a submit without a key")
    for other in earlier:
        same = other.headers["Idempotency-Key"] == step.headers["Idempotency-Key"] and other.body == step.body
        demand(same, "a submit was repeated with another key or body")
    made = sum(job.key == step.headers["Idempotency-Key"] for job in history.world.made)
    demand(made <= 1, "one submit made two jobs")


def _least_gap(history: "History", before: Exchange) -> float:
    """Seconds that must pass after an answer before the same is asked again."""
    options = history.run.options
    asked = min(before.asked, options.longest_delay) if before.asked is not None and before.asked >= 0 else None
    interval = options.running_interval * (1 - options.jitter)
    match before.kind:
        case "lost" | "transient":
            return max(options.first_backoff, asked or 0.0)
        case "garbage":
            return options.first_backoff
        case "limited" if before.busy is not None or b"concurrent_limit" in before.body:
            # Once the job in the way is seen to be over, at once; else not in a storm.
            return 0.0 if history.exchanges[-1] is not before else 0.25
        case "limited":
            return asked if asked is not None else 2 * options.queued_interval
        case "batch":
            return 0.03
        case "status" | "same":
            if before.held:
                return 0.0
            if before.etag:
                return options.running_interval / 8
            if asked is not None:
                return max(asked, options.running_interval / 2)
            queued = before.place is not None and before.place[0] == "queued"
            return options.queued_interval * (1 - options.jitter) if queued else interval
    return 0.0


def _judge_pace(history: "History", exchange: Exchange) -> None:
    for before in reversed(history.exchanges):
        if before.step.path == exchange.step.path and before.step.method == exchange.step.method:
            gap, least = exchange.sent_at - before.at, _least_gap(history, before)
            demand(
                gap >= least - EPS, f"asked again after {gap:.3f} s, at least {least:.3f} s were due ({before.kind})"
            )
            return


def _judge_budget(history: "History", exchange: Exchange) -> None:
    count = history.run.options.requests_a_minute
    if history.limited_at is None or len(history.exchanges) < count or exchange.sent_at <= history.limited_at:
        return
    first = history.exchanges[-count].sent_at
    demand(exchange.sent_at - first >= 60.0 - EPS, f"more than {count} requests in a minute")


# --- the end -----------------------------------------------------------------------------------------


def judge_end(history: "History") -> None:
    run, outcome = history.run, history.outcome
    demand(run.now <= run.ends + EPS, "the flow ended after its deadline")
    if isinstance(outcome, dict) and history.scenario == "many":
        demand(set(outcome) == set(history.job_ids), "a job of many was forgotten")
        for job_id, end in outcome.items():
            _judge_job(history, job_id, end)
    elif isinstance(outcome, errors.UmrgenError):
        _judge_error(history, outcome)
    elif isinstance(outcome, Status):
        _judge_job(history, history.job_ids[0], outcome)


def _judge_job(history: "History", job_id: str, end: Any) -> None:
    """An end that was told for a job is its true one."""
    job, now = history.world.jobs.get(job_id), history.run.now
    if isinstance(end, errors.JobNotFound):
        gone = job is None or now >= job.gone_at - EPS
        demand(gone, "a job that is there was said to be unknown")
        return
    if isinstance(end, errors.JobStalled):
        demand(job is not None and job.runs[-1][1] - job.runs[-1][0] > 0, "a stall without a run")
        return
    demand(job is not None, "an end was told for a job that never was")
    assert job is not None
    demand(isinstance(end, Status) and end.state == job.state(now) and end.over, "the end that was told is not true")
    told, true = end.images, job.images
    # An older server names the first image alone once a minute has passed.
    demand(told[:1] == true[:1] and set(told) <= set(true), "the images that were told are not the job's")


def _since_good(history: "History") -> float:
    """Seconds for which no answer was good, at the end."""
    bad = history.run.now
    for exchange in reversed(history.exchanges):
        if exchange.kind not in ("lost", "transient", "garbage"):
            break
        bad = exchange.at
    return history.run.now - bad


def _garbage(history: "History") -> int:
    """Answers that made no sense, since the last one that did."""
    count = 0
    for exchange in reversed(history.exchanges):
        if exchange.kind not in ("lost", "transient", "garbage", "limited"):
            break
        count += exchange.kind == "garbage"
    return count


def _judge_error(history: "History", error: errors.UmrgenError) -> None:
    run, options, world = history.run, history.run.options, history.world
    last = history.exchanges[-1]
    submitting = not history.job_ids and history.scenario == "submit and wait"
    patience = (
        options.submit_patience if submitting or history.scenario in ("cancel", "capabilities") else options.patience
    )
    worn_out = _since_good(history) >= patience - 1.1 * options.longest_delay - EPS or run.left <= 66.0
    job = world.jobs.get(history.job_ids[0]) if history.job_ids else None
    match error:
        case errors.WaitTimeout():
            early = error.code == "queue_timeout"
            demand(early or run.left <= 1.1 * options.longest_delay + 60.0 + EPS, "it gave up before the deadline")
        case errors.JobFailed():
            demand(
                job is not None and job.state(run.now) == "failed", "a job that did not fail was said to have failed"
            )
        case errors.OutputMissing():
            demand(job is not None and job.fate == "completed" and not job.images, "an image was there and not told")
        case errors.JobNotFound():
            gone = job is None or run.now >= job.gone_at - EPS
            demand(gone, "a job that is there was said to be unknown")
        case errors.JobStalled():
            demand(options.on_stall == "raise", "a stall was raised unasked")
        case errors.ConcurrencyLimit():
            demand(last.busy is not None or last.kind == "limited", "a slot that was free was said to be taken")
        case errors.RateLimited():
            demand(run.left <= 66.0 or last.kind == "limited", "a limit was raised and nobody had limited")
        case errors.NotUmrgen() | errors.ServerError() | errors.ConnectionFailed():
            unclear = submitting and error.sent
            redirected = last.kind == "refused"
            garbled = isinstance(error, errors.NotUmrgen) and (submitting or _garbage(history) > options.garbage_tries)
            demand(worn_out or unclear or redirected or garbled, f"{error.code}: it lost patience too soon")
        case errors.Unsupported():
            demand(world.legacy, "a call that the server has was said to be missing")
        case _:
            raise Violation(f"an error that no history explains: {type(error).__name__}")
    if submitting and not error.sent:
        made = any(other.key == "key-1" for other in world.made)
        demand(not made, "a job was made, and the error says that none was")
