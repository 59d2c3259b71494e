"""Claiming, changing and deleting jobs, with all that follows from a change in the same transaction."""

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from umrgen.model import State
from umrgen.server.domain.job import Change, Job, advance, erased, possible_outputs
from umrgen.server.ledger.sql.database import SqlConnection, Transaction
from umrgen.server.ledger.sql.fingerprints import enter_fingerprints
from umrgen.server.ledger.sql.outputs import LATE_FILES, add_obsolete_file, expire_outputs_of
from umrgen.server.ledger.sql.rows import find_job, job_of, values_of
from umrgen.server.ledger.sql.webhooks import enter_webhook
from umrgen.server.ledger.values import BatchKey, ClaimFilter, DeletedJobs

__all__ = ["change_job", "claim_jobs", "delete_jobs", "set_favorite"]

READ_AHEAD = 8
"""Jobs of different sessions that a claim reads at a time, for the claims that follow in its transaction."""


def claim_jobs(
    transaction: Transaction,
    *,
    limit: int,
    batch_key: BatchKey | None,
    running_cap: int,
    only: ClaimFilter | None,
    **lease: Any,
) -> list[Job]:
    """Claim the jobs whose turn it is, at most `limit`; those that are not drawn together with the first are left."""
    jobs: list[Job] = []
    while len(jobs) < limit and (job := _next_job(transaction, running_cap, only, limit - len(jobs))) is not None:
        if batch_key is not None and jobs and batch_key(job.request) != batch_key(jobs[0].request):
            break
        later, transaction.next_jobs = transaction.next_jobs, deque()
        jobs.append(_store(transaction, job, Change.CLAIM, **lease))
        later.popleft()
        transaction.next_jobs = later  # the turns of the other sessions are the same after a claim
    return jobs


def _next_job(transaction: Transaction, running_cap: int, only: ClaimFilter | None, wanted: int) -> Job | None:
    if not transaction.next_jobs or transaction.next_of != (running_cap, only):
        transaction.next_jobs.clear()
        transaction.next_of = (running_cap, only)
        transaction.next_jobs.extend(_next_jobs(transaction.connection, running_cap, only, max(wanted, READ_AHEAD)))
    return transaction.next_jobs[0] if transaction.next_jobs else None


def _next_jobs(connection: SqlConnection, running_cap: int, only: ClaimFilter | None, limit: int) -> list[Job]:
    values: dict[str, Any] = {"running_cap": running_cap, "limit": limit}
    if only is None:
        rows = connection.all("next_jobs", values)
    else:
        rows = connection.all("next_jobs_of", values | {"engine": only.engine, "models": only.models or ("",)})
    return [job_of(row) for row in rows]


def change_job(transaction: Transaction, job_id: str, change: Change, **values: Any) -> Job:
    """Change a job by the rules of `advance`. Raises KeyError for an unknown one, and Conflict."""
    job = find_job(transaction.connection, job_id)
    if job is None:
        raise KeyError(job_id)
    return _store(transaction, job, change, **values)


def _store(transaction: Transaction, job: Job, change: Change, *, hashes: Sequence[bytes] = (), **values: Any) -> Job:
    """Advance the job, and write the counts, records of images, fingerprints and webhook that the change implies."""
    connection = transaction.connection
    transaction.next_jobs.clear()
    changed = advance(job, change, **values)
    if changed.state is not job.state:
        changed = changed._replace(changed=next(transaction.change_numbers))
        transaction.counts.pop(job.session_id, None)
        _count_state_change(connection, job, changed, claimed=change is Change.CLAIM)
        if job.state is State.RUNNING and change is not Change.COMPLETE:
            _discard_outputs(connection, job, values["now"])
    connection.send("update_job", values_of(changed), rows=1)
    if change is Change.COMPLETE:
        for output in changed.outputs:
            row = asdict(output) | {"job_id": job.id, "created_at": changed.completed_at}
            row["favorite"] = int(job.favorite)
            connection.send("insert_output", row)
        connection.send("add_kept_bytes", {"bytes": sum(output.bytes for output in changed.outputs)})
        enter_fingerprints(connection, changed, hashes)
    if changed.over and changed.request.webhook_url:
        enter_webhook(connection, changed, now=values["now"])
    transaction.changed.append(changed)
    return changed


def _discard_outputs(connection: SqlConnection, job: Job, now: int) -> None:
    """Have the files deleted that the attempt which ends here may have stored, or may still be storing."""
    for name in possible_outputs(job):
        add_obsolete_file(connection, job.session_id, name, not_before=now + LATE_FILES)


def _count_state_change(connection: SqlConnection, before: Job, after: Job, *, claimed: bool) -> None:
    counts = {state.value: (after.state is state) - (before.state is state) for state in (State.QUEUED, State.RUNNING)}
    served = after.changed if claimed else None
    connection.send("count_state_change", {"session_id": after.session_id, "served": served} | counts)


def _own(connection: SqlConnection, session_id: str, job_id: str) -> Job | None:
    job = find_job(connection, job_id)
    return job if job is not None and job.session_id == session_id else None


def set_favorite(transaction: Transaction, session_id: str, job_id: str, favorite: bool, now: int) -> Job:
    """Mark a job as a favorite, or not. Raises KeyError when the session has no such job."""
    job = _own(transaction.connection, session_id, job_id)
    if job is None or job.deleted_at is not None:
        raise KeyError(job_id)
    if job.favorite is favorite:
        return job
    changed = job._replace(favorite=favorite, edited_at=now, version=job.version + 1)
    changed = changed._replace(changed=next(transaction.change_numbers))
    transaction.next_jobs.clear()
    values = values_of(changed)
    transaction.connection.send("set_favorite", values, rows=1)
    transaction.connection.send("set_favorite_outputs", values)
    transaction.changed.append(changed)
    return changed


def delete_jobs(transaction: Transaction, session_id: str, job_ids: Sequence[str], now: int) -> DeletedJobs:
    """Delete jobs of a session, and end those that are not over."""
    result = DeletedJobs([], [], [])
    for job_id in job_ids:
        job = _own(transaction.connection, session_id, job_id)
        (result.unknown if job is None else result.deleted).append(job_id)
        if job is not None and job.deleted_at is None:
            result.files.extend(_erase(transaction, job, now))
    return result


def _erase(transaction: Transaction, job: Job, now: int) -> list[tuple[str, str]]:
    """Cancel the job if it is not over, and leave only the record of a deleted one; return its files."""
    if not job.over:
        job = _store(transaction, job, Change.CANCEL, now=now, error="the job was deleted", error_code="cancelled")
    changed = erased(job, now=now)._replace(changed=next(transaction.change_numbers))
    transaction.connection.send("erase_job", values_of(changed), rows=1)
    for statement in ("prune_calls", "prune_idempotency", "prune_webhooks"):
        transaction.connection.send(statement, {"ids": [job.id]})
    transaction.changed.append(changed)
    return expire_outputs_of(transaction.connection, job, now=now)
