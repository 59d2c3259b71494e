"""Finished images in memory: most are fetched once, a moment after they were drawn."""

import asyncio
from collections import OrderedDict

from umrgen.server.blobs import BlobStore, read

__all__ = ["Images"]


class Images:
    """The images read last, up to a number of bytes: most are fetched at once, then never again."""

    def __init__(self, blobs: BlobStore, limit: int) -> None:
        self._blobs = blobs
        self._limit = limit
        self._size = 0
        self._held: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._reads: dict[tuple[str, str], asyncio.Task[bytes | None]] = {}
        """Reads under way: clients that ask for an image at the same time share one."""

    def forget(self, session_id: str, name: str) -> None:
        """Drop an image that was deleted."""
        if (data := self._held.pop((session_id, name), None)) is not None:
            self._size -= len(data)

    async def get(self, session_id: str, name: str) -> bytes | None:
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

    async def _read(self, place: tuple[str, str]) -> bytes | None:
        reading = self._reads.get(place)
        if reading is None:
            reading = self._reads[place] = asyncio.create_task(read(self._blobs, *place))
            reading.add_done_callback(lambda _: self._reads.pop(place))
        return await asyncio.shield(reading)  # a client that disconnects does not end it for the others
