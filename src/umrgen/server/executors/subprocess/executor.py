"""Engines on this machine: one process per device, replaced when it ends."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from umrgen.server.engines import DrawTask, EngineCrashed, EngineFailure, EngineInfo, EngineStalled
from umrgen.server.executors import JobBatch, OnPreview, OnStep, VerifiedImage, WatchdogLimits, verified
from umrgen.server.executors.subprocess.load_limit import load_limit
from umrgen.server.executors.subprocess.process import EngineProcess, Listener
from umrgen.server.signing import SigningOptions
from umrgen.server.tasks import cancelled

__all__ = ["SubprocessExecutor"]

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
"""Seconds until an engine that cannot be loaded is tried again; doubled each time."""
LAST_SECONDS = 2.0
"""Seconds that an engine which is being started has to end when the server stops; it was killed already."""


class SubprocessExecutor:
    """Implements `Executor` with `devices` processes of one engine."""

    def __init__(
        self,
        engine: str,
        options: Mapping[str, Any],
        *,
        devices: int = 1,
        watchdog: WatchdogLimits | None = None,
        signing: SigningOptions | None = None,
        watermark: str = "",
    ) -> None:
        self.info: EngineInfo | None = None
        self.trouble: str | None = None
        self.loaded = True
        self._load_seconds = 0.0
        self._engine = engine
        self._options = options
        self._devices = devices
        self._watchdog = watchdog or WatchdogLimits()
        self._signing = signing
        self._watermark = watermark
        self._processes: set[EngineProcess] = set()
        self._busy: set[EngineProcess] = set()
        self._starting: dict[JobBatch, asyncio.Future[EngineProcess]] = {}
        self._changed = asyncio.Event()
        self._on_capacity: Callable[[], None] = lambda: None
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def capacity(self) -> int:
        return sum(process.alive for process in self._processes)

    def watch(self, on_capacity: Callable[[], None]) -> None:
        self._on_capacity = on_capacity

    # --- processes ---

    async def _keep(self, device: int) -> None:
        """Start a process on this device, and a new one whenever it ends, until cancelled."""
        delay = FIRST_DELAY
        while True:
            try:
                process = await self._spawn(device)
            except (EngineFailure, EngineCrashed) as error:
                if not self.capacity:
                    self.trouble = str(error)
                log.error("%s; trying again in %.0f s", error, delay)
                await asyncio.sleep(delay)
                delay = min(LONGEST_DELAY, delay * 2)
                continue
            await process.ended()
            self._processes.discard(process)
            if process.was_used:
                delay = FIRST_DELAY
            else:  # it ended without a job, so the next one may too
                await asyncio.sleep(delay)
                delay = min(LONGEST_DELAY, delay * 2)

    async def _spawn(self, device: int) -> EngineProcess:
        began = asyncio.get_running_loop().time()
        process = await EngineProcess.spawn(
            self._engine,
            self._options,
            device=device,
            load_timeout=await asyncio.to_thread(load_limit, self._watchdog.load_timeout, self._options),
            memory=self._watchdog.memory,
            signing=self._signing,
            watermark=self._watermark,
        )
        self._processes.add(process)
        self._load_seconds = asyncio.get_running_loop().time() - began
        self.info, self.trouble = process.info, None
        self._on_capacity()
        self._changed.set()
        return process

    def _idle(self) -> EngineProcess | None:
        return next((process for process in self._processes - self._busy if process.alive), None)

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

    async def _take(self) -> EngineProcess:
        await self.ready()
        process = self._idle()
        assert process is not None  # nothing ran between the two lines
        self._busy.add(process)
        return process

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

    async def _started(self, batch: JobBatch, task: DrawTask) -> EngineProcess:
        """Return the process that draws the batch. A task that is cancelled when it was just sent is stopped there."""
        starting = self._start(batch)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            if starting.done() and not starting.cancelled() and not starting.exception():
                await asyncio.shield(starting.result().cancel(task.job_id, self._watchdog.cancel_grace))
            raise

    def _start(self, batch: JobBatch) -> asyncio.Future[EngineProcess]:
        """Return the process that draws a complete batch; the first call chooses it, when one is idle."""
        if batch not in self._starting:
            self._starting[batch] = asyncio.ensure_future(self._send(batch))
            batch.on_release(lambda: self._forget(batch))
        return self._starting[batch]

    async def _send(self, batch: JobBatch) -> EngineProcess:
        process = await self._take()
        batch.on_release(lambda: self._release(process))
        process.start(batch.tasks)
        return process

    def _forget(self, batch: JobBatch) -> None:
        """Stop waiting for a process if none was found before all jobs of the batch were cancelled."""
        self._starting.pop(batch).cancel()

    def _release(self, process: EngineProcess) -> None:
        self._busy.discard(process)
        self._changed.set()
        self._on_capacity()

    async def _run(
        self, process: EngineProcess, batch: JobBatch, task: DrawTask, on_step: OnStep, on_preview: OnPreview | None
    ) -> tuple[VerifiedImage, ...]:
        try:
            listener = Listener(on_step, on_preview, lambda: batch.drawn(task.job_id))
            return await verified(await self._draw(process, task, listener))
        except (EngineFailure, asyncio.CancelledError):
            raise
        except BaseException:
            process.end()
            raise
        finally:
            if task.job_id in process.jobs:  # it did not finish: no other job may be given to it
                process.end()

    async def _draw(self, process: EngineProcess, task: DrawTask, listener: Listener) -> Any:
        limits = self._watchdog
        try:
            return await process.follow(task.job_id, listener, limits)
        except asyncio.CancelledError:
            await asyncio.shield(process.cancel(task.job_id, limits.cancel_grace))
            raise
        except EngineStalled as stalled:
            log.warning("job %s: %s; the engine is replaced", task.job_id, stalled)
            await process.cancel(task.job_id, limits.cancel_grace)
            raise

    def show(self, job_id: str, wanted: bool) -> None:
        for process in self._processes:
            if job_id in process.jobs:
                process.show(job_id, wanted)

    async def unload(self) -> None:
        """End the processes."""
        self.loaded = False
        await self.stop()

    async def stop(self) -> None:
        await cancelled(*self._keepers, limit=LAST_SECONDS)
        self._keepers.clear()
        for process in tuple(self._processes):
            await process.kill()
        self._processes.clear()
