"""Older images are hashed from their files: each once, by one server, despite an outage."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from umrgen.server.blobs import BlobStoreUnavailable
from umrgen.server.blobs.memory import MemoryBlobStore
from umrgen.server.domain.job import Change, Output
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.pdq import hash_of
from umrgen.server.scheduler.leases import TaskLease
from umrgen.server.services.fingerprint_backfill import FingerprintBackfill
from umrgen.server.tasks import cancelled
from umrgen.testing import FakeClock


def png(seed: int) -> bytes:
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(cells).resize((256, 256), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def pdq(data: bytes) -> bytes:
    return hash_of(Image.open(BytesIO(data)))


class UnreliableBlobStore(MemoryBlobStore):
    failures = 0

    def __init__(self) -> None:
        super().__init__()
        self.read = asyncio.Event()

    async def open_range(
        self, session_id: str, name: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes] | None:
        if self.failures:
            self.failures -= 1
            raise BlobStoreUnavailable("the disk is away")
        self.read.set()
        return await super().open_range(session_id, name, start, end)


class Server:
    """A ledger and blobs, with images that have no fingerprints of their own."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.ledger = ledger
        self.blobs = UnreliableBlobStore()

    async def make(self, number: int, data: bytes, *, stored: bool = True) -> None:
        jobs, name = self.ledger.jobs, f"umrgen_{number}.png"
        await jobs.submit(f"ext_{number}", "sid_a", GenerationRequest("a boat", seed=1), "procedural", now=1)
        (job,) = await jobs.claim("worker", now=2, lease_until=3)
        output = Output(name, "sid_a", len(data), hashlib.sha256(data).hexdigest(), 256, 256)
        if stored:
            await self.blobs.put("sid_a", name, data)
        await jobs.change(job.id, Change.COMPLETE, now=3, token=job.token, outputs=(output,))

    def backfill(self, worker: str = "one") -> FingerprintBackfill:
        clock = FakeClock()
        lease = TaskLease(self.ledger.coordination, "fingerprint-backfill", worker, clock)
        return FingerprintBackfill(self.ledger.fingerprints, self.blobs, clock, lease)

    async def left(self) -> list[str]:
        return [image.name for image in await self.ledger.fingerprints.unhashed(limit=99)]

    async def recognises(self, data: bytes) -> bool:
        return await self.ledger.fingerprints.find(bytes(32), pdq(data)) is not None

    async def new(self) -> int:
        return len(await self.ledger.read(lambda connection: connection.all("new_fingerprints", {"limit": 99})))


@pytest.fixture
async def served() -> AsyncIterator[Server]:
    ledger = MemoryLedger()
    await ledger.open()
    yield Server(ledger)
    await ledger.close()


async def test_images_are_hashed_from_their_files(served: Server) -> None:
    await served.make(1, png(1))
    await served.make(2, b"no image")
    await served.make(3, png(3), stored=False)
    assert not await served.recognises(png(1))
    await served.backfill().once()
    assert await served.left() == []
    assert await served.recognises(png(1))
    assert not await served.recognises(png(3)), "its file is gone"


async def test_a_hash_that_the_registry_has_is_not_entered_again(served: Server) -> None:
    """Of an image that was hashed when its server was killed, or before this version."""
    await served.make(1, png(1))
    await served.make(2, png(1))
    await served.backfill().once()
    assert await served.left() == []
    assert await served.new() == 3, "two digests, one hash"


async def test_one_server_hashes(served: Server) -> None:
    await served.backfill().once()
    await served.make(1, png(1))
    await served.backfill("two").once()
    assert await served.left() == ["umrgen_1.png"]


async def test_an_image_that_cannot_be_read_now_is_hashed_later(
    served: Server, caplog: pytest.LogCaptureFixture
) -> None:
    await served.make(1, png(1))
    served.blobs.failures = 2
    running = asyncio.create_task(served.backfill().run())
    async with asyncio.timeout(30):
        await served.blobs.read.wait()
        while await served.left():  # noqa: ASYNC110 - of another thread's event there is no other sign
            await asyncio.sleep(0)
    await cancelled(running)
    assert await served.recognises(png(1))
    assert caplog.text.count("older images are not hashed, which is tried again in 60 s: the disk is away") == 2
