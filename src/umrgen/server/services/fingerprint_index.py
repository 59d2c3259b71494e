"""Indexing the fingerprints of new images, so that a search does not compare each of them."""

from umrgen.clock import Clock
from umrgen.server.ledger import FingerprintStore
from umrgen.server.scheduler.leases import TaskLease
from umrgen.server.services.repetition import repeat

__all__ = ["FingerprintIndex"]

INTERVAL = 30.0
"""Seconds; the images of this time are compared one by one."""
GROUPS = 4
"""Groups of images in one transaction: a longer one would delay other writes."""
PAUSE = 0.02
"""Seconds between two such transactions, for the writes of others."""


class FingerprintIndex:
    """Indexes new images every INTERVAL seconds, on the one server of a ledger that holds the lease."""

    def __init__(self, fingerprints: FingerprintStore, clock: Clock, lease: TaskLease) -> None:
        self._fingerprints = fingerprints
        self._clock = clock
        self._lease = lease

    async def run(self) -> None:
        """Index new images until the task is cancelled."""
        await repeat(self.once, self._clock, INTERVAL, "new images are not indexed")

    async def once(self) -> None:
        """Index the new images that fill a group, as long as this server holds the lease."""
        while await self._lease.held() and await self._fingerprints.index(groups=GROUPS):
            await self._clock.sleep(PAUSE)
