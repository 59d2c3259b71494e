"""Batch calls with a cursor: a change during a read is reported by the next call."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from umrgen.model import State
from umrgen.server.domain.job import Change, Job
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger import ALL_JOBS, JobFilter, JobStore, Key
from umrgen.server.ledger.sql.database import Database
from umrgen.server.ledger.sql.jobs import SqlJobStore
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.services.caller import Caller
from umrgen.server.services.job_waits import SLICE, JobChanges, JobWaits
from umrgen.server.services.subscriptions import Subscriptions

JOBS = [f"ext_{number:03}" for number in range(2 * SLICE + 10)]
KEY = Key("key", b"", "sid_a", "", 0)


class BusyJobStore(SqlJobStore):
    """A job store in which the jobs of `ends[n]` end just before the n-th read."""

    def __init__(self, database: Database, ends: Sequence[Sequence[int]]) -> None:
        super().__init__(database)
        self._ends = iter(ends)
        self.searched = asyncio.Event()
        self.search_ends = asyncio.Event()

    async def page(
        self, session_id: str, *, where: JobFilter = ALL_JOBS, limit: int, before: int | None
    ) -> tuple[list[Job], int | None]:
        self.searched.set()
        await self.search_ends.wait()
        return await super().page(session_id, where=where, limit=limit, before=before)

    async def _end_next(self) -> None:
        for number in next(self._ends, ()):
            await self.change(JOBS[number], Change.CANCEL, now=2)

    async def changes(self, job_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        await self._end_next()
        return await super().changes(job_ids)

    async def get_many(self, job_ids: Sequence[str]) -> list[Job]:
        await self._end_next()
        return await super().get_many(job_ids)


async def poll(waits: JobWaits, since: int) -> JobChanges:
    """Make a batch call that waits for a change."""
    return await waits.changes(Caller(KEY), JOBS, since=since, seconds=60)


async def no_webhooks(job_ids: Sequence[str]) -> dict[str, Any]:
    return {}


def job_waits(jobs: JobStore, subscriptions: Subscriptions) -> JobWaits:
    limits: Any = SimpleNamespace(charge=lambda key, count: None)
    webhooks: Any = SimpleNamespace(of_jobs=no_webhooks)
    unused: Any = None
    return JobWaits(jobs, unused, subscriptions, unused, limits, unused, webhooks, 60.0)


@asynccontextmanager
async def opened(ends: Sequence[Sequence[int]], subscriptions: Subscriptions) -> AsyncIterator[BusyJobStore]:
    """Yield a job store with JOBS in it."""
    ledger = MemoryLedger()
    jobs = BusyJobStore(ledger, ends)
    await ledger.open(subscriptions.notify)
    try:
        for job_id in JOBS:
            await ledger.jobs.submit(job_id, "sid_a", GenerationRequest("a boat", seed=1), "procedural", now=1)
        yield jobs
    finally:
        await ledger.close()


async def follow_cursor(ends: Sequence[Sequence[int]]) -> None:
    """Follow the cursor until every job of `ends` is reported as over, and no other."""
    subscriptions = Subscriptions(10)
    known, since = dict.fromkeys(JOBS, State.QUEUED), 0
    ended = {number for some in ends for number in some}
    async with opened(ends, subscriptions) as jobs, asyncio.timeout(30):  # shorter than a call that misses a change
        waits = job_waits(jobs, subscriptions)
        while any(known[JOBS[number]] is not State.FAILED for number in ended):
            changes = await poll(waits, since)
            known |= {job.id: job.state for job in changes.jobs}
            since = changes.cursor
    assert {job_id for job_id, state in known.items() if state.over} == {JOBS[number] for number in ended}


async def test_a_cursor_newer_than_the_ledger_returns_all_jobs() -> None:
    subscriptions = Subscriptions(10)
    async with opened([], subscriptions) as jobs, asyncio.timeout(30):
        changes = await poll(job_waits(jobs, subscriptions), 9999)
        assert len(changes.jobs) == len(JOBS)
        assert changes.cursor == await jobs.last_change() < 9999


async def test_a_key_at_its_limit_of_waiting_calls_gets_an_immediate_response() -> None:
    subscriptions = Subscriptions(1)
    async with opened([], subscriptions) as jobs, asyncio.timeout(30):
        waits, caller = job_waits(jobs, subscriptions), Caller(KEY)
        job = await waits.find(caller, JOBS[0])
        with subscriptions.subscribe(["ext_1"], owner=KEY.id):
            newest = await jobs.last_change()
            assert (await waits.changes(caller, JOBS, since=newest, seconds=60)).jobs == []
            assert await waits.wait(caller, job, known=None, seconds=60) == job


async def test_a_batch_does_not_wait_for_a_search() -> None:
    subscriptions = Subscriptions(10)
    async with opened([], subscriptions) as jobs, asyncio.timeout(30):
        waits, caller = job_waits(jobs, subscriptions), Caller(KEY)
        search = asyncio.create_task(waits.page(caller, where=JobFilter(words=("boat",)), limit=1, before=None))
        await jobs.searched.wait()
        assert len((await poll(waits, 0)).jobs) == len(JOBS)
        jobs.search_ends.set()
        assert len((await search)[0]) == 1


async def test_a_change_in_an_earlier_slice_is_reported_after_one_in_a_later_slice() -> None:
    # The reads: all changes, then the jobs in slices. A job of a slice that was read ends, then one of the next slice.
    await follow_cursor([(), (), (0, len(JOBS) - 1)])


numbers = st.lists(st.integers(0, len(JOBS) - 1), max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=6))
def test_no_change_is_lost_at_any_order_of_changes(ends: list[list[int]]) -> None:
    seen: set[int] = set()
    once = [[number for number in some if not (number in seen or seen.add(number))] for some in ends]  # type: ignore[func-returns-value]
    asyncio.run(follow_cursor(once))
