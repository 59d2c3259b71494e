"""Indexing of new images: all that fill a group, by one server of the ledger, despite an outage."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from umrgen.server.ledger import ALL_BITS, LedgerUnavailable, UnhashedImage
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.scheduler.leases import TaskLease
from umrgen.server.services.fingerprint_index import GROUPS, FingerprintIndex
from umrgen.server.tasks import cancelled
from umrgen.testing import FakeClock


class Store:
    """A store with some groups that are not indexed."""

    def __init__(self, groups: int) -> None:
        self.left = groups
        self.failures: list[Exception] = []
        self.done = asyncio.Event()

    async def find(self, sha256: bytes, pdq: bytes, known: bytes = ALL_BITS, *, session_id: str = "") -> None:
        raise AssertionError

    async def unhashed(self, *, limit: int) -> list[UnhashedImage]:
        raise AssertionError

    async def enter_hash(self, image: UnhashedImage, pdq: bytes | None) -> None:
        raise AssertionError

    async def index(self, *, groups: int) -> int:
        if self.failures:
            raise self.failures.pop()
        done = min(groups, self.left)
        self.left -= done
        if not self.left:
            self.done.set()
        return done


@pytest.fixture
async def ledger() -> AsyncIterator[MemoryLedger]:
    ledger = MemoryLedger()
    await ledger.open()
    yield ledger
    await ledger.close()


def index(ledger: MemoryLedger, store: Store, worker: str = "one") -> FingerprintIndex:
    clock = FakeClock()
    return FingerprintIndex(store, clock, TaskLease(ledger.coordination, "fingerprints", worker, clock))


async def test_all_groups_are_indexed(ledger: MemoryLedger) -> None:
    store = Store(3 * GROUPS + 1)
    await index(ledger, store).once()
    assert store.left == 0


async def test_one_server_indexes(ledger: MemoryLedger) -> None:
    first, second = Store(1), Store(1)
    await index(ledger, first).once()
    await index(ledger, second, "two").once()
    assert (first.left, second.left) == (0, 1)


@pytest.mark.parametrize("failure", [LedgerUnavailable("the disk is full"), KeyError("a defect")])
async def test_it_is_tried_again_after_a_failure(
    ledger: MemoryLedger, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(2)
    store.failures = [failure] * 2
    running = asyncio.create_task(index(ledger, store).run())
    async with asyncio.timeout(10):
        await store.done.wait()
    await cancelled(running)
    assert store.failures == []
    assert caplog.text.count("new images are not indexed, which is tried again in 30 s") == 2
