"""The executor of a server without an engine: other servers of the ledger, or `umrgen work`, draw its jobs."""

import asyncio
from collections.abc import Callable

from umrgen.server.engines import DrawTask, EngineCrashed, EngineInfo
from umrgen.server.executors import JobBatch, OnPreview, OnStep, VerifiedImage

__all__ = ["AbsentExecutor"]


class AbsentExecutor:
    """Implements `Executor`. It is never ready, so no job is claimed."""

    info: EngineInfo | None = None
    trouble: str | None = None
    capacity = 0
    loaded = False
    until_loaded = 0.0

    def watch(self, on_capacity: Callable[[], None]) -> None:
        """The capacity never grows."""

    async def ready(self) -> None:
        await asyncio.Event().wait()

    async def run(
        self, task: DrawTask, on_step: OnStep, on_preview: OnPreview | None = None, batch: JobBatch | None = None
    ) -> tuple[VerifiedImage, ...]:
        raise EngineCrashed("this server has no engine")

    def show(self, job_id: str, wanted: bool) -> None:
        """No job is drawn here."""

    async def unload(self) -> None:
        """There is nothing to unload."""

    async def stop(self) -> None:
        """There is nothing to stop."""
