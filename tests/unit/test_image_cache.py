"""The cache of finished images."""

import asyncio

from umrgen.server.services.image_cache import Images


class SlowStorage:
    """A storage whose reads end when `released` is set."""

    def __init__(self) -> None:
        self.reads = 0
        self.released = asyncio.Event()

    async def get(self, session_id: str, name: str) -> bytes | None:
        self.reads += 1
        await self.released.wait()
        return b"image" if name == "a.png" else None


async def test_clients_that_ask_at_the_same_time_share_a_read() -> None:
    storage = SlowStorage()
    images = Images(storage, 100)  # type: ignore[arg-type]  # it only reads
    asked = [asyncio.create_task(images.get("sid", "a.png")) for _ in range(60)]
    await asyncio.sleep(0)
    asked[0].cancel()  # a client that disconnects ends nothing for the others
    await asyncio.sleep(0)
    storage.released.set()
    assert await asyncio.gather(*asked[1:]) == [b"image"] * 59
    assert await images.get("sid", "a.png") == b"image"
    assert storage.reads == 1


async def test_what_is_not_there_is_asked_for_again() -> None:
    storage = SlowStorage()
    storage.released.set()
    images = Images(storage, 100)  # type: ignore[arg-type]  # it only reads
    assert [await images.get("sid", "b.png") for _ in range(2)] == [None, None]
    assert storage.reads == 2
