"""Calls that last until their jobs are over: a call that is cut off leaves its jobs to the next equal call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from umrgen.server.application import Application
from umrgen.server.domain.job import Change
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.services.api_keys import NewKey
from umrgen.server.services.caller import Caller
from umrgen.server.services.submissions import HOLD_SECONDS
from umrgen.server.settings import Settings
from umrgen.testing.clock import FakeClock, ServerClock

REQUEST = GenerationRequest("a boat", width=512, height=512, steps=1)
OTHER = msgspec.structs.replace(REQUEST, prompt="two boats")


class ServerWithoutEngine:
    """An application whose dispatcher does not run, so that jobs stay queued; and one caller."""

    def __init__(self, state: Path, ledger: str, time: FakeClock) -> None:
        self.time = time
        self.clock = ServerClock(time.monotonic)
        self.application = Application(Settings(state=state, ledger=ledger), self.clock)
        self.submissions = self.application.services.submissions

    async def open(self) -> "ServerWithoutEngine":
        await self.application.open()
        self.caller = Caller((await self.application.keys.create(NewKey("test")))[1])
        return self

    async def cut(self, *requests: GenerationRequest, caller: Caller | None = None) -> list[str]:
        """Make a call that is cancelled while it waits; return the ids of its jobs."""
        attending: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

        async def call() -> None:
            async with self.submissions.attend(caller or self.caller, requests) as jobs:
                attending.set_result([job.id for job in jobs])
                await asyncio.Event().wait()

        task = asyncio.create_task(call())
        job_ids = await attending
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return job_ids

    async def finish(self, *requests: GenerationRequest, caller: Caller | None = None) -> list[str]:
        """Make a call whose response is sent; return the ids of its jobs."""
        async with self.submissions.attend(caller or self.caller, requests) as jobs:
            return [job.id for job in jobs]

    async def jobs(self) -> int:
        return len((await self.application.ledger.jobs.page(self.caller.session_id, limit=1000, before=None))[0])


@asynccontextmanager
async def running(state: Path, time: FakeClock, ledger: str = "memory") -> AsyncIterator[ServerWithoutEngine]:
    server = await ServerWithoutEngine(state, ledger, time).open()
    try:
        yield server
    finally:
        await server.application.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerWithoutEngine]:
    async with running(tmp_path, FakeClock()) as server:
        yield server


async def test_an_equal_call_takes_the_job_of_a_call_that_was_cut_off(server: ServerWithoutEngine) -> None:
    cut = await server.cut(REQUEST)
    assert await server.finish(OTHER) != cut
    assert await server.cut(REQUEST) == cut
    assert await server.finish(REQUEST) == cut


async def test_a_call_whose_response_was_sent_leaves_nothing_to_take(server: ServerWithoutEngine) -> None:
    first = await server.finish(REQUEST)
    assert await server.finish(REQUEST) != first


async def test_two_equal_calls_that_are_both_alive_are_two_jobs(server: ServerWithoutEngine) -> None:
    async with AsyncExitStack() as stack:
        attended = [
            await stack.enter_async_context(server.submissions.attend(server.caller, [REQUEST])) for _ in range(2)
        ]
        assert len({job.id for jobs in attended for job in jobs}) == 2


async def test_one_job_is_not_taken_by_two_calls(server: ServerWithoutEngine) -> None:
    cut = await server.cut(REQUEST)
    async with AsyncExitStack() as stack:
        calls = [stack.enter_async_context(server.submissions.attend(server.caller, [REQUEST])) for _ in range(3)]
        attended = [jobs[0].id for jobs in await asyncio.gather(*calls)]
        assert len(set(attended)) == 3
        assert cut[0] in attended


async def test_a_call_for_several_images_takes_each_of_them(server: ServerWithoutEngine) -> None:
    cut = await server.cut(REQUEST, REQUEST, OTHER)
    assert sorted(await server.finish(REQUEST, REQUEST, OTHER)) == sorted(cut)
    assert await server.jobs() == 3


async def test_the_job_of_a_call_that_was_cancelled_while_it_was_written_is_taken(server: ServerWithoutEngine) -> None:
    for steps in range(12):  # iterations of the loop until the cancellation
        request = msgspec.structs.replace(REQUEST, steps=steps + 1)
        task = asyncio.create_task(server.finish(request))
        for _ in range(steps):
            await asyncio.sleep(0)
        before = await server.jobs()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
            continue  # the call ended first
        await server.finish(request)
        assert await server.jobs() <= before + 1


async def test_a_job_is_taken_within_ten_minutes(server: ServerWithoutEngine) -> None:
    cut = await server.cut(REQUEST)
    server.time.advance(599)
    assert await server.cut(REQUEST) == cut  # and ten further minutes
    server.time.advance(599)
    assert await server.cut(REQUEST) == cut
    server.time.advance(600)
    assert await server.finish(REQUEST) != cut


async def test_a_long_call_keeps_its_job(server: ServerWithoutEngine) -> None:
    async with server.submissions.attend(server.caller, [REQUEST]) as jobs:
        for _ in range(40):
            await asyncio.sleep(0)
            server.time.advance(HOLD_SECONDS / 3)
            server.clock.wake()
            for _ in range(10):
                await asyncio.sleep(0)
        assert await server.finish(REQUEST) != [jobs[0].id]


@pytest.mark.parametrize("change", [Change.CANCEL, Change.FAIL], ids=lambda change: change.value)
async def test_a_failed_job_is_not_taken(server: ServerWithoutEngine, change: Change) -> None:
    (cut,) = await server.cut(REQUEST)
    now = server.clock.now()
    if change is Change.FAIL:
        await server.application.ledger.jobs.claim("worker", now=now, lease_until=now + 1)
    await server.application.ledger.jobs.change(cut, change, now=now, error="no", error_code="no")
    assert await server.finish(REQUEST) != [cut]


async def test_the_job_of_another_caller_is_not_taken(server: ServerWithoutEngine) -> None:
    cut = await server.cut(REQUEST)
    other = Caller((await server.application.keys.create(NewKey("other")))[1])
    assert await server.finish(REQUEST, caller=other) != cut
    assert await server.finish(REQUEST) == cut


async def test_a_restart_of_the_server_cuts_its_calls_off(tmp_path: Path) -> None:
    time = FakeClock()
    server = await ServerWithoutEngine(tmp_path, "sqlite", time).open()
    attending = server.submissions.attend(server.caller, [REQUEST])
    jobs = await attending.__aenter__()
    await server.application.close()  # the call has no chance to release its job
    async with running(tmp_path, time, "sqlite") as restarted:
        assert await restarted.finish(REQUEST, caller=server.caller) == [jobs[0].id]
    await attending.__aexit__(None, None, None)


async def test_a_server_that_is_gone_holds_its_jobs_for_a_minute(tmp_path: Path) -> None:
    time = FakeClock()
    shared = f"sqlite:{tmp_path / 'ledger.sqlite3'}"
    async with (
        running(tmp_path / "a", time, shared) as first,
        running(tmp_path / "b", time, shared) as second,
        first.submissions.attend(first.caller, [REQUEST]) as jobs,
    ):
        assert await second.finish(REQUEST, caller=first.caller) != [jobs[0].id]
        time.advance(HOLD_SECONDS)  # the first server does not renew: its clock does not wake
        assert await second.finish(REQUEST, caller=first.caller) == [jobs[0].id]
