"""The cache of finished images."""

import asyncio
from collections.abc import AsyncIterator

from umrgen.server.services.image_cache import ImageCache


class SlowBlobStore:
    """A blob store whose reads end when `released` is set."""

    def __init__(self) -> None:
        self.reads = 0
        self.released = asyncio.Event()

    async def open_range(self, session_id: str, name: str) -> AsyncIterator[bytes] | None:
        self.reads += 1
        await self.released.wait()
        return self._parts() if name == "a.png" else None

    async def _parts(self) -> AsyncIterator[bytes]:
        yield b"im"
        yield b"age"


async def test_clients_that_read_at_the_same_time_share_a_read() -> None:
    blobs = SlowBlobStore()
    images = ImageCache(blobs, 100)  # type: ignore[arg-type]  # it only reads
    reading = [asyncio.create_task(images.get("sid", "a.png")) for _ in range(60)]
    await asyncio.sleep(0)
    reading[0].cancel()  # a client that disconnects does not end the read for the others
    await asyncio.sleep(0)
    blobs.released.set()
    assert await asyncio.gather(*reading[1:]) == [b"image"] * 59
    assert await images.get("sid", "a.png") == b"image"
    assert blobs.reads == 1


async def test_a_missing_image_is_not_cached() -> None:
    blobs = SlowBlobStore()
    blobs.released.set()
    images = ImageCache(blobs, 100)  # type: ignore[arg-type]  # it only reads
    assert [await images.get("sid", "b.png") for _ in range(2)] == [None, None]
    assert blobs.reads == 2
