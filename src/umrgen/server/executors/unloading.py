"""Engines that share their device: the weights leave memory while there is nothing to draw."""

import asyncio
import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from umrgen.clock import Clock
from umrgen.server.engines import DrawTask, EngineInfo
from umrgen.server.executors import Executor, JobBatch, OnPreview, OnStep, VerifiedImage
from umrgen.server.running_time import RunningTimeout

__all__ = ["LoadCommands", "UnloadingExecutor"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadCommands:
    """The operator's commands, for example to stop and start another program that uses the device; "": none."""

    on_load: str = ""
    """Run before the engine is loaded."""
    on_unload: str = ""
    """Run after the engine was unloaded, and when the server stops."""
    timeout: float = 60.0
    """Seconds; a command that takes longer is killed, and the server continues."""


class UnloadingExecutor:
    """An executor around another one, which unloads its engine after `after` seconds without a task.

    0: only when `release` is called. The dispatcher calls `ready` when a job waits, which loads the engine again.
    """

    def __init__(self, executor: Executor, clock: Clock, after: float, commands: LoadCommands) -> None:
        self._executor = executor
        self._clock = clock
        self._after = after
        self._commands = commands
        self._prepared = False
        """Whether `on_load` was run, and `on_unload` not since."""
        self._unloaded = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._lock = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None

    @property
    def info(self) -> EngineInfo | None:
        return self._executor.info

    @property
    def trouble(self) -> str | None:
        return self._executor.trouble

    @property
    def capacity(self) -> int:
        return self._executor.capacity if self.loaded else 0

    @property
    def loaded(self) -> bool:
        return not self._unloaded

    @property
    def until_loaded(self) -> float:
        return self._executor.until_loaded

    def watch(self, on_capacity: Callable[[], None]) -> None:
        self._executor.watch(on_capacity)

    def show(self, job_id: str, wanted: bool) -> None:
        self._executor.show(job_id, wanted)

    async def ready(self) -> None:
        async with self._lock:  # an engine is not unloaded while it is loaded, which would leave this call waiting
            await self._prepare()
            await self._executor.ready()
        self._start_timer()

    async def run(
        self, task: DrawTask, on_step: OnStep, on_preview: OnPreview | None = None, batch: JobBatch | None = None
    ) -> tuple[VerifiedImage, ...]:
        self._running += 1
        self._idle.clear()
        self._stop_timer()
        try:
            if not self._prepared:
                async with self._lock:
                    await self._prepare()
            return await self._executor.run(task, on_step, on_preview, batch)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()
                self._start_timer()

    async def unload(self) -> None:
        """Unload the engine when no task runs; the next job loads it again."""
        await self._idle.wait()
        async with self._lock:
            if self._running or not self._prepared:
                return
            self._prepared, self._unloaded = False, True
            await self._executor.unload()
            log.info("the engine was unloaded; the next job loads it again")
            await self._run("on_unload", self._commands.on_unload)

    async def stop(self) -> None:
        self._stop_timer()
        await self._executor.stop()
        if self._prepared:
            self._prepared = False
            await self._run("on_unload", self._commands.on_unload)

    async def _prepare(self) -> None:
        """Run `on_load` before the engine is loaded. The caller has the lock."""
        if not self._prepared:
            await self._run("on_load", self._commands.on_load)
            self._prepared, self._unloaded = True, False

    def _start_timer(self) -> None:
        if self._after and not self._running:
            self._stop_timer()
            self._timer = asyncio.create_task(self._unload_later())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _unload_later(self) -> None:
        await self._clock.sleep(self._after)
        self._timer = None  # a task that starts now does not cancel the unloading halfway
        await self.unload()

    async def _run(self, name: str, command: str) -> None:
        """Run a command of the operator. Its failure is logged: the jobs do not depend on it."""
        if not command:
            return
        try:
            process = await asyncio.create_subprocess_exec(*shlex.split(command), stdin=asyncio.subprocess.DEVNULL)
        except (OSError, ValueError) as error:
            log.error("the command %s cannot be run: %s", name, error)
            return
        try:
            async with RunningTimeout(self._commands.timeout):
                code = await process.wait()
        except TimeoutError:
            log.error("the command %s was killed after %g s", name, self._commands.timeout)
        else:
            log.log(logging.ERROR if code else logging.INFO, "the command %s ended with code %d", name, code)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
