"""The checks that images and the ledger can be stored, and the log lines about them."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from simulation.leaping import LeapingLoop

from umrgen.server.blobs import BlobStoreUnavailable
from umrgen.server.ledger import LedgerUnavailable
from umrgen.server.services.refusal import Refusal
from umrgen.server.services.storage_health import StorageHealth


class LoopClock:
    def now(self) -> int:
        return int(self.monotonic() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Storage:
    """The blob store, the ledger and the admission of `StorageHealth`, one of which may fail or hang."""

    def __init__(self) -> None:
        self.failing = ""
        self.checks = 0

    async def _use(self, name: str, error: Exception) -> None:
        self.checks += 1
        while self.failing == "hang":  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(1)
        if self.failing == name:
            raise error

    async def check(self) -> None:
        await self._use("blobs", BlobStoreUnavailable("the image could not be stored: No space left on device"))

    async def check_storage(self) -> None:
        await self._use("space", Refusal("storage_full"))

    async def acquire(self, *_: object, **values: object) -> bool:
        await self._use("ledger", LedgerUnavailable("the ledger cannot be written"))
        await self._use("defect", RuntimeError("a defect"))
        return True


FAULTS = ["blobs", "space", "ledger", "defect", "hang"]


@pytest.fixture
def loop() -> Iterator[LeapingLoop]:
    loop = LeapingLoop()
    yield loop
    loop.close()


def made() -> tuple[StorageHealth, Storage]:
    storage: Any = Storage()
    return StorageHealth(storage, storage, storage, LoopClock(), "worker"), storage


@pytest.mark.parametrize("fault", FAULTS)
def test_the_server_is_not_ready_while_something_cannot_be_stored(loop: LeapingLoop, fault: str) -> None:
    async def scenario() -> None:
        health, storage = made()
        assert await health.is_well()
        storage.failing = fault
        await asyncio.sleep(11)
        assert not await health.is_well()
        storage.failing = ""
        await health.stop()
        await asyncio.sleep(3)
        assert await health.is_well()

    loop.run_until_complete(scenario())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_full_disk_is_a_few_log_lines(loop: LeapingLoop, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """One on entering, one every ten minutes, one on leaving; although there is a probe each second."""

    async def scenario() -> None:
        health, storage = made()
        running = asyncio.create_task(health.run())
        while loop.time() < 7200:
            storage.failing = fault if 600 <= loop.time() < 4200 else ""
            await health.is_well()
            await asyncio.sleep(1)
        running.cancel()
        await health.stop()

    caplog.set_level(logging.INFO)
    loop.run_until_complete(scenario())
    lines = [line for line in caplog.messages if "could not be checked" not in line or "not ready" in line]
    assert 6 <= len(lines) <= 8, lines
    assert "the server is not ready" in lines[0]
    assert lines[-1].startswith("images and the ledger can be stored again, after 3")


def test_frequent_probes_do_not_multiply_the_checks(loop: LeapingLoop) -> None:
    async def scenario() -> None:
        health, storage = made()
        for fault, most in (("", 4 * 7), ("blobs", 60 + 4)):
            storage.failing, storage.checks = fault, 0
            for _ in range(6000):
                await asyncio.gather(*(health.is_well() for _ in range(3)))
                await asyncio.sleep(0.01)
            assert 0 < storage.checks <= most

    loop.run_until_complete(scenario())


def test_a_probe_waits_a_bounded_time(loop: LeapingLoop) -> None:
    async def scenario() -> None:
        health, storage = made()
        storage.failing = "hang"
        assert not await health.is_well()
        assert loop.time() < 3.1
        await health.stop()

    loop.run_until_complete(scenario())
