"""The store of jobs."""

import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from umrgen.model import State
from umrgen.server.domain.job import Change, Job
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger.sql.database import Database, SqlConnection, Transaction
from umrgen.server.ledger.sql.job_changes import change_job, claim_jobs, delete_jobs, set_favorite
from umrgen.server.ledger.sql.pages import find_page
from umrgen.server.ledger.sql.pruning import prune_jobs, read_before_pruning
from umrgen.server.ledger.sql.rows import find_job, job_of
from umrgen.server.ledger.sql.submitting import earlier_job, enter_job, reads_of_submit
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
ALL = 2**62
"""A number above every cursor."""


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
            lambda transaction: enter_job(transaction, job, idempotency=idempotency, caps=caps, call=call),
            changes=1,
            reads=reads_of_submit(session_id, idempotency, caps, now),
        )

    async def earlier(self, session_id: str, idempotency: Idempotency, *, now: int) -> Job | None:
        return await self._database.read(lambda connection: earlier_job(connection, session_id, idempotency, now))

    def peek(self, job_id: str) -> Job | None:
        return self._finished.get(job_id) or self._cache(
            self._database.peek(lambda connection: find_job(connection, job_id))
        )

    async def get(self, job_id: str) -> Job | None:
        return self._finished.get(job_id) or self._cache(
            await self._database.read(lambda connection: find_job(connection, job_id))
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
            lambda transaction: set_favorite(transaction, session_id, job_id, favorite, now),
            changes=1,
            reads=(("get_job", {"id": job_id}),),
        )

    async def delete(self, session_id: str, job_ids: Sequence[str], *, now: int) -> DeletedJobs:
        return await self._database.write(
            lambda transaction: delete_jobs(transaction, session_id, job_ids, now), changes=2 * len(job_ids)
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
            lambda transaction: claim_jobs(transaction, **rules, **lease),  # type: ignore[arg-type]
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
            lambda transaction: change_job(transaction, job_id, change, **values),
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
            return prune_jobs(transaction, before, limit, self._pruned, lambda: monotonic() < end)

        after = self._pruned
        await self._database.search(lambda connection: read_before_pruning(connection, before, limit, after))
        ids, self._pruned = await self._database.write(operation)
        for job_id in ids:
            self._finished.pop(job_id, None)
        return len(ids)

    def forget(self, *, before: int) -> None:
        old = [job_id for job_id, job in self._finished.items() if (job.completed_at or 0) < before]
        for job_id in old:
            del self._finished[job_id]
