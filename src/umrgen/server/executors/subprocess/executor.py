"""Engines on this machine: each slot is a process of its own, replaced when it dies."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from umrgen.server.engines import DrawRequest, EngineFailure, EngineInfo
from umrgen.server.executors import (
    EncodedImage,
    EngineCrashed,
    EngineStalled,
    OnPreview,
    OnStep,
    WatchdogLimits,
    checked,
)
from umrgen.server.executors.subprocess.process import EngineProcess

__all__ = ["LocalExecutor"]

log = logging.getLogger(__name__)


class LocalExecutor:
    """Implements `Executor` with `slots` processes of one engine."""

    def __init__(
        self, engine: str, options: Mapping[str, Any], *, slots: int = 1, watchdog: WatchdogLimits | None = None
    ) -> None:
        self.slots = slots
        self.info: EngineInfo | None = None
        self.trouble: str | None = None
        self._engine = engine
        self._options = options
        self._watchdog = watchdog or WatchdogLimits()
        self._idle: asyncio.Queue[EngineProcess | None] = asyncio.Queue()
        self._processes: set[EngineProcess] = set()
        for _ in range(slots):
            self._idle.put_nowait(None)

    async def ready(self) -> None:
        process, delay = await self._idle.get(), 1.0
        try:
            while process is None or not process.alive:
                try:
                    process = await self._replace(process)
                except (EngineFailure, EngineCrashed) as error:
                    log.error("%s; trying again in %.0f s", error, delay)
                    await asyncio.sleep(delay)
                    delay = min(60.0, delay * 2)
        finally:
            self._idle.put_nowait(process)

    async def _replace(self, dead: EngineProcess | None) -> EngineProcess:
        watchdog = self._watchdog
        if dead is not None:
            await dead.kill()  # what it holds of the machine is free before another takes its place
            self._processes.discard(dead)
        try:
            process = await EngineProcess.spawn(
                self._engine, self._options, load_timeout=watchdog.load_timeout, memory=watchdog.memory
            )
        except (EngineFailure, EngineCrashed) as error:
            self.trouble = str(error)
            raise
        self._processes.add(process)
        self.info, self.trouble = process.info, None
        return process

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[EngineProcess]:
        """An idle process, alive; its place is given back afterwards. One that is not at rest by then, or that
        anything but an EngineFailure came from, is at its end: no other job gets to see it."""
        process = await self._idle.get()
        try:
            if process is None or not process.alive:
                process = await self._replace(process)
            yield process
        except (EngineFailure, asyncio.CancelledError):
            raise
        except Exception:
            if process is not None:
                process.end()
            raise
        finally:
            if process is not None and process.job_id is not None:
                process.end()
            self._idle.put_nowait(process)

    async def run(
        self, job_id: str, request: DrawRequest, on_step: OnStep, on_preview: OnPreview | None = None
    ) -> EncodedImage:
        watchdog = self._watchdog
        async with self._process() as process:
            try:
                return await checked(
                    await process.draw(job_id, request, on_step, on_preview, watchdog.stall_after), request
                )
            except asyncio.CancelledError:
                await asyncio.shield(process.cancel(job_id, watchdog.cancel_grace))
                raise
            except EngineStalled:
                log.warning("job %s: no progress for %g s; the engine is replaced", job_id, watchdog.stall_after)
                await process.cancel(job_id, watchdog.cancel_grace)
                raise

    def show(self, job_id: str, wanted: bool) -> None:
        for process in self._processes:
            if process.job_id == job_id:
                process.show(job_id, wanted)

    async def stop(self) -> None:
        for process in tuple(self._processes):  # a slot may be replacing one meanwhile
            await process.kill()
        self._processes.clear()
