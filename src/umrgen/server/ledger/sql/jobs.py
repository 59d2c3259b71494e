"""The store of jobs: the rules of submitting, claiming and changing, as functions over a connection."""

import math
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from umrgen.model import State
from umrgen.server.domain.job import Change, Job, advance, erased, possible_outputs
from umrgen.server.domain.request import GenerationRequest, searchable
from umrgen.server.ledger.errors import DailyLimit, IdempotencyConflict, QueueFull, TooManyJobs
from umrgen.server.ledger.sql.calls import enter_call
from umrgen.server.ledger.sql.database import Database, Read, SessionCounts, SqlConnection, Transaction
from umrgen.server.ledger.sql.fingerprints import enter_fingerprints
from umrgen.server.ledger.sql.outputs import LATE_FILES, add_obsolete_file, expire_outputs_of
from umrgen.server.ledger.sql.pages import find_page
from umrgen.server.ledger.sql.rows import job_of, values_of
from umrgen.server.ledger.sql.webhooks import enter_webhook
from umrgen.server.ledger.values import (
    ALL_JOBS,
    DAY,
    NO_CAPS,
    BatchKey,
    Call,
    Caps,
    ClaimFilter,
    DeletedJobs,
    Idempotency,
    JobCounts,
    JobFilter,
)

__all__ = ["SqlJobStore"]

CACHED = 4096
"""Finished jobs that are cached in memory. Only their owners change them, and every such change is observed."""
OLD_JOBS = ("old_failed_jobs", "old_completed_jobs")
PRUNING = ("prune_calls", "prune_idempotency", "prune_webhooks", "prune_outputs")
PRUNED_TOGETHER = 10
"""Jobs that are deleted between two readings of the clock."""
READ_AHEAD = 8
"""Jobs of different sessions that a claim reads at a time, for the claims that follow in its transaction."""
ALL = 2**62
"""A number above every cursor."""


# --- rules ---


def _get(connection: SqlConnection, job_id: str) -> Job | None:
    row = connection.one("get_job", {"id": job_id})
    return job_of(row) if row else None


def _submit(
    transaction: Transaction, job: Job, *, idempotency: Idempotency | None, caps: Caps, call: Call | None
) -> tuple[Job, bool]:
    now = job.created_at
    transaction.next_jobs.clear()
    if idempotency is not None:
        earlier = _earlier(transaction.connection, job.session_id, idempotency, now)
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


