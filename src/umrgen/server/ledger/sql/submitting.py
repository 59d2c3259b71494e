"""Submitting a job: its idempotency key, the limits of its session, and its record."""

from umrgen.server.domain.job import Job
from umrgen.server.domain.request import searchable
from umrgen.server.ledger.errors import DailyLimit, IdempotencyConflict, QueueFull, TooManyJobs
from umrgen.server.ledger.sql.calls import enter_call
from umrgen.server.ledger.sql.database import Read, SessionCounts, SqlConnection, Transaction
from umrgen.server.ledger.sql.rows import find_job, values_of
from umrgen.server.ledger.values import DAY, NO_CAPS, Call, Caps, Idempotency

__all__ = ["earlier_job", "enter_job", "reads_of_submit"]


def enter_job(
    transaction: Transaction, job: Job, *, idempotency: Idempotency | None, caps: Caps, call: Call | None
) -> tuple[Job, bool]:
    """Enter a job, or return the earlier one of its idempotency key; and whether it is new.

    Raises TooManyJobs, QueueFull, DailyLimit and IdempotencyConflict.
    """
    now = job.created_at
    transaction.next_jobs.clear()
    if idempotency is not None:
        earlier = earlier_job(transaction.connection, job.session_id, idempotency, now)
        if earlier is not None:
            return earlier, False
    if caps is not NO_CAPS:
        _check_caps(transaction, job.session_id, caps, now)
    job = job._replace(changed=next(transaction.change_numbers))
    transaction.connection.send("insert_job", values_of(job) | {"searched": searchable(job.request.prompt)})
    _count_new_job(transaction, job.session_id, now // DAY)
    if idempotency is not None:
        _remember_idempotency(transaction.connection, job, idempotency, now)
    if call is not None:
        enter_call(transaction.connection, job.id, job.session_id, call, now=now)
    transaction.changed.append(job)
    return job, True


def _count_new_job(transaction: Transaction, session_id: str, day: int) -> None:
    transaction.connection.send("count_new_job", {"session_id": session_id, "day": day, "count": 1})
    counts = transaction.counts.pop(session_id, None)
    if counts is not None and counts.day == day:
        new = counts._replace(queued=counts.queued + 1, made=counts.made + 1)
        transaction.counts[session_id] = new


def _counts(transaction: Transaction, session_id: str, day: int) -> SessionCounts:
    """Return a session's counts; they are read once for all submits of the transaction."""
    counts = transaction.counts.get(session_id)
    if counts is None or counts.day != day:
        row = transaction.connection.one("session_counts", {"id": session_id, "day": day})
        counts = transaction.counts[session_id] = SessionCounts(day, *(row or (0, 0, 0)))
    return counts


def _check_caps(transaction: Transaction, session_id: str, caps: Caps, now: int) -> None:
    """Raise TooManyJobs, QueueFull or DailyLimit if one more job would exceed `caps`."""
    day, queued, running, made = _counts(transaction, session_id, now // DAY)
    if caps.active and queued + running >= caps.active:
        oldest = transaction.connection.one("oldest_active", {"session_id": session_id})
        raise TooManyJobs(job_id=oldest[0] if oldest else None)
    if caps.queued and queued >= caps.queued:
        raise QueueFull
    if caps.daily and made >= caps.daily:
        raise DailyLimit(until=(day + 1) * DAY)


def reads_of_submit(session_id: str, idempotency: Idempotency | None, caps: Caps, now: int) -> list[Read]:
    """Return the rows that `enter_job` reads, so that those of a batch are read together."""
    reads: list[Read] = []
    if idempotency is not None:
        reads.append(("get_idempotency", {"session_id": session_id, "key": idempotency.key, "now": now}))
    if caps is not NO_CAPS:
        reads.append(("session_counts", {"id": session_id, "day": now // DAY}))
    return reads


def earlier_job(connection: SqlConnection, session_id: str, idempotency: Idempotency, now: int) -> Job | None:
    """Return the job that was submitted with this idempotency key; None without one. Raises IdempotencyConflict."""
    row = connection.one("get_idempotency", {"session_id": session_id, "key": idempotency.key, "now": now})
    if row is None:
        return None
    digest, job_id = row
    if bytes(digest) != idempotency.digest:
        raise IdempotencyConflict(job_id=job_id)
    return find_job(connection, job_id)


def _remember_idempotency(connection: SqlConnection, job: Job, idempotency: Idempotency, now: int) -> None:
    connection.send("expire_idempotency", {"now": now})
    connection.send(
        "put_idempotency",
        {
            "session_id": job.session_id,
            "key": idempotency.key,
            "digest": idempotency.digest,
            "job_id": job.id,
            "expires_at": now + idempotency.kept_for,
        },
    )
