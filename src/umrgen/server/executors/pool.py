"""A pool of linked engines: one for each device, replaced when it ends; a batch of jobs is drawn by an idle one."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from umrgen.server.engines import DrawTask, EngineCrashed, EngineFailure, EngineInfo, EngineStalled
from umrgen.server.executors import JobBatch, OnPreview, OnStep, VerifiedImage, WatchdogLimits, verified
from umrgen.server.executors.link import EngineLink, Listener
from umrgen.server.tasks import cancelled

__all__ = ["EnginePool", "start_failure"]

Link = TypeVar("Link", bound=EngineLink)

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
"""Seconds until an engine that cannot be loaded is tried again; doubled each time."""
LAST_SECONDS = 2.0
"""Seconds that an engine which is being started has to end when the server stops; it was killed already."""


def start_failure(error: Exception) -> str:
    """Return why an engine, or the way to it, could not be started, as shown to callers; log an unexpected error."""
    if isinstance(error, EngineFailure | EngineCrashed):
        return str(error)
    if isinstance(error, OSError):  # such as a limit of processes, of memory, or of open files
        return f"the engine could not be started: {error.strerror or type(error).__name__}"
    log.error("the engine could not be started", exc_info=error)
    return f"the engine could not be started: {type(error).__name__}"


class EnginePool(ABC, Generic[Link]):
    """Implements `Executor` with engines that `_spawn` starts, one for each of `devices`."""

    def __init__(self, devices: int, watchdog: WatchdogLimits | None) -> None:
        self.info: EngineInfo | None = None
        self.trouble: str | None = None
        self.loaded = True
        self._load_seconds = 0.0
        self._devices = devices
        self._watchdog = watchdog or WatchdogLimits()
        self._engines: set[Link] = set()
        self._busy: set[Link] = set()
        self._starting: dict[JobBatch, asyncio.Future[Link]] = {}
        self._changed = asyncio.Event()
        self._on_capacity: Callable[[], None] = lambda: None
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def capacity(self) -> int:
        return sum(engine.alive for engine in self._engines)

    def watch(self, on_capacity: Callable[[], None]) -> None:
        self._on_capacity = on_capacity

    # --- engines ---

    async def _keep(self, device: int) -> None:
        """Start an engine on this device, and a new one whenever it ends, until cancelled."""
        delay = FIRST_DELAY
        while True:
            try:
                engine = await self._started_on(device)
            except Exception as error:  # with a keeper that ended, jobs would wait without end
                reason = start_failure(error)
                if not self.capacity:
                    self.trouble = reason
                log.error("%s; trying again in %.0f s", reason, delay)
                await asyncio.sleep(delay)
                delay = min(LONGEST_DELAY, delay * 2)
                continue
            await engine.ended()
            self._engines.discard(engine)
            if engine.was_used:
                delay = FIRST_DELAY
            else:  # it ended without a job, so the next one may too
                await asyncio.sleep(delay)
                delay = min(LONGEST_DELAY, delay * 2)

    async def _started_on(self, device: int) -> Link:
        engine = await self._spawn(device)
        self._engines.add(engine)
        self._load_seconds = engine.load_seconds
        self.info, self.trouble = engine.info, None
        self._on_capacity()
        self._changed.set()
        return engine

    @abstractmethod
    async def _spawn(self, device: int) -> Link:
        """Start an engine on this device, and wait until it is loaded. Raises EngineFailure and EngineCrashed."""

    def _idle(self) -> Link | None:
        return next((engine for engine in self._engines - self._busy if engine.alive), None)

    @property
    def until_loaded(self) -> float:
        return 0.0 if self.capacity else self._load_seconds

    async def ready(self) -> None:
        self.loaded = True
        if not self._keepers:
            self._keepers = [asyncio.create_task(self._keep(device)) for device in range(self._devices)]
        while self._idle() is None:
            self._changed.clear()
            await self._changed.wait()

    async def _take(self) -> Link:
        await self.ready()
        engine = self._idle()
        assert engine is not None  # nothing ran between the two lines
        self._busy.add(engine)
        return engine

    # --- drawing ---

    async def run(
        self, task: DrawTask, on_step: OnStep, on_preview: OnPreview | None = None, batch: JobBatch | None = None
    ) -> tuple[VerifiedImage, ...]:
        batch = batch or JobBatch([task.job_id])
        try:
            await batch.join(task)
            return await self._run(await self._started(batch, task), batch, task, on_step, on_preview)
        finally:
            batch.withdraw(task.job_id)

    async def _started(self, batch: JobBatch, task: DrawTask) -> Link:
        """Return the engine that draws the batch. A task that is cancelled when it was just sent is stopped there."""
        starting = self._start(batch)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            if starting.done() and not starting.cancelled() and not starting.exception():
                await asyncio.shield(starting.result().cancel(task.job_id, self._watchdog.cancel_grace))
            raise

    def _start(self, batch: JobBatch) -> asyncio.Future[Link]:
        """Return the engine that draws a complete batch; the first call chooses it, when one is idle."""
        if batch not in self._starting:
            self._starting[batch] = asyncio.ensure_future(self._send(batch))
            batch.on_release(lambda: self._forget(batch))
        return self._starting[batch]

    async def _send(self, batch: JobBatch) -> Link:
        engine = await self._take()
        batch.on_release(lambda: self._release(engine))
        engine.start(batch.tasks)
        return engine

    def _forget(self, batch: JobBatch) -> None:
        """Stop waiting for a engine if none was found before all jobs of the batch were cancelled."""
        self._starting.pop(batch).cancel()

    def _release(self, engine: Link) -> None:
        self._busy.discard(engine)
        self._changed.set()
        self._on_capacity()

    async def _run(
        self, engine: Link, batch: JobBatch, task: DrawTask, on_step: OnStep, on_preview: OnPreview | None
    ) -> tuple[VerifiedImage, ...]:
        try:
            listener = Listener(on_step, on_preview, lambda: batch.drawn(task.job_id))
            return await verified(await self._draw(engine, task, listener))
        except (EngineFailure, asyncio.CancelledError):
            raise
        except BaseException:
            engine.end()
            raise
        finally:
            if task.job_id in engine.jobs:  # it did not finish: no other job may be given to it
                engine.end()

    async def _draw(self, engine: Link, task: DrawTask, listener: Listener) -> Any:
        limits = self._watchdog
        try:
            return await engine.follow(task.job_id, listener, limits)
        except asyncio.CancelledError:
            await asyncio.shield(engine.cancel(task.job_id, limits.cancel_grace))
            raise
        except EngineStalled as stalled:
            log.warning("job %s: %s; the engine is replaced", task.job_id, stalled)
            await engine.cancel(task.job_id, limits.cancel_grace)
            raise

    def show(self, job_id: str, wanted: bool) -> None:
        for engine in self._engines:
            if job_id in engine.jobs:
                engine.show(job_id, wanted)

    async def unload(self) -> None:
        """End the engines."""
        self.loaded = False
        await self.stop()

    async def stop(self) -> None:
        await cancelled(*self._keepers, limit=LAST_SECONDS)
        self._keepers.clear()
        for engine in tuple(self._engines):
            await engine.kill()
        self._engines.clear()
