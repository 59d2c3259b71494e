"""Engines behind a network: asyncio code in the server's process, with the same watchdog as a process."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from umrgen.server.engines import (
    DrawTask,
    EncodedImage,
    EngineCrashed,
    EngineFailure,
    EngineInfo,
    EngineStalled,
    Phase,
    RemoteEngine,
    load_engine,
)
from umrgen.server.engines.encoding import encoded, preview_jpeg
from umrgen.server.executors import OnPreview, OnStep, VerifiedImage, WatchdogLimits, verified

if TYPE_CHECKING:
    from umrgen.server.engines import Pixels

__all__ = ["RemoteExecutor"]

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
"""Seconds until an engine that cannot be reached is tried again; doubled each time."""


class _Progress:
    """Implements `Report` for one task."""

    def __init__(self, on_step: OnStep, on_preview: OnPreview | None, alive: Callable[[], None]) -> None:
        self.wanted = False
        self._on_step = on_step
        self._on_preview = on_preview
        self._alive = alive
        self._furthest = 0
        self._phases: set[Phase] = set()

    def __call__(self, step: int, total: int, preview: "Callable[[], Pixels | EncodedImage] | None" = None, /) -> None:
        if not 0 <= step <= total:
            raise EngineCrashed("it reported an impossible step")
        if step > self._furthest:
            self._furthest = step
            self._alive()
        self._on_step(step, total)
        if preview is not None and self.wanted and self._on_preview is not None:
            self._on_preview(preview_jpeg(preview()))

    def phase(self, phase: Phase, /) -> None:
        if phase not in self._phases:
            self._phases.add(phase)
            self._alive()


class RemoteExecutor:
    """Implements `Executor` with one `RemoteEngine`, which says itself how many tasks it draws at a time."""

    def __init__(
        self,
        engine: str | RemoteEngine,
        options: Mapping[str, Any],
        *,
        devices: int = 1,
        watchdog: WatchdogLimits | None = None,
    ) -> None:
        """`engine`: a name, or an engine that is constructed already. `devices` is ignored: the machines are its own."""
        self.info: EngineInfo | None = None
        self.trouble: str | None = None
        self._engine: RemoteEngine = load_engine(engine, options) if isinstance(engine, str) else engine
        self._watchdog = watchdog or WatchdogLimits()
        self._running: dict[str, _Progress] = {}
        self._wanted: set[str] = set()
        self._loaded = False
        self._changed = asyncio.Condition()
        self._on_capacity: Callable[[], None] = lambda: None

    @property
    def capacity(self) -> int:
        return self._engine.capacity if self._loaded else 0

    def watch(self, on_capacity: Callable[[], None]) -> None:
        self._on_capacity = on_capacity

    async def ready(self) -> None:
        delay = FIRST_DELAY
        while True:
            try:
                if not self._loaded:
                    await self._load()
            except (EngineFailure, EngineCrashed) as error:
                self.trouble = str(error)
                log.error("%s; trying again in %.0f s", error, delay)
                await asyncio.sleep(delay)
                delay = min(LONGEST_DELAY, delay * 2)
                continue
            if len(self._running) < self.capacity:
                return
            async with self._changed:
                await self._changed.wait()

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(self._watchdog.load_timeout):
                await self._engine.load()
        except TimeoutError:
            raise EngineStalled(f"the engine was not reached within {self._watchdog.load_timeout:g} s") from None
        self.info, self.trouble, self._loaded = self._engine.info, None, True
        self._on_capacity()

    async def run(
        self, task: DrawTask, on_step: OnStep, on_preview: OnPreview | None = None
    ) -> tuple[VerifiedImage, ...]:
        try:
            images = await self._draw(task, on_step, on_preview)
            return await verified([await asyncio.to_thread(self._encode, task, image) for image in images])
        except EngineFailure:
            raise
        except EngineCrashed:
            self._loaded = False
            raise
        except Exception as error:
            log.exception("job %s: the engine failed", task.job_id)
            self._loaded = False
            raise EngineCrashed(f"it raised {type(error).__name__}") from None
        finally:
            async with self._changed:
                self._changed.notify_all()

    def _encode(self, task: DrawTask, image: "Pixels | EncodedImage") -> EncodedImage:
        assert self.info is not None
        return encoded(image, task, self.info)

    async def _draw(
        self, task: DrawTask, on_step: OnStep, on_preview: OnPreview | None
    ) -> "Sequence[Pixels | EncodedImage]":
        loop, limits = asyncio.get_running_loop(), self._watchdog
        drawing: asyncio.Task[Sequence[Pixels | EncodedImage]] | None = None
        try:
            async with asyncio.timeout(limits.stall_after) as deadline:
                progress = _Progress(on_step, on_preview, lambda: deadline.reschedule(loop.time() + limits.stall_after))
                progress.wanted = task.job_id in self._wanted
                self._running[task.job_id] = progress
                drawing = asyncio.ensure_future(self._engine.draw(task, progress))
                return await asyncio.shield(drawing)
        except TimeoutError:
            if drawing is not None and drawing.done():
                raise  # the engine's own
            raise EngineStalled(f"it made no progress for {limits.stall_after:g} s") from None
        finally:
            self._running.pop(task.job_id, None)
            if drawing is not None and not drawing.done():
                drawing.cancel()
                await asyncio.wait({drawing}, timeout=limits.cancel_grace)

    def show(self, job_id: str, wanted: bool) -> None:
        (self._wanted.add if wanted else self._wanted.discard)(job_id)
        if progress := self._running.get(job_id):
            progress.wanted = wanted

    async def stop(self) -> None:
        await self._engine.close()
        self._loaded = False
