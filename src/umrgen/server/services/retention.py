"""What is kept, and for how long: images by age and by their total size, reference images by age.

The record goes first, then the file: a crash between the two leaves a file that the next sweep finds.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from umrgen.server.blobs import Storage
from umrgen.server.clock import Clock
from umrgen.server.ledger import LedgerUnavailable, OutputStore, UploadStore

__all__ = ["Retention", "RetentionPolicy"]

log = logging.getLogger(__name__)

INTERVAL = 60.0
BATCH = 200
"""Images in one transaction: others want to write, too."""
HOUR = 3_600_000


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long, in hours, and how much, in bytes; 0: for ever, and any amount."""

    outputs: float
    output_bytes: int
    uploads: float


class Stored(Protocol):
    @property
    def session_id(self) -> str: ...
    @property
    def name(self) -> str: ...


class Retention:
    """Takes away what is too old or too much, now and then."""

    def __init__(
        self,
        outputs: OutputStore,
        uploads: UploadStore,
        storage: Storage,
        clock: Clock,
        keep: RetentionPolicy,
        forget: Callable[[str, str], None],
    ) -> None:
        """`forget` is called with the session and name of each deleted file, so that caches drop it."""
        self._outputs = outputs
        self._uploads = uploads
        self._storage = storage
        self._clock = clock
        self._keep = keep
        self._forget = forget

    async def run(self) -> None:
        """Look after what is kept, for ever."""
        while True:
            try:
                await self.once()
            except (LedgerUnavailable, OSError) as error:
                log.warning("retention was broken off: %s", error)
            await self._clock.sleep(INTERVAL)

    async def once(self) -> int:
        """Take away all that is due; how many files that was."""
        now = self._clock.now()
        outputs = uploads = 0
        if self._keep.outputs or self._keep.output_bytes:
            before = now - int(self._keep.outputs * HOUR) if self._keep.outputs else 0
            outputs = await self._drop(
                lambda: self._outputs.expire(now=now, before=before, keep_bytes=self._keep.output_bytes, limit=BATCH)
            )
        if self._keep.uploads:
            before = now - int(self._keep.uploads * HOUR)
            uploads = await self._drop(lambda: self._uploads.expire(before=before, limit=BATCH))
        if outputs or uploads:
            log.info("retention: %d images and %d reference images are gone", outputs, uploads)
        return outputs + uploads

    async def _drop(self, batch: Callable[[], Awaitable[Sequence[Stored]]]) -> int:
        dropped = 0
        while gone := await batch():
            for stored in gone:
                self._forget(stored.session_id, stored.name)
                with suppress(OSError):  # the next sweep finds it
                    await self._storage.delete(stored.session_id, stored.name)
            dropped += len(gone)
        return dropped
