"""A cache of finished images in memory: clients fetch most images once, right after the job's end."""

import asyncio
from collections import OrderedDict

from umrgen.server.blobs import BlobStore, read

__all__ = ["ImageCache"]


class ImageCache:
    """An LRU cache in front of the blob store, limited by its size in bytes."""

    def __init__(self, blobs: BlobStore, limit: int) -> None:
        self._blobs = blobs
        self._limit = limit
        self._size = 0
        self._held: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._reads: dict[tuple[str, str], asyncio.Task[bytes | None]] = {}
        """Reads in progress: concurrent requests for one image share a read."""

    def forget(self, session_id: str, name: str) -> None:
        """Drop an image that was deleted."""
        if (data := self._held.pop((session_id, name), None)) is not None:
            self._size -= len(data)

    async def get(self, session_id: str, name: str) -> bytes | None:
        """Return the image; None when the blob store does not have it. Raises BlobStoreUnavailable."""
        place = (session_id, name)
        if (data := self._held.get(place)) is not None:
            self._held.move_to_end(place)
            return data
        data = await self._read(place)
        if data is not None and place not in self._held:
            self._held[place] = data
            self._size += len(data)
            while self._size > self._limit:
                self._size -= len(self._held.popitem(last=False)[1])
        return data

    async def url_for(self, session_id: str, name: str) -> str | None:
        """Return a URL at the blob store from which a client can fetch the image for a while; None without one."""
        return await self._blobs.url_for(session_id, name)

    async def _read(self, place: tuple[str, str]) -> bytes | None:
        reading = self._reads.get(place)
        if reading is None:
            reading = self._reads[place] = asyncio.create_task(read(self._blobs, *place))
            reading.add_done_callback(lambda _: self._reads.pop(place))
        return await asyncio.shield(reading)  # one client's disconnect does not cancel it for the others
