"""Two servers that share a ledger and a folder of images, in one process."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from postgres import PostgresDatabases
from transports import Http
from umrgen.clock import Clock, SystemClock
from umrgen.image_files import verify
from umrgen.server.application import Application
from umrgen.server.domain.job import Change
from umrgen.server.services.api_keys import NewKey
from umrgen.server.settings import Settings

SMALL = {"width": 512, "height": 512, "steps": 1}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The setting of the ledger that the servers share."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'ledger.sqlite3'}"
    databases: PostgresDatabases = request.getfixturevalue("postgres")
    return databases.create()


def make_server(ledger: str, tmp_path: Path, name: str, clock: Clock | None = None, **settings: Any) -> Application:
    """Return a server with a separate state folder, and the shared ledger and images."""
    shared = {"ledger": ledger, "blobs": f"local:{tmp_path / 'outputs'}"}
    return Application(Settings(state=tmp_path / name, url_ttl=3600, **shared, **settings), clock)


async def start_server(application: Application) -> Application:
    await application.open()
    application.start()
    await application.executor.ready()
    return application


@pytest.fixture
async def servers(ledger: str, tmp_path: Path) -> AsyncIterator[tuple[Application, Application]]:
    both = [await start_server(make_server(ledger, tmp_path, name)) for name in ("first", "second")]
    yield both[0], both[1]
    for application in both:
        await application.drain(0)
        await application.close()


async def test_each_job_runs_exactly_once(
    servers: tuple[Application, Application], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each server accepts half of the jobs, and each responds to status calls for the jobs of the other."""
    drawn: Counter[str] = Counter()
    workers: Counter[int] = Counter()
    for number, server in enumerate(servers):
        run = server.executor.run

        async def counted(task: Any, *arguments: Any, run: Any = run, number: int = number) -> Any:
            drawn[task.job_id] += 1
            workers[number] += 1
            return await run(task, *arguments)

        monkeypatch.setattr(server.executor, "run", counted)
    secret, _ = await servers[0].keys.create(NewKey("both"))
    callers = [Http(server, secret) for server in servers]
    async with asyncio.timeout(60):
        jobs = await asyncio.gather(*(callers[n % 2].submit(f"a boat, {n}", **SMALL) for n in range(12)))
        ends = await asyncio.gather(*(callers[(n + 1) % 2].wait(job) for n, job in enumerate(jobs)))
        assert ends == [("completed", None)] * len(jobs)
        images = [await callers[n % 2].fetch(job) for n, job in enumerate(jobs)]
    assert len({verify(image).sha256 for image in images}) == len(jobs)
    assert drawn == dict.fromkeys(jobs, 1)
    assert set(workers) == {0, 1}, "both servers have drawn"


async def test_a_long_poll_at_one_server_returns_after_a_cancel_at_the_other(
    servers: tuple[Application, Application],
) -> None:
    secret, _ = await servers[0].keys.create(NewKey("both"))
    first, second = (Http(server, secret) for server in servers)
    async with asyncio.timeout(60):
        for server in servers:
            await server.dispatcher.drain(0)  # no server draws: the job stays queued
        job = await first.submit("a boat", **SMALL)
        waiting = asyncio.create_task(second.wait(job))
        while not len(servers[1].subscriptions):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
        assert await first.cancel(job) == "cancelled"
        assert await waiting == ("failed", "cancelled")


async def test_a_long_poll_at_one_server_returns_when_the_other_finishes_the_job(
    servers: tuple[Application, Application],
) -> None:
    secret, _ = await servers[0].keys.create(NewKey("both"))
    async with asyncio.timeout(60):
        await servers[0].dispatcher.drain(0)  # only the second server draws
        caller = Http(servers[0], secret)
        job = await caller.submit("a boat", **SMALL)
        assert await caller.wait(job) == ("completed", None)
        verify(await caller.fetch(job))


