"""Thumbnails of images: stored with them, or made when one is requested first."""

import asyncio
import hashlib
import logging

from umrgen.clock import Clock
from umrgen.server.blobs import BlobStore, BlobStoreUnavailable, read
from umrgen.server.domain.job import Output, thumbnail_name
from umrgen.server.ledger import LedgerUnavailable, OutputStore
from umrgen.server.services.image_cache import ImageCache
from umrgen.server.thumbnails import thumbnail_of_file

__all__ = ["Thumbnails"]

log = logging.getLogger(__name__)

AT_A_TIME = 2
"""Thumbnails that are made at a time: a page of a gallery asks for dozens, and each takes a processor."""


class Thumbnails:
    """Returns thumbnails, and makes those that earlier versions did not store; each once, for all that request it."""

    def __init__(self, outputs: OutputStore, blobs: BlobStore, images: ImageCache, clock: Clock) -> None:
        self._outputs = outputs
        self._blobs = blobs
        self._images = images
        self._clock = clock
        self._making: dict[tuple[str, str], asyncio.Task[bytes | None]] = {}
        self._slots = asyncio.Semaphore(AT_A_TIME)

    async def get(self, image: Output) -> tuple[Output, bytes] | None:
        """Return the thumbnail of an image that is not expired, with its properties; None if none can be made.

        Raises BlobStoreUnavailable and LedgerUnavailable.
        """
        name = thumbnail_name(image.name)
        data = await self._images.get(image.session_id, name) or await self._made(image, name)
        if not data:
            return None
        digest = hashlib.sha256(data).hexdigest()
        # No response has the size in pixels of a thumbnail.
        return Output(name, image.session_id, len(data), digest, image.width, image.height, "image/webp"), data

    async def _made(self, image: Output, name: str) -> bytes | None:
        place = (image.session_id, name)
        making = self._making.get(place)
        if making is None:
            making = self._making[place] = asyncio.create_task(self._make(image, name))
            making.add_done_callback(lambda _: self._making.pop(place))
        return await asyncio.shield(making)  # one client's disconnect does not cancel it for the others

    async def _make(self, image: Output, name: str) -> bytes | None:
        async with self._slots:
            file = await read(self._blobs, image.session_id, image.name)
            data = await asyncio.to_thread(thumbnail_of_file, file) if file else b""
        if data and not await self._store(image, name, data):
            return None
        return data

    async def _store(self, image: Output, name: str, data: bytes) -> bool:
        """Store the thumbnail; return False if its image was deleted meanwhile.

        While it is stored, the ledger has a note to delete it, so that no file is left of an image that is deleted now.
        """
        try:
            if not await self._outputs.expect_file(image, name, now=self._clock.now()):
                return False
            await self._blobs.put(image.session_id, name, data)
            if await self._outputs.keep_file(image, name):
                return True
            await self._blobs.delete(image.session_id, name)
            await self._outputs.forget_files([(image.session_id, name)])
        except (BlobStoreUnavailable, LedgerUnavailable) as error:
            log.warning("the thumbnail %s is not stored: %s", name, error)
            return True  # it can be sent all the same
        return False
