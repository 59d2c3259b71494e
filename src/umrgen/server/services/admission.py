"""Admission control: when the server accepts new jobs and uploads."""

from collections.abc import Callable

from umrgen.server.blobs import BlobStore
from umrgen.server.executors import Executor
from umrgen.server.services.refusal import Refusal

__all__ = ["Admission"]


class Admission:
    """Refuses new work while the server stops, images cannot be made, or the storage is nearly full."""

    def __init__(
        self,
        executor: Executor,
        blobs: BlobStore,
        disk_reserve: int,
        signing_trouble: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`disk_reserve`: free bytes to reserve for the images of accepted jobs.

        `signing_trouble` returns the reason why images that must be signed cannot be; None while they can.
        """
        self._signing_trouble = signing_trouble
        self._executor = executor
        self._blobs = blobs
        self.reserve_bytes = disk_reserve
        self.draining = False
        """Set when the server begins to stop."""

    @property
    def trouble(self) -> str | None:
        """The reason why no image can be made now, as shown to callers; None while one can."""
        return self._executor.trouble or self._signing_trouble()

    async def check_job(self) -> None:
        """Raise Refusal when no new job is accepted now."""
        self._check_draining()
        if trouble := self.trouble:
            raise Refusal("engine_unavailable", trouble)
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
        if free is not None and free < self.reserve_bytes:
            raise Refusal("storage_full", retry_after=60)
