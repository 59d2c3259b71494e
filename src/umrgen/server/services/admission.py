"""Admission control: when the server accepts new jobs and uploads."""

from umrgen.server.blobs import BlobStore
from umrgen.server.executors import Executor
from umrgen.server.services.refusal import Refusal

__all__ = ["Admission"]


class Admission:
    """Refuses new work while the server stops, the engine is not available, or the storage is nearly full."""

    def __init__(self, executor: Executor, blobs: BlobStore, disk_reserve: int) -> None:
        """`disk_reserve`: free bytes to reserve for the images of accepted jobs."""
        self._executor = executor
        self._blobs = blobs
        self._disk_reserve = disk_reserve
        self.draining = False
        """Set when the server begins to stop."""

    async def check_job(self) -> None:
        """Raise Refusal when no new job is accepted now."""
        self._check_draining()
        if self._executor.trouble:
            raise Refusal("engine_unavailable", self._executor.trouble)
        await self.check_storage()

    async def check_upload(self) -> None:
        """Raise Refusal when no reference image is accepted now."""
        self._check_draining()
        await self.check_storage()

    def _check_draining(self) -> None:
        if self.draining:
            raise Refusal("draining")

    async def check_storage(self) -> None:
        """Raise Refusal when less space is free than is reserved."""
        free = await self._blobs.free_bytes()
        if free is not None and free < self._disk_reserve:
            raise Refusal("storage_full", retry_after=60)
