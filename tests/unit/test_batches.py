"""Changes of many jobs by a cursor: what ends while others are read is reported next time."""

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
from umrgen.server.ledger import JobStore, Key
from umrgen.server.ledger.sql.database import Database
from umrgen.server.ledger.sql.jobs import SqlJobStore
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.services.caller import Caller
from umrgen.server.services.job_waits import SLICE, JobChanges, JobWaits
from umrgen.server.services.subscriptions import Subscriptions

JOBS = [f"ext_{number:03}" for number in range(2 * SLICE + 10)]
KEY = Key("key", b"", "sid_a", "", 0)


class BusyJobStore(SqlJobStore):
    """Jobs end in it between two looks: those of `ends[n]` just before the n-th."""

    def __init__(self, database: Database, ends: Sequence[Sequence[int]]) -> None:
        super().__init__(database)
        self._ends = iter(ends)

    async def _something_ends(self) -> None:
        for number in next(self._ends, ()):
            await self.change(JOBS[number], Change.CANCEL, now=2)

    async def changes(self, job_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        await self._something_ends()
        return await super().changes(job_ids)

    async def get_many(self, job_ids: Sequence[str]) -> list[Job]:
        await self._something_ends()
        return await super().get_many(job_ids)


async def ask(waits: JobWaits, since: int) -> JobChanges:
    """One call that waits for as long as it takes."""
    return await waits.changes(Caller(KEY), JOBS, since=since, seconds=60)


def job_waits(jobs: JobStore, subscriptions: Subscriptions) -> JobWaits:
    limits: Any = SimpleNamespace(charge=lambda key, count: None)
    unused: Any = None
    return JobWaits(jobs, unused, subscriptions, unused, limits, unused)


@asynccontextmanager
async def opened(ends: Sequence[Sequence[int]], subscriptions: Subscriptions) -> AsyncIterator[BusyJobStore]:
    """A ledger with JOBS in it."""
    ledger = MemoryLedger()
    jobs = BusyJobStore(ledger, ends)
    await ledger.open(subscriptions.notify)
    try:
        for job_id in JOBS:
            await ledger.jobs.submit(job_id, "sid_a", GenerationRequest("a boat", seed=1), "procedural", now=1)
        yield jobs
    finally:
        await ledger.close()


async def told_by_cursor(ends: Sequence[Sequence[int]]) -> None:
    """Follow the cursor until every job is known to be over; end the rest, one more with every call."""
    subscriptions = Subscriptions(10)
    known, since = dict.fromkeys(JOBS, State.QUEUED), 0
    ended = {number for some in ends for number in some}
    async with opened(ends, subscriptions) as jobs, asyncio.timeout(30):  # sooner than a call that waits for nothing
        waits = job_waits(jobs, subscriptions)
        while any(known[JOBS[number]] is not State.FAILED for number in ended):
            changes = await ask(waits, since)
            known |= {job.id: job.state for job in changes.jobs}
            since = changes.cursor
    assert {job_id for job_id, state in known.items() if state.over} == {JOBS[number] for number in ended}


async def test_a_cursor_from_after_the_moment_of_a_backup_hides_nothing() -> None:
    subscriptions = Subscriptions(10)
    async with opened([], subscriptions) as jobs, asyncio.timeout(30):
        changes = await ask(job_waits(jobs, subscriptions), 9999)
        assert len(changes.jobs) == len(JOBS)
        assert changes.cursor == await jobs.last_change() < 9999


async def test_a_key_at_its_limit_of_waiting_calls_is_answered_at_once() -> None:
    subscriptions = Subscriptions(1)
    async with opened([], subscriptions) as jobs, asyncio.timeout(30):
        waits, caller = job_waits(jobs, subscriptions), Caller(KEY)
        job = await waits.find(caller, JOBS[0])
        with subscriptions.subscribe(["ext_1"], owner=KEY.id):
            newest = await jobs.last_change()
            assert (await waits.changes(caller, JOBS, since=newest, seconds=60)).jobs == []
            assert await waits.wait(caller, job, known=None, seconds=60) == job


async def test_an_end_in_an_earlier_slice_is_not_lost_to_one_in_a_later() -> None:
    # The looks: all changes, then the jobs in slices. One ends that was told already, then one that is told next.
    await told_by_cursor([(), (), (0, len(JOBS) - 1)])


numbers = st.lists(st.integers(0, len(JOBS) - 1), max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=6))
def test_none_is_lost_whenever_it_ends(ends: list[list[int]]) -> None:
    seen: set[int] = set()
    once = [[number for number in some if not (number in seen or seen.add(number))] for some in ends]  # type: ignore[func-returns-value]
    asyncio.run(told_by_cursor(once))
