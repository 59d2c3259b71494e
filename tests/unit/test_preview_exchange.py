"""Previews that one server watches and another one makes."""

from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from support import Clock
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.scheduler.preview_exchange import LARGEST, MOST, PreviewExchange
from umrgen.server.scheduler.previews import Previews


class Side:
    """One server's previews, and the jobs that it draws."""

    def __init__(self, ledger: MemoryLedger, clock: Clock) -> None:
        self.running: list[str] = []
        self.shown: set[str] = set()
        self.woken: list[str] = []
        self.previews = Previews(self._show, self.woken.append)
        self.exchange = PreviewExchange(ledger.previews, self.previews, lambda: self.running, clock)

    def _show(self, job_id: str, wanted: bool) -> None:
        (self.shown.add if wanted else self.shown.discard)(job_id)


class Exchange:
    """Two servers of one ledger: one watches, one draws."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.ledger, self.clock = ledger, Clock()
        self.watching, self.drawing = Side(ledger, self.clock), Side(ledger, self.clock)

    async def round(self) -> None:
        for side in (self.watching, self.drawing, self.watching):
            await side.exchange.once()


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    ledger = MemoryLedger()
    await ledger.open()
    yield Exchange(ledger)
    await ledger.close()


async def test_a_preview_is_passed_on_while_it_is_watched(exchange: Exchange) -> None:
    watching, drawing = exchange.watching, exchange.drawing
    drawing.running = ["ext_1", "ext_2"]
    with watching.previews.watch("ext_1"):
        await exchange.round()
        assert drawing.shown == {"ext_1"}, "only previews that are watched are made"
        for image in (b"one", b"two"):
            drawing.previews.put("ext_1", image)
            exchange.clock.at += 0.5
            await exchange.round()
            assert watching.previews.last("ext_1") == image
        await exchange.round()
        assert watching.woken == ["ext_1"] * 2, "the same preview is read once"
    exchange.clock.at += 31
    await exchange.round()
    assert drawing.shown == set(), "without a watcher, no preview is made"


async def test_a_watch_is_renewed_for_as_long_as_it_lasts(exchange: Exchange) -> None:
    exchange.drawing.running = ["ext_1"]
    with exchange.watching.previews.watch("ext_1"):
        for _ in range(10):
            exchange.clock.at += 11
            await exchange.round()
            assert exchange.drawing.shown == {"ext_1"}


async def test_the_preview_of_a_job_that_is_over_is_deleted(exchange: Exchange) -> None:
    exchange.drawing.running = ["ext_1"]
    with exchange.watching.previews.watch("ext_1"):
        await exchange.round()
        exchange.drawing.previews.put("ext_1", b"one")
        await exchange.round()
        exchange.drawing.running = []
        await exchange.drawing.exchange.once()
        assert await exchange.ledger.previews.newer({"ext_1": 0}, limit=9) == {}


async def test_large_previews_and_those_of_more_jobs_are_not_written(exchange: Exchange) -> None:
    jobs = [f"ext_{number:02}" for number in range(MOST + 1)]
    exchange.drawing.running = jobs
    await exchange.ledger.previews.watch(jobs, now=exchange.clock.now(), until=2**50)
    await exchange.drawing.exchange.once()
    assert exchange.drawing.shown == set(jobs[:MOST])
    exchange.drawing.previews.put(jobs[0], bytes(LARGEST + 1))
    for job_id in jobs[1:]:
        exchange.drawing.previews.put(job_id, bytes(LARGEST))
    await exchange.drawing.exchange.once()
    assert sorted(await exchange.ledger.previews.newer(dict.fromkeys(jobs, 0), limit=9)) == jobs[1:MOST]


async def test_watchers_of_queued_jobs_do_not_keep_others_from_a_preview(exchange: Exchange) -> None:
    exchange.drawing.running = ["ext_1"]
    with ExitStack() as stack:
        for number in range(2 * MOST):
            stack.enter_context(exchange.watching.previews.watch(f"ext_queued_{number}"))
        stack.enter_context(exchange.watching.previews.watch("ext_1"))
        await exchange.round()
        exchange.drawing.previews.put("ext_1", b"one")
        await exchange.round()
        assert exchange.watching.previews.last("ext_1") == b"one"


async def test_some_previews_are_read_at_a_time_and_none_is_left_out(exchange: Exchange) -> None:
    jobs = [f"ext_{number:02}" for number in range(2 * MOST)]
    store, side = exchange.ledger.previews, exchange.watching
    with ExitStack() as stack:
        for job_id in jobs:
            stack.enter_context(side.previews.watch(job_id))
        await side.exchange.once()
        await store.put(dict.fromkeys(jobs, b"one"), version=1)
        await side.exchange.once()
        await store.put({jobs[0]: b"two"}, version=2)
        assert len(side.woken) == MOST
        await side.exchange.once()
        assert sorted(side.woken) == jobs, "the ones that were written longest ago are read first"


async def test_a_server_exchanges_no_preview_of_the_jobs_it_draws(exchange: Exchange) -> None:
    side = exchange.drawing
    side.running = ["ext_1"]
    with ExitStack() as stack:
        stack.enter_context(side.previews.watch("ext_1"))
        side.previews.put("ext_1", b"one")
        await side.exchange.once()
    assert await exchange.ledger.previews.watched(["ext_1"], now=0) == []
