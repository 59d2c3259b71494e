"""Whether a history ended as it had to: in time, and with the truth."""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from simulation.judge import BAD, EPS, Violation, demand, most_delay
from umrgen import errors
from umrgen.model import Status

if TYPE_CHECKING:
    from simulation.history import History

__all__ = ["judge_end"]


def judge_end(history: "History") -> None:
    run, outcome = history.run, history.outcome
    demand(run.now <= run.deadline + EPS, "the flow ended after its deadline")
    if isinstance(outcome, dict) and history.scenario == "many":
        demand(set(outcome) == set(history.job_ids), "a job of many was forgotten")
        for job_id, end in outcome.items():
            _judge_job(history, job_id, end)
    elif isinstance(outcome, errors.UmrgenError):
        _judge_error(history, outcome)
        _judge_sent(history, outcome)
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
        _judge_stall(history, job_id)
        return
    demand(job is not None, "an end was told for a job that never was")
    assert job is not None
    demand(isinstance(end, Status) and end.state == job.state(now) and end.over, "the end that was told is not true")
    told, true = end.images, job.images
    if told or history.scenario == "wait":  # a watch and a wait for many hand on what they were told
        # An older server names the first image alone once a minute has passed.
        demand(told[:1] == true[:1] and set(told) <= set(true), "the images that were told are not the job's")


def _judge_stall(history: "History", job_id: str) -> None:
    options, book = history.run.options, history.books.get(("GET", f"/api/v1/status/{quote(job_id, safe='')}"))
    demand(options.on_stall == "raise", "a stall was raised unasked")
    still = book is not None and book.last is not None and book.last.at - book.changed_at >= options.stall_after - EPS
    demand(still and book.place is not None and book.place[0] == "running", "a stall of a job that moved on")  # type: ignore[union-attr]


def _worn_out(history: "History", patience: float) -> bool:
    """Whether the next try would have come after all patience, or after the deadline."""
    last = history.exchanges[-1]
    delay = most_delay(history, last)
    if last.kind not in BAD or history.run.time_left <= delay:
        return history.run.time_left <= delay
    if history.submitting:  # one patience for all of a submit; nothing in it counts as good
        since: float | None = next(exchange.at for exchange in history.exchanges if exchange.kind in BAD)
    else:
        since = history.book(last.step).bad_since
    return since is not None and history.run.now - since + delay >= patience - EPS


def _judge_error(history: "History", error: errors.UmrgenError) -> None:
    run, options, world = history.run, history.run.options, history.world
    last = history.exchanges[-1]
    short = history.submitting or history.scenario in ("cancel", "capabilities", "keeps keys")
    book = history.book(last.step)
    job = world.jobs.get(history.job_ids[0]) if history.job_ids else None
    match error:
        case errors.WaitTimeout() if error.code == "queue_timeout":
            demand(book.overdue(options), "the time for being queued was not over")
        case errors.WaitTimeout() if history.submitting and book.overdue(options):
            pass  # the time for being queued counts for the job that is in the way, too
        case errors.WaitTimeout():
            demand(
                run.time_left <= most_delay(history, last) + EPS,
                f"it gave up {run.time_left:.1f} s before the deadline",
            )
        case errors.JobFailed():
            failed = job is not None and job.state(run.now) == "failed"
            demand(failed, "a job that did not fail was said to have failed")
        case errors.OutputMissing():
            completed = job is not None and job.state(run.now) == "completed"
            demand(completed and book.imageless == 2, "an image was there and not told")
        case errors.JobNotFound():
            demand(job is None or run.now >= job.gone_at - EPS, "a job that is there was said to be unknown")
        case errors.JobStalled():
            _judge_stall(history, history.job_ids[0])
        case errors.ConcurrencyLimit():
            demand(last.kind == "limited", "a slot that was free was said to be taken")
        case errors.RateLimited():
            limited = any(exchange.kind == "limited" for exchange in history.exchanges)
            demand(limited and run.time_left <= most_delay(history, last) + EPS, "a limit was raised too soon")
        case errors.NotUmrgen() | errors.ServerError() | errors.ConnectionFailed() | errors.InvalidRequest():
            unclear = short and error.sent and last.kind not in BAD  # it cannot be repeated here
            redirected = last.kind == "refused"
            garbled = isinstance(error, errors.NotUmrgen) and book.garbage > options.garbage_tries
            worn_out = _worn_out(history, options.submit_patience if short else options.patience)
            garbled = garbled or (history.submitting and last.kind == "garbage")
            demand(worn_out or unclear or redirected or garbled, f"{error.code}: it lost patience too soon")
        case errors.Unsupported():
            demand(world.legacy, "a call that the server has was said to be missing")
        case _:
            raise Violation(f"an error that no history explains: {type(error).__name__}")


def _judge_sent(history: "History", error: errors.UmrgenError) -> None:
    if history.submitting and not error.sent:
        made = any(other.key == "key-1" for other in history.world.made)
        demand(not made, "a job was made, and the error says that none was")