def _reads_of_submit(session_id: str, idempotency: Idempotency | None, caps: Caps, now: int) -> list[Read]:
    reads: list[Read] = []
    if idempotency is not None:
        reads.append(("get_idempotency", {"session_id": session_id, "key": idempotency.key, "now": now}))
    if caps is not NO_CAPS:
        reads.append(("session_counts", {"id": session_id, "day": now // DAY}))
    return reads


def _earlier(connection: SqlConnection, session_id: str, idempotency: Idempotency, now: int) -> Job | None:
    row = connection.one("get_idempotency", {"session_id": session_id, "key": idempotency.key, "now": now})
    if row is None:
        return None
    digest, job_id = row
    if bytes(digest) != idempotency.digest:
        raise IdempotencyConflict(job_id=job_id)
    return _get(connection, job_id)


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


def _claim(
    transaction: Transaction,
    *,
    limit: int,
    batch_key: BatchKey | None,
    running_cap: int,
    only: ClaimFilter | None,
    **lease: Any,
) -> list[Job]:
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


def _change(transaction: Transaction, job_id: str, change: Change, **values: Any) -> Job:
    job = _get(transaction.connection, job_id)
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
    job = _get(connection, job_id)
    return job if job is not None and job.session_id == session_id else None


def _set_favorite(transaction: Transaction, session_id: str, job_id: str, favorite: bool, now: int) -> Job:
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


def _delete(transaction: Transaction, session_id: str, job_ids: Sequence[str], now: int) -> DeletedJobs:
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


def _prune(
    transaction: Transaction, before: int, limit: int, after: Mapping[str, int], in_time: Callable[[], bool]
) -> tuple[list[str], dict[str, int]]:
    """Delete old jobs while `in_time`; return their ids, and the times after which the next call reads on.

    `after` and the result have a time for each of OLD_JOBS: rows that were deleted stay in PostgreSQL's indexes for as
    long as a backup reads, and each read from the start would pass all of them. At the end, the result is empty.
    """
    old = _old_jobs(transaction.connection, before, limit, after)
    reached = dict(after)
    ids: list[str] = []
    while len(ids) < len(old) and (not ids or in_time()):
        step = old[len(ids) : len(ids) + PRUNED_TOGETHER]
        _delete_records(transaction.connection, [job_id for _, job_id, _ in step])
        reached |= {statement: at for statement, _, at in step}
        ids += [job_id for _, job_id, _ in step]
    return ids, reached if ids else {}


def _old_jobs(
    connection: SqlConnection, before: int, limit: int, after: Mapping[str, int]
) -> list[tuple[str, str, int]]:
    """Return the statement that found each job, its id, and the time of its end or of its first deleted image."""
    found: list[tuple[str, str, int]] = []
    for statement in OLD_JOBS:
        values = {"before": before, "limit": limit - len(found), "after": after.get(statement, 0)}
        found += [(statement, job_id, at) for job_id, at in connection.all(statement, values)]
    return found


def _read_before_deleting(connection: SqlConnection, before: int, limit: int, after: Mapping[str, int]) -> None:
    """Read the pages that `_prune` needs: those of old records are seldom in memory, and a disk is waited for here.

    In the transaction that deletes them, the writes of all servers would wait for it.
    """
    old = _old_jobs(connection, before, limit, after)
    if old:
        connection.all("get_jobs", {"ids": [job_id for _, job_id, _ in old]})


def _delete_records(connection: SqlConnection, ids: list[str]) -> None:
    for statement in PRUNING:
        connection.send(statement, {"ids": ids})
    connection.run("prune_jobs", {"ids": ids})  # its result is waited for: so the time is known


# --- the store ---


class SqlJobStore:
    """Implements `JobStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._finished: OrderedDict[str, Job] = OrderedDict()
        self._pruned: dict[str, int] = {}
        """The times up to which old jobs were deleted, by statement; see `_prune`."""

    def observe(self, jobs: Sequence[Job]) -> None:
        """Cache those of `jobs` that are over."""
        for job in jobs:
            self._cache(job)

    def clear_cache(self) -> None:
        """Empty the cache, when the ledger is opened again."""
        self._finished.clear()

    def _cache(self, job: Job | None) -> Job | None:
        """Cache a job that is over, and return it; or the cached one, if it was changed after this one was read."""
        if job is None or not job.over:
            return job
        kept = self._finished.get(job.id)
        if kept is not None and kept.version > job.version:
            return kept
        self._finished[job.id] = job
        self._finished.move_to_end(job.id)
        if len(self._finished) > CACHED:
            self._finished.popitem(last=False)
        return job

    async def submit(
        self,
        job_id: str,
        session_id: str,
        request: GenerationRequest,
        engine: str,
        *,
        now: int,
        priority: int = 0,
        idempotency: Idempotency | None = None,
        caps: Caps = NO_CAPS,
        key_id: str = "",
        call: Call | None = None,
    ) -> tuple[Job, bool]:
        job = Job(
            job_id,
            session_id,
            request,
            engine,
            created_at=now,
            priority=priority,
            key_id=key_id,
            output_key=secrets.token_hex(16),
            model=request.model or "",
        )
        return await self._database.write(
            lambda transaction: _submit(transaction, job, idempotency=idempotency, caps=caps, call=call),
            changes=1,
            reads=_reads_of_submit(session_id, idempotency, caps, now),
        )

    async def earlier(self, session_id: str, idempotency: Idempotency, *, now: int) -> Job | None:
        return await self._database.read(lambda connection: _earlier(connection, session_id, idempotency, now))

    def peek(self, job_id: str) -> Job | None:
        return self._finished.get(job_id) or self._cache(
            self._database.peek(lambda connection: _get(connection, job_id))
        )

    async def get(self, job_id: str) -> Job | None:
        return self._finished.get(job_id) or self._cache(
            await self._database.read(lambda connection: _get(connection, job_id))
        )

    async def get_many(self, job_ids: Sequence[str]) -> list[Job]:
        values = {"ids": job_ids}
        return await self._database.read(lambda connection: [job_of(row) for row in connection.all("get_jobs", values)])

    async def changes(self, job_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        rows = await self._database.read(lambda connection: connection.all("changes", {"ids": job_ids}))
        return {job_id: (session_id, changed) for job_id, session_id, changed in rows}

    async def last_change(self) -> int:
        row = await self._database.read(lambda connection: connection.one("last_change"))
        return int(row[0]) if row else 0

    async def queue_position(self, job: Job) -> int | None:
        if job.state is not State.QUEUED:
            return None

        def query(connection: SqlConnection) -> int | None:
            rank = connection.one("rank_in_session", {"id": job.id})
            if rank is None:
                return None
            others = connection.one("ahead_of_session", {"session_id": job.session_id, "rank": rank[0]})
            return int(rank[0] + (others[0] if others else 0) + 1)

        return await self._database.read(query)

    async def page(
        self, session_id: str, *, where: JobFilter = ALL_JOBS, limit: int, before: int | None
    ) -> tuple[list[Job], int | None]:
        return await find_page(self._database, session_id, where, limit=limit, before=before or ALL)

    async def set_favorite(self, session_id: str, job_id: str, favorite: bool, *, now: int) -> Job:
        return await self._database.write(
            lambda transaction: _set_favorite(transaction, session_id, job_id, favorite, now),
            changes=1,
            reads=(("get_job", {"id": job_id}),),
        )

    async def delete(self, session_id: str, job_ids: Sequence[str], *, now: int) -> DeletedJobs:
        return await self._database.write(
            lambda transaction: _delete(transaction, session_id, job_ids, now), changes=2 * len(job_ids)
        )

    async def count(self, session_id: str | None = None, *, now: int = 0) -> JobCounts:
        statement = "count" if session_id is None else "session_counts"
        values = {"id": session_id, "day": now // DAY}
        row = await self._database.read(lambda connection: connection.one(statement, values))
        return JobCounts(*map(int, row or (0, 0)))

    async def oldest_queued(self) -> int | None:
        row = await self._database.read(lambda connection: connection.one("oldest_queued"))
        return None if row is None else int(row[0])

    async def recent_runs(self, *, among: int) -> list[Job]:
        values = {"among": among}
        return await self._database.read(
            lambda connection: [job_of(row) for row in connection.all("recent_runs", values)]
        )

    async def claim(
        self,
        worker: str,
        *,
        now: int,
        lease_until: int,
        limit: int = 1,
        batch_key: BatchKey | None = None,
        running_cap: int = 0,
        only: ClaimFilter | None = None,
    ) -> list[Job]:
        rules = {"limit": limit, "batch_key": batch_key, "running_cap": running_cap, "only": only}
        lease = {"now": now, "worker": worker, "lease_until": lease_until}
        return await self._database.write(
            lambda transaction: _claim(transaction, **rules, **lease),  # type: ignore[arg-type]
            changes=limit,
        )

    async def change(
        self,
        job_id: str,
        change: Change,
        *,
        now: int,
        token: int | None = None,
        version: int | None = None,
        hashes: Sequence[bytes] = (),
        **values: Any,
    ) -> Job:
        values |= {"now": now, "token": token, "version": version, "hashes": hashes}
        return await self._database.write(
            lambda transaction: _change(transaction, job_id, change, **values),
            changes=1,
            reads=(("get_job", {"id": job_id}),),
        )

    async def expired_leases(self, *, now: int, worker: str = "") -> list[Job]:
        values = {"now": now, "worker": worker}
        return await self._database.read(
            lambda connection: [job_of(row) for row in connection.all("expired_leases", values)]
        )

    async def prune(
        self, *, before: int, limit: int, seconds: float = math.inf, monotonic: Callable[[], float] = time.monotonic
    ) -> int:
        def operation(transaction: Transaction) -> tuple[list[str], dict[str, int]]:
            end = monotonic() + seconds
            return _prune(transaction, before, limit, self._pruned, lambda: monotonic() < end)

        after = self._pruned
        await self._database.search(lambda connection: _read_before_deleting(connection, before, limit, after))
        ids, self._pruned = await self._database.write(operation)
        for job_id in ids:
            self._finished.pop(job_id, None)
        return len(ids)

    def forget(self, *, before: int) -> None:
        old = [job_id for job_id, job in self._finished.items() if (job.completed_at or 0) < before]
        for job_id in old:
            del self._finished[job_id]
