"""Connections to PostgreSQL that are lost at any time: no change is lost, made twice, or guessed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest

from cut import CuttingProxy, through
from postgres import ELSEWHERE, PostgresDatabases
from support import until
from umrgen.model import State
from umrgen.server.domain.job import Change, Job, Output
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger import Idempotency, Ledger, LedgerUnavailable
from umrgen.server.ledger.postgres import listener, pipeline
from umrgen.server.ledger.postgres.connection import PostgresAddress
from umrgen.server.ledger.postgres.ledger import PostgresLedger
from umrgen.server.ledger.postgres.writer import PostgresWriter

T = TypeVar("T")
REQUEST = GenerationRequest("a lighthouse", seed=7)
PACKETS = 200
"""More packets than the operations below send."""


@pytest.fixture
def proxy(postgres: PostgresDatabases) -> Iterator[CuttingProxy]:
    if postgres.server is None:
        pytest.skip(f"the proxy needs the socket of the server, not {ELSEWHERE}")
    proxy = CuttingProxy(postgres.server.socket)
    yield proxy
    proxy.close()


async def insist(work: Callable[[], Awaitable[T]]) -> T:
    """Repeat the call until the ledger can be used."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await work()
            except LedgerUnavailable:
                await asyncio.sleep(0)


async def run_job(ledger: Ledger) -> None:
    """Submit, claim and complete one job; each call is repeated when it failed, and is then safe to repeat."""
    once = Idempotency("once", b"body")
    submit = lambda: ledger.jobs.submit("ext_1", "sid_a", REQUEST, "fake", now=1, idempotency=once)  # noqa: E731
    job, _ = await insist(submit)
    claimed = await insist(lambda: ledger.jobs.claim("worker", now=2, lease_until=9))
    assert [each.id for each in claimed] == [job.id], "a claim that failed was not made"
    output = Output("umrgen_1.png", "sid_a", 3, "00" * 32, 512, 512)
    complete = lambda: ledger.jobs.change(  # noqa: E731
        "ext_1", Change.COMPLETE, now=3, token=claimed[0].token, outputs=(output,), step=4
    )
    await insist(complete)


async def is_cut(proxy: CuttingProxy, url: str, packet: int, *, passes_it_on: bool) -> bool:
    """Run a job whose connection is cut at this packet; return whether there was such a packet."""
    reported: list[Job] = []
    ledger = PostgresLedger(through(proxy, url))
    await ledger.open(reported.extend)
    try:
        before = proxy.cuts
        proxy.arm(packet, passes_it_on=passes_it_on)
        await run_job(ledger)
        proxy.arm(0, passes_it_on=False)
        (job,) = await insist(lambda: ledger.jobs.get_many(["ext_1"]))
        assert (job.state, job.token, job.version) == (State.COMPLETED, 1, 3)
        assert await insist(ledger.outputs.kept_bytes) == 3
        assert [(job.id, job.version) for job in reported] == [("ext_1", 1), ("ext_1", 2), ("ext_1", 3)]
        return proxy.cuts > before
    finally:
        await ledger.close()


