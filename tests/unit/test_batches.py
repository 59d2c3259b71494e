"""`POST /api/v1/status` by its cursor: what ends while others are told is told next time."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from umrgen.jobs import Change, Job, JobSpec
from umrgen.server.http import batch
from umrgen.server.ledger.memory import MemoryLedger
from umrgen.server.services.job_waits import JobWaits

JOBS = [f"ext_{number:03}" for number in range(2 * batch.SLICE + 10)]
KEY = SimpleNamespace(id="key", session_id="sid_a")


class BusyLedger(MemoryLedger):
    """Jobs end in it between two looks: those of `ends[n]` just before the n-th."""

    def __init__(self, ends: Sequence[Sequence[int]]) -> None:
        super().__init__()
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


async def ask(services: Any, since: str | None) -> dict[str, Any]:
    """One call that is held for as long as it takes."""
    body = json.dumps({"job_ids": JOBS} | ({"since": since} if since else {})).encode()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        if (message := next(messages, None)) is not None:
            return message
        return await asyncio.get_running_loop().create_future()

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [(b"prefer", b"wait=5")]}
    scope["state"] = {}
    response = await batch.statuses(services, Request(scope, receive), KEY)  # type: ignore[arg-type]
    answer: dict[str, Any] = json.loads(bytes(response.body))
    return answer


def services_of(ledger: MemoryLedger, waits: JobWaits) -> SimpleNamespace:
    return SimpleNamespace(
        ledger=ledger,
        waits=waits,
        heavy=asyncio.Semaphore(1),
        signatures=SimpleNamespace(sign=str),
        settings=SimpleNamespace(max_wait=60),
        limits=SimpleNamespace(charge=lambda key, count: None),
    )


@asynccontextmanager
async def opened(ends: Sequence[Sequence[int]], waits: JobWaits) -> AsyncIterator[BusyLedger]:
    """A ledger with JOBS in it."""
    ledger = BusyLedger(ends)
    await ledger.open(waits.notify)
    try:
        for job_id in JOBS:
            await ledger.submit(job_id, "sid_a", JobSpec("a boat", seed=1), "procedural", now=1)
        yield ledger
    finally:
        await ledger.close()


async def told_by_cursor(ends: Sequence[Sequence[int]]) -> None:
    """Follow the cursor until every job is known to be over; end the rest, one more with every call."""
    waits = JobWaits(10)
    known, since = dict.fromkeys(JOBS, ""), None
    ended = {number for some in ends for number in some}
    async with opened(ends, waits) as ledger, asyncio.timeout(4):  # sooner than a call that is held for nothing
        services = services_of(ledger, waits)
        while any(known[JOBS[number]] != "failed" for number in ended):
            answer = await ask(services, since)
            known |= {job["job_id"]: job["state"] for job in answer["jobs"]}
            since = answer["cursor"]
    assert {job_id for job_id, state in known.items() if state == "failed"} == {JOBS[number] for number in ended}


async def test_a_cursor_from_after_the_moment_of_a_backup_hides_nothing() -> None:
    waits = JobWaits(10)
    async with opened([], waits) as ledger, asyncio.timeout(4):
        answer = await ask(services_of(ledger, waits), "9999")
        assert len(answer["jobs"]) == len(JOBS)
        assert int(answer["cursor"]) == await ledger.last_change() < 9999


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