async def test_concurrent_submits_to_both_servers_with_one_key_create_one_job(
    servers: tuple[Application, Application],
) -> None:
    secret, _ = await servers[0].keys.create(NewKey("both", daily=1))
    callers = [Http(server, secret) for server in servers]
    jobs = await asyncio.gather(*(callers[n % 2].submit("a boat", key="once", **SMALL) for n in range(8)))
    assert len(set(jobs)) == 1, "the key's limit of one job a day would refuse a second job"


async def test_a_start_does_not_change_jobs_and_files_of_the_other_server(ledger: str, tmp_path: Path) -> None:
    """The first server runs a job and has an unfinished file when the second starts and runs its retention."""
    first = await start_server(make_server(ledger, tmp_path, "first", step_delay=600.0, cancel_grace=0.0))
    try:
        secret, _ = await first.keys.create(NewKey("both"))
        caller = Http(first, secret)
        done = await caller.submit("a boat", **SMALL)
        assert await caller.wait(done) == ("completed", None)
        running = await caller.submit("a boat that takes long", **SMALL | {"steps": 2})
        async with asyncio.timeout(30):
            while (job := await first.ledger.jobs.get(running)) is None or job.step == 0:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0)
        unfinished = next((tmp_path / "outputs" / ".incoming").iterdir()) / "unfinished"
        unfinished.write_bytes(b"half")
        second = await start_server(make_server(ledger, tmp_path, "second"))
        try:
            await second.retention.once()
            now = await second.ledger.jobs.get(running)
            assert now is not None
            assert (now.state, now.token, now.worker) == (job.state, job.token, job.worker)
            assert unfinished.exists()
            verify(await Http(second, secret).fetch(done))
        finally:
            await second.drain(0)
            await second.close()
    finally:
        await first.ledger.jobs.change(running, Change.CANCEL, now=0)
        await first.drain(0)
        await first.close()


class WrongClock(SystemClock):
    """The clock of a machine that is a minute ahead, or behind."""

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead

    def now(self) -> int:
        return super().now() + self._ahead


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [60_000, -60_000])
async def test_a_clock_that_is_wrong_by_a_minute_takes_and_loses_no_lease(
    postgres: PostgresDatabases, tmp_path: Path, ahead: int
) -> None:
    """The time of PostgreSQL's machine counts. A job runs at each server while both check the leases, every second."""
    url, slow = postgres.create(), {"step_delay": 1.0, "lease": 3.0, "cancel_grace": 0.0}
    right = await start_server(make_server(url, tmp_path, "right", **slow))
    wrong = await start_server(make_server(url, tmp_path, "wrong", clock=WrongClock(ahead), **slow))
    secret, _ = await right.keys.create(NewKey("both"))
    try:
        async with asyncio.timeout(60):
            callers = [Http(server, secret) for server in (right, wrong)]
            jobs = [await caller.submit("a boat", **SMALL | {"steps": 5}) for caller in callers]
            assert [await callers[0].wait(job) for job in jobs] == [("completed", None)] * 2
        records = [await right.ledger.jobs.get(job) for job in jobs]
        assert len({record.id for record in records if record is not None and record.attempt == 1}) == 2
        times = [record.created_at for record in records if record is not None]
        assert abs(times[0] - times[1]) < 30_000, "both records have the time of the database"
    finally:
        for server in (right, wrong):
            await server.drain(0)
            await server.close()


async def test_the_lease_of_a_task_is_exclusive_until_it_expires_or_is_released(ledger: str, tmp_path: Path) -> None:
    """Only the server that holds the lease of retention or of webhooks does this task."""
    first, second = make_server(ledger, tmp_path, "first"), make_server(ledger, tmp_path, "second")
    await first.open()
    await second.open()
    store = first.ledger.coordination
    assert await store.acquire("retention", "first", now=0, until=60_000)
    assert not await second.ledger.coordination.acquire("retention", "second", now=59_999, until=120_000)
    assert await store.acquire("retention", "first", now=30_000, until=90_000), "the holder can renew it"
    assert await second.ledger.coordination.acquire("retention", "second", now=90_000, until=150_000)
    await second.ledger.coordination.release("retention", "second")
    assert await store.acquire("retention", "first", now=90_001, until=150_000)
    for application in (first, second):
        await application.close()