def clear(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE jobs, sessions, outputs, idempotency, webhooks, calls")
        connection.execute("UPDATE kept SET bytes = 0")


@pytest.mark.slow
@pytest.mark.parametrize("passes_it_on", [False, True], ids=["before", "after"])
async def test_a_connection_is_cut_at_each_packet(
    postgres: PostgresDatabases, proxy: CuttingProxy, passes_it_on: bool
) -> None:
    """A call that raises has changed nothing; one that returns has changed it once, also after a cut in a commit."""
    url, number = postgres.create(), 1
    while await is_cut(proxy, url, number, passes_it_on=passes_it_on):
        clear(url)
        number += 1
        assert number < PACKETS
    assert number > 10


async def test_the_end_of_a_commit_is_learned_when_the_server_is_back(
    postgres: PostgresDatabases, proxy: CuttingProxy
) -> None:
    """The connection is cut in a commit, and no other is accepted: the call waits, and calls after it fail."""
    ledger = PostgresLedger(through(proxy, postgres.create()))
    await ledger.open()
    try:
        proxy.cut_on = b"COMMIT\0"  # PostgreSQL's confirmation
        waiting = asyncio.create_task(ledger.jobs.submit("ext_2", "sid_a", REQUEST, "fake", now=1))
        async with asyncio.timeout(20):
            while not proxy.cuts:  # noqa: ASYNC110 - it happens in a thread
                await asyncio.sleep(0)
            assert proxy.refusing.is_set()
            with pytest.raises(LedgerUnavailable):
                await ledger.jobs.submit("ext_3", "sid_a", REQUEST, "fake", now=1)
            assert not waiting.done()
            proxy.refusing.clear()
            job, new = await waiting
        assert (job.id, new) == ("ext_2", True)
        assert {job.id for job in await ledger.jobs.get_many(["ext_2", "ext_3"])} == {"ext_2"}
    finally:
        proxy.refusing.clear()
        await ledger.close()


async def test_changes_during_a_lost_notification_connection_are_reported_later(
    postgres: PostgresDatabases, proxy: CuttingProxy, caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres.create()
    seen: asyncio.Queue[Sequence[Job]] = asyncio.Queue()
    watcher, other = PostgresLedger(through(proxy, url)), PostgresLedger(url)
    await watcher.open(lambda jobs: None, seen.put_nowait)
    await other.open()
    try:
        async with asyncio.timeout(20):
            await other.jobs.submit("ext_1", "sid_a", REQUEST, "fake", now=1)
            assert [job.id for job in await seen.get()] == ["ext_1"]
            with caplog.at_level(logging.WARNING):
                proxy.refusing.set()
                proxy.cut_all()
                await other.jobs.submit("ext_2", "sid_a", REQUEST, "fake", now=1)
                with pytest.raises(LedgerUnavailable):
                    await watcher.jobs.get("ext_2")
                proxy.refusing.clear()
                assert [job.id for job in await seen.get()] == ["ext_2"]
        lost, back = [record.message for record in caplog.records]
        assert lost.startswith("the connection to PostgreSQL was lost; calls that need it get 503 until it is back")
        assert back.startswith("PostgreSQL is back after")
    finally:
        await watcher.close()
        await other.close()


@pytest.mark.slow
async def test_a_network_that_passes_nothing_on_is_a_lost_connection(
    postgres: PostgresDatabases, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No connection is closed, so only the missing answer shows it; calls do not wait without end."""
    monkeypatch.setattr(listener, "SILENCE", 0.1)
    monkeypatch.setattr(listener, "ANSWER", 1.0)
    monkeypatch.setattr(pipeline, "ANSWER", 1.0)
    ledger = PostgresLedger(through(proxy, postgres.create()))
    await ledger.open()
    try:
        async with asyncio.timeout(40):
            await ledger.jobs.submit("ext_1", "sid_a", REQUEST, "fake", now=1)
            proxy.stall()
            with pytest.raises(LedgerUnavailable):
                await ledger.jobs.submit("ext_2", "sid_a", REQUEST, "fake", now=1)
            await asyncio.to_thread(until, lambda: "did not answer" in caplog.text)
            with pytest.raises(LedgerUnavailable, match="is lost"):
                await ledger.jobs.get("ext_1")
            proxy.resume()
            job, _ = await insist(lambda: ledger.jobs.submit("ext_2", "sid_a", REQUEST, "fake", now=1))
            assert [job.id for job in await ledger.jobs.get_many(["ext_1", "ext_2"])] == ["ext_1", job.id]
    finally:
        proxy.resume()
        await ledger.close()


@pytest.mark.slow
async def test_a_server_that_stops_inside_a_transaction_holds_the_others_for_15_seconds(
    postgres: PostgresDatabases,
) -> None:
    """Others get an error after 5 s, and then PostgreSQL ends the transaction."""
    url = postgres.create()
    ledger, stopped = PostgresLedger(url), PostgresWriter(PostgresAddress(url))
    await ledger.open()
    try:
        stopped.begin()
        submit = lambda: ledger.jobs.submit("ext_1", "sid_a", REQUEST, "fake", now=1)  # noqa: E731
        with pytest.raises(LedgerUnavailable, match="lock timeout"):
            await submit()
        _, new = await insist(submit)
        assert new
    finally:
        stopped.close()
        await ledger.close()


def test_the_packets_of_the_proxy_are_those_of_a_socket(postgres: PostgresDatabases, proxy: CuttingProxy) -> None:
    assert postgres.server is not None
    assert isinstance(postgres.server.socket, Path)
    with psycopg.connect(through(proxy, postgres.admin_url)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert proxy.packets > 1
