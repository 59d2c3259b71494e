"""Retention: images are deleted by age and by total size, reference images by age, and at last the records of jobs.

The transaction that expires a record also lists its file as obsolete. The files of this list are deleted next, or after
a restart.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from umrgen.clock import Clock
from umrgen.server.blobs import BlobStore, BlobStoreUnavailable
from umrgen.server.ledger import DAY, JobStore, OutputStore, UploadStore
from umrgen.server.scheduler.leases import TaskLease
from umrgen.server.services.clock_check import ClockCheck
from umrgen.server.services.repetition import repeat

__all__ = ["Retention", "RetentionPolicy"]

log = logging.getLogger(__name__)

INTERVAL = 60.0
BATCH = 200
"""Images in one transaction: a longer one would delay other writes."""
HOUR = 3_600_000
SLICE = 50
"""Jobs that are pruned in one transaction at most, which takes a few milliseconds (benchmarks/pruning.py)."""
SLICE_SECONDS = 0.02
"""Seconds after which a transaction of pruning ends: other writes wait for it."""
PAUSE = 0.05
"""Seconds between two such transactions at least, for the writes of others."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Limits on the age, in hours, and the total size, in bytes, and the days that records are kept; 0: no limit."""

    outputs: float
    output_bytes: int
    uploads: float
    record_days: float = 0


class Retention:
    """Deletes images and reference images beyond the policy's limits, every INTERVAL seconds."""

    def __init__(
        self,
        jobs: JobStore,
        outputs: OutputStore,
        uploads: UploadStore,
        blobs: BlobStore,
        clock: Clock,
        keep: RetentionPolicy,
        forget: Callable[[str, str], None],
        lease: TaskLease,
        elapsed: Callable[[], float] | None = None,
    ) -> None:
        """`forget` is called with the session and name of each deleted file, so that caches drop it. `lease` is held
        by the one server that does this. `elapsed` is for `ClockCheck`."""
        self._lease = lease
        self._jobs = jobs
        self._outputs = outputs
        self._uploads = uploads
        self._blobs = blobs
        self._clock = clock
        self.keep = keep
        """Replaced when the settings are reloaded."""
        self._forget = forget
        self._clock_check = ClockCheck(clock, elapsed)
        self.paused = False
        """Set when the ledger may lack records of images."""

    async def run(self) -> None:
        """Apply the policy every INTERVAL seconds, until the task is cancelled."""
        await repeat(self.once, self._clock, INTERVAL, "old images are not deleted")

    async def once(self) -> int:
        """Expire the records that are due, and delete obsolete files; return how many files were deleted.

        Does nothing while another server of the ledger does this, and while the system's time is not trusted.
        """
        if self.keep.record_days:
            self._jobs.forget(before=self._records_before())
        if self.paused or not await self._lease.held():
            return 0
        if not self._clock_check.is_trusted(await self._outputs.newest()):
            return 0
        await self._expire(self._clock.now())
        deleted = await self._delete_files(self._clock.now())
        if deleted:
            log.info("retention: deleted %d files", deleted)
        await self._prune()
        return deleted

    def _records_before(self) -> int:
        return self._clock.now() - int(self.keep.record_days * DAY)

    async def _prune(self) -> None:
        """Delete the records of old jobs, a few at a time, as long as this server has the lease."""
        pruned, monotonic = 0, self._clock.monotonic
        while self.keep.record_days and await self._lease.held():
            begun = monotonic()
            count = await self._jobs.prune(
                before=self._records_before(), limit=SLICE, seconds=SLICE_SECONDS, monotonic=monotonic
            )
            pruned += count
            if not count:
                break
            # Where the disk or the database is slow, others have the ledger for half of the time.
            await self._clock.sleep(max(PAUSE, monotonic() - begun))
        if pruned:
            log.info("retention: deleted the records of %d jobs", pruned)

    async def _expire(self, now: int) -> None:
        keep = self.keep
        if keep.outputs or keep.output_bytes:
            before = now - int(keep.outputs * HOUR) if keep.outputs else 0
            while await self._outputs.expire(now=now, before=before, keep_bytes=keep.output_bytes, limit=BATCH):
                pass
        if keep.uploads:
            before = now - int(keep.uploads * HOUR)
            while await self._uploads.expire(before=before, limit=BATCH):
                pass

    async def _delete_files(self, now: int) -> int:
        deleted = 0
        while files := await self._outputs.obsolete_files(now=now, limit=BATCH):
            done = [file for file in files if await self._delete(*file)]
            await self._outputs.forget_files(done)
            deleted += len(done)
            if len(done) < len(files):
                break  # the next round tries the others again
        return deleted

    async def _delete(self, session_id: str, name: str) -> bool:
        self._forget(session_id, name)
        try:
            await self._blobs.delete(session_id, name)
        except BlobStoreUnavailable as error:
            log.warning("the file %s cannot be deleted yet: %s", name, error)
            return False
        return True
