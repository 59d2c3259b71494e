"""The executor of a server without an engine: other servers of the ledger, or `umrgen work`, draw its jobs."""

import asyncio
from collections.abc import Callable

from umrgen.server.engines import DrawTask, EngineCrashed, EngineInfo
from umrgen.server.executors import JobBatch, OnPreview, OnStep, VerifiedImage
from umrgen.server.executors.routing import LiveEngines

__all__ = ["AbsentExecutor"]


class AbsentExecutor:
    """Implements `Executor`. It describes the engines of the workers; it is never ready, so no job is claimed."""

    trouble: str | None = None
    until_loaded = 0.0

    def __init__(self, engines: LiveEngines) -> None:
        self._engines = engines

    @property
    def info(self) -> EngineInfo | None:
        return self._engines.info

    @property
    def capacity(self) -> int:
        return self._engines.capacity

    @property
    def loaded(self) -> bool:
        """Whether any worker lives."""
        return self._engines.alive

    def watch(self, on_capacity: Callable[[], None]) -> None:
        """No job is claimed here when the capacity grows."""

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
