"""Checks of a history's result: in time, and consistent with the server's jobs."""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from simulation.request_checks import BAD, EPS, Violation, most_delay, require
from umrgen import errors
from umrgen.model import Status

if TYPE_CHECKING:
    from simulation.history import History

__all__ = ["check_result"]


def check_result(history: "History") -> None:
    """Raise Violation for a wrong result."""
    context, outcome = history.context, history.outcome
    require(context.now <= context.deadline + EPS, "the flow ended after its deadline")
    if isinstance(outcome, dict) and history.scenario == "many":
        require(set(outcome) == set(history.job_ids), "a job of a batch has no result")
        for job_id, end in outcome.items():
            _check_job(history, job_id, end)
    elif isinstance(outcome, errors.UmrgenError):
        _check_error(history, outcome)
        _check_sent(history, outcome)
    elif isinstance(outcome, Status):
        _check_job(history, history.job_ids[0], outcome)


def _check_job(history: "History", job_id: str, end: Any) -> None:
    """Check the report about a job."""
    job, now = history.server.jobs.get(job_id), history.context.now
    if isinstance(end, errors.JobNotFound):
        gone = job is None or now >= job.lost_at - EPS
        require(gone, "a known job was reported as unknown")
        return
    if isinstance(end, errors.JobStalled):
        _check_stall(history, job_id)
        return
    if isinstance(end, errors.NotUmrgen):
        require(_is_out_of_patience(history, job_id), "a job was given up before its patience ended")
        return
    require(job is not None, "a result was reported for a job that was never created")
    assert job is not None
    require(isinstance(end, Status) and end.state == job.state(now) and end.over, "the reported state is not the job's")
    reported, actual = end.images, job.urls
    if reported or history.scenario == "wait":  # a watch and a batch report a response as it is
        # A legacy server reports only the first image after a minute.
        require(reported[:1] == actual[:1] and set(reported) <= set(actual), "the reported images are not the job's")


def _is_out_of_patience(history: "History", job_id: str) -> bool:
    """Return whether every response about a job was invalid for as long as the patience."""
    record = history.records[("GET", f"/api/v1/status/{quote(job_id, safe='')}")]
    last, options = record.last, history.context.options
    delay = 1.1 * options.longest_backoff
    return last is not None and record.bad_since is not None and last.at - record.bad_since + delay >= options.patience


def _check_stall(history: "History", job_id: str) -> None:
    options, record = history.context.options, history.records.get(("GET", f"/api/v1/status/{quote(job_id, safe='')}"))
    require(options.on_stall == "raise", "a stall was raised although on_stall is report")
    still = (
        record is not None
        and record.last is not None
        and record.last.at - record.changed_at >= options.stall_after - EPS
    )
    require(
        still and record.place is not None and record.place[0] == "running",
        "a stall was raised for a job that progressed",
    )  # type: ignore[union-attr]


def _out_of_patience(history: "History", patience: float) -> bool:
    """Return whether the next attempt would be later than the patience or the deadline allows."""
    last = history.exchanges[-1]
    delay = most_delay(history, last)
    if last.kind not in BAD or history.context.time_left <= delay:
        return history.context.time_left <= delay
    if history.submitting:  # one budget for the whole submit; no response resets it
        since: float | None = next(exchange.at for exchange in history.exchanges if exchange.kind in BAD)
    else:
        since = history.record(last.step).bad_since
    return since is not None and history.context.now - since + delay >= patience - EPS


def _check_error(history: "History", error: errors.UmrgenError) -> None:
    context, options, server = history.context, history.context.options, history.server
    last = history.exchanges[-1]
    short = history.submitting or history.scenario in ("cancel", "capabilities", "idempotency support")
    record = history.record(last.step)
    job = server.jobs.get(history.job_ids[0]) if history.job_ids else None
    match error:
        case errors.WaitTimeout() if error.code == "queue_timeout":
            require(record.overdue(options), "queue_timeout had not passed")
        case errors.WaitTimeout() if history.submitting and record.overdue(options):
            pass  # queue_timeout includes the time behind the blocking job
        case errors.WaitTimeout():
            require(
                context.time_left <= most_delay(history, last) + EPS,
                f"gave up {context.time_left:.1f} s before the deadline",
            )
        case errors.JobFailed():
            failed = job is not None and job.state(context.now) == "failed"
            require(failed, "a job that did not fail was reported as failed")
        case errors.OutputMissing():
            completed = job is not None and job.state(context.now) == "completed"
            require(completed and record.imageless == 2, "an image existed and was not reported")
        case errors.JobNotFound():
            require(job is None or context.now >= job.lost_at - EPS, "a known job was reported as unknown")
        case errors.JobStalled():
            _check_stall(history, history.job_ids[0])
        case errors.ConcurrencyLimit():
            require(last.kind == "limited", "a concurrency limit was reported although the server had none")
        case errors.RateLimited():
            limited = any(exchange.kind == "limited" for exchange in history.exchanges)
            require(
                limited and context.time_left <= most_delay(history, last) + EPS, "a rate limit was raised too early"
            )
        case errors.Unsupported() if short:
            # Whether a 404 is an older server's or a gateway's cannot be known.
            require(server.legacy or last.kind == "foreign", "a supported call was reported as unsupported")
        case errors.ApiError() | errors.ConnectionFailed():
            unclear = short and error.sent and last.kind not in ("lost", "transient")  # such a call is not repeated
            redirected = last.kind == "refused" or (last.kind == "foreign" and not _has_status(history))
            garbled = isinstance(error, errors.NotUmrgen) and record.garbage > options.garbage_tries
            out_of_patience = _out_of_patience(history, options.submit_patience if short else options.patience)
            garbled = garbled or (history.submitting and last.kind == "garbage")
            require(
                out_of_patience or unclear or redirected or garbled, f"{error.code}: gave up before its patience ended"
            )
        case _:
            raise Violation(f"an unexplained error: {type(error).__name__}")


def _has_status(history: "History") -> bool:
    """Return whether the last request was for a status, of a job that the server has accepted or reported."""
    if not history.exchanges[-1].step.path.startswith("/api/v1/status"):
        return False
    accepted = history.scenario == "submit and wait" and not history.submitting
    return accepted or bool(history.states) or any(record.place is not None for record in history.records.values())


def _check_sent(history: "History", error: errors.UmrgenError) -> None:
    if history.submitting and not error.sent:
        created = any(other.key == "key-1" for other in history.server.created)
        require(not created, "a job was created, and the error denies it")
