"""The rules for the end of a history: it is in time, and its result is the one of the server."""

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
        demand(set(outcome) == set(history.job_ids), "a job of the batch has no result")
        for job_id, end in outcome.items():
            _judge_job(history, job_id, end)
    elif isinstance(outcome, errors.UmrgenError):
        _judge_error(history, outcome)
        _judge_sent(history, outcome)
    elif isinstance(outcome, Status):
        _judge_job(history, history.job_ids[0], outcome)


def _judge_job(history: "History", job_id: str, end: Any) -> None:
    """Check that the client's result for a job is the end that the server has recorded."""
    job, now = history.world.jobs.get(job_id), history.run.now
    if isinstance(end, errors.JobNotFound):
        gone = job is None or now >= job.gone_at - EPS
        demand(gone, "JobNotFound for a job that exists")
        return
    if isinstance(end, errors.JobStalled):
        _judge_stall(history, job_id)
        return
    demand(job is not None, "an end for a job that does not exist")
    assert job is not None
    demand(isinstance(end, Status) and end.state == job.state(now) and end.over, "the result has another end")
    returned, expected = end.images, job.images
    if returned or history.scenario == "wait":  # the others return the last response without a check for images
        # An older server lists only the first image, a minute after the end of the job.
        same = returned[:1] == expected[:1] and set(returned) <= set(expected)
        demand(same, "the result has images of another job")


def _judge_stall(history: "History", job_id: str) -> None:
    options, path = history.run.options, history.paths.get(("GET", f"/api/v1/status/{quote(job_id, safe='')}"))
    demand(options.on_stall == "raise", "JobStalled although the options do not request it")
    still = path is not None and path.last is not None and path.last.at - path.changed_at >= options.stall_after - EPS
    demand(still and path.place is not None and path.place[0] == "running", "JobStalled for a job with progress")  # type: ignore[union-attr]


def _budget_spent(history: "History", budget: float) -> bool:
    """Return whether the next try would be later than `budget` seconds after the first failure, or the deadline."""
    last = history.exchanges[-1]
    delay = most_delay(history, last)
    if last.kind not in BAD or history.run.time_left <= delay:
        return history.run.time_left <= delay
    if history.submitting:  # one budget for the whole submit; no response resets it
        since: float | None = next(exchange.at for exchange in history.exchanges if exchange.kind in BAD)
    else:
        since = history.path_record(last.step).bad_since
    return since is not None and history.run.now - since + delay >= budget - EPS


def _judge_error(history: "History", error: errors.UmrgenError) -> None:
    run, options, world = history.run, history.run.options, history.world
    last = history.exchanges[-1]
    short = history.submitting or history.scenario in ("cancel", "capabilities", "keeps keys")
    path = history.path_record(last.step)
    job = world.jobs.get(history.job_ids[0]) if history.job_ids else None
    match error:
        case errors.WaitTimeout() if error.code == "queue_timeout":
            demand(path.overdue(options), "queue_timeout before the queue timeout")
        case errors.WaitTimeout() if history.submitting and path.overdue(options):
            pass  # the queue timeout also limits the wait for the job that occupies the slot
        case errors.WaitTimeout():
            demand(
                run.time_left <= most_delay(history, last) + EPS,
                f"WaitTimeout {run.time_left:.1f} s before the deadline",
            )
        case errors.JobFailed():
            failed = job is not None and job.state(run.now) == "failed"
            demand(failed, "JobFailed for a job that did not fail")
        case errors.OutputMissing():
            completed = job is not None and job.state(run.now) == "completed"
            demand(completed and path.imageless == 2, "OutputMissing for a job with an image")
        case errors.JobNotFound():
            demand(job is None or run.now >= job.gone_at - EPS, "JobNotFound for a job that exists")
        case errors.JobStalled():
            _judge_stall(history, history.job_ids[0])
        case errors.ConcurrencyLimit():
            demand(last.kind == "limited", "ConcurrencyLimit while the slot was free")
        case errors.RateLimited():
            limited = any(exchange.kind == "limited" for exchange in history.exchanges)
            demand(limited and run.time_left <= most_delay(history, last) + EPS, "RateLimited before the deadline")
        case errors.NotUmrgen() | errors.ServerError() | errors.ConnectionFailed() | errors.InvalidRequest():
            unclear = short and error.sent and last.kind not in BAD  # these calls cannot be repeated
            redirected = last.kind == "refused"
            garbled = isinstance(error, errors.NotUmrgen) and path.garbage > options.garbage_tries
            spent = _budget_spent(history, options.submit_patience if short else options.patience)
            garbled = garbled or (history.submitting and last.kind == "garbage")
            demand(spent or unclear or redirected or garbled, f"{error.code}: raised before the budget was spent")
        case errors.Unsupported():
            demand(world.legacy, "Unsupported for a call that the server has")
        case _:
            raise Violation(f"an error that no history explains: {type(error).__name__}")


def _judge_sent(history: "History", error: errors.UmrgenError) -> None:
    if history.submitting and not error.sent:
        made = any(other.key == "key-1" for other in history.world.made)
        demand(not made, "the error has sent=False although a job was created")
