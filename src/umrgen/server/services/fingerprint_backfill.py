"""Fingerprints for images that have none: made before the registry existed, or adopted from their files."""

import asyncio
import logging

from umrgen.clock import Clock
from umrgen.server.blobs import BlobStore, read
from umrgen.server.engines import EncodedImage
from umrgen.server.engines.encoding import fingerprint
from umrgen.server.ledger import FingerprintStore, UnhashedImage
from umrgen.server.scheduler.leases import TaskLease
from umrgen.server.services.repetition import repeat

__all__ = ["FingerprintBackfill"]

log = logging.getLogger(__name__)

INTERVAL = 60.0
"""Seconds between two looks for such images."""
BATCH = 50
PAUSE = 0.2
"""Seconds between two images at least. It pauses as long as an image takes: it uses half of a processor at most."""
_NO_DIGEST = bytes(32)


class FingerprintBackfill:
    """Hashes the files of such images, one at a time, on the one server of a ledger that holds the lease."""

    def __init__(self, fingerprints: FingerprintStore, blobs: BlobStore, clock: Clock, lease: TaskLease) -> None:
        self._fingerprints = fingerprints
        self._blobs = blobs
        self._clock = clock
        self._lease = lease

    async def run(self) -> None:
        """Hash such images until the task is cancelled."""
        await repeat(self.once, self._clock, INTERVAL, "older images are not hashed")

    async def once(self) -> None:
        """Hash all such images, as long as this server holds the lease. An image is only done when it is entered."""
        hashed = 0
        while await self._lease.held() and (images := await self._fingerprints.unhashed(limit=BATCH)):
            for image in images:
                if not await self._lease.held():
                    return
                begun = self._clock.monotonic()
                await self._fingerprints.enter_hash(image, await self._hash(image))
                await self._clock.sleep(max(PAUSE, self._clock.monotonic() - begun))
            hashed += len(images)
        if hashed:
            log.info("hashed %d images that had no fingerprint", hashed)

    async def _hash(self, image: UnhashedImage) -> bytes | None:
        """Return the hash of an image, b"" for one that has none; None if there is nothing to enter."""
        if not image.session_id:
            return None
        data = await read(self._blobs, image.session_id, image.name)
        pdq = await asyncio.to_thread(fingerprint, EncodedImage(data, "")) if data else b""
        known = await self._fingerprints.find(_NO_DIGEST, pdq) if pdq else None
        is_new = known is None or known.distance > 0
        if (pdq and is_new) or await self._fingerprints.find(image.sha256, b"") is None:
            return pdq
        return None
