"""Recognizing an earlier backup of the ledger that was put back, by a mark that is kept outside of it."""

import logging
from contextlib import suppress

from umrgen.clock import Clock
from umrgen.server.blobs import BlobStore
from umrgen.server.ledger import JobStore, LedgerUnavailable
from umrgen.server.services.retention import Retention
from umrgen.server.state import LedgerMark

__all__ = ["LedgerWatch"]

log = logging.getLogger(__name__)

INTERVAL = 60.0
"""Seconds between two writes of the mark."""
ADOPT = "Put back the right file, or stop the server and run: umrgen ledger adopt"


class LedgerWatch:
    """Keeps the mark of the last change, and pauses retention on a ledger that lacks changes up to it."""

    def __init__(self, mark: LedgerMark, jobs: JobStore, blobs: BlobStore, retention: Retention, clock: Clock) -> None:
        self._mark = mark
        self._jobs = jobs
        self._blobs = blobs
        self._retention = retention
        self._clock = clock

    async def check(self) -> None:
        """Pause retention if the ledger lacks records: an earlier backup of it was put back, or it was lost.

        Raises LedgerUnavailable and BlobStoreUnavailable.
        """
        last_change = await self._jobs.last_change()
        if not self._mark.is_older(last_change):
            self._mark.write(last_change)
        else:
            self._retention.paused = True
            log.error("this ledger is older than the one that was used last: nothing is deleted. %s", ADOPT)
        if not last_change and not await self._blobs.is_empty():
            log.error("the ledger is new, but there are images, which it does not have: they are kept. %s", ADOPT)

    async def run(self) -> None:
        """Write the mark every INTERVAL seconds, until the task is cancelled."""
        while True:
            await self._clock.sleep(INTERVAL)
            await self.write_mark()

    async def write_mark(self) -> None:
        """Write the mark, unless the ledger is an older one; without an effect while the ledger cannot be read."""
        if not self._retention.paused:
            with suppress(LedgerUnavailable):
                self._mark.write(await self._jobs.last_change())
