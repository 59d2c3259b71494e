"""Engines behind a network: asyncio code in the server's process, with the same watchdog as a process."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from umrgen.server.engines import (
    Cancelled,
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
from umrgen.server.executors import JobBatch, OnPreview, OnStep, VerifiedImage, WatchdogLimits, verified
from umrgen.server.executors.watchdog import Watchdog
from umrgen.server.running_time import RunningTimeout
from umrgen.server.signing import ManifestSigner, SigningOptions
from umrgen.server.watermark import load_watermark

if TYPE_CHECKING:
    from umrgen.server.engines import Pixels

__all__ = ["RemoteExecutor"]

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
"""Seconds until an engine that cannot be reached is tried again; doubled each time."""


class _Progress:
    """Implements `Report` for one task."""

    def __init__(self, watchdog: Watchdog, on_step: OnStep, on_preview: OnPreview | None) -> None:
        self.wanted = False
        self.cancelled = False
        self._showing: asyncio.Future[None] | None = None
        self._watchdog = watchdog
        self._on_step = on_step
        self._on_preview = on_preview

    def __call__(self, step: int, total: int, preview: "Callable[[], Pixels | EncodedImage] | None" = None, /) -> None:
        self._check_cancelled()
        if not 0 <= step <= total:
            raise EngineCrashed("it reported an impossible step")
        self._watchdog.step(step)
        self._on_step(step, total)
        if preview is not None and self.wanted and self._showing is None:
            self._showing = asyncio.ensure_future(self._show(preview))

    async def _show(self, preview: "Callable[[], Pixels | EncodedImage]") -> None:
        """Encode a preview on a thread, and publish it; one at a time, further ones are dropped."""
        try:
            jpeg = await asyncio.to_thread(preview_jpeg, preview())
            if jpeg and self.wanted and self._on_preview is not None:
                self._on_preview(jpeg)
        except Exception as error:
            log.info("the engine failed to make a preview: %s", type(error).__name__)
        finally:
            self._showing = None

    def phase(self, phase: Phase, /) -> None:
        self._check_cancelled()
        self._watchdog.phase(phase)

    def together(self, images: int, /) -> None:
        """A remote engine gets one task at a time."""

    def _check_cancelled(self) -> None:
        if self.cancelled:
            raise Cancelled


class RemoteExecutor:
    """Implements `Executor` with one `RemoteEngine`, which reports how many tasks it draws at a time."""

    def __init__(
        self,
        engine: str | RemoteEngine,
        options: Mapping[str, Any],
        *,
        devices: int = 1,
        watchdog: WatchdogLimits | None = None,
        signing: SigningOptions | None = None,
        watermark: str = "",
    ) -> None:
        """`engine`: its name, or an engine that is constructed already. `devices` is ignored: the machines are its own.

        Raises EngineFailure.
        """
        self.info: EngineInfo | None = None
        self._name = engine if isinstance(engine, str) else type(engine).__name__
        self._engine: RemoteEngine = load_engine(engine, options) if isinstance(engine, str) else engine
        self._limits = watchdog or WatchdogLimits()
        self._signer = ManifestSigner(signing) if signing is not None else None
        self._watermark = load_watermark(watermark) if watermark else None
        self._trouble: str | None = None
        self._running: dict[str, _Progress] = {}
        self._abandoned: set[asyncio.Future[Any]] = set()
        """Drawings that did not stop when they were cancelled; each takes up capacity until it ends."""
        self._wanted: set[str] = set()
        self._loaded = False
        self._changed = asyncio.Event()
        self._on_capacity: Callable[[], None] = lambda: None

    @property
    def capacity(self) -> int:
        return max(0, self._engine.capacity - len(self._abandoned)) if self._loaded else 0

    @property
    def trouble(self) -> str | None:
        if not self._loaded or self.capacity:
            return self._trouble
        return f"the engine {self._name} cannot draw now"

    loaded = True
    until_loaded = 0.0

    def watch(self, on_capacity: Callable[[], None]) -> None:
        self._on_capacity = on_capacity

    def _grow(self) -> None:
        self._changed.set()
        self._on_capacity()

    async def ready(self) -> None:
        delay = FIRST_DELAY
        while not self._loaded or len(self._running) >= self.capacity:
            if self._loaded:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                await self._load()
            except (EngineFailure, EngineCrashed) as error:
                self._trouble = str(error)
                log.error("%s; trying again in %.0f s", error, delay)
                await asyncio.sleep(delay)
                delay = min(LONGEST_DELAY, delay * 2)

    async def _load(self) -> None:
        try:
            async with RunningTimeout(self._limits.load_timeout):
                await self._engine.load(self._grow)
        except TimeoutError:
            raise EngineStalled(f"the engine was not reached within {self._limits.load_timeout:g} s") from None
        self.info, self._trouble, self._loaded = self._engine.info, None, True
        self._grow()

    async def run(
        self, task: DrawTask, on_step: OnStep, on_preview: OnPreview | None = None, batch: JobBatch | None = None
    ) -> tuple[VerifiedImage, ...]:
        try:
            images = await self._draw(task, on_step, on_preview)
            self._changed.set()
            if batch is not None:
                batch.drawn(task.job_id)
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
            self._changed.set()

    def _encode(self, task: DrawTask, image: "Pixels | EncodedImage") -> EncodedImage:
        assert self.info is not None
        return encoded(image, task, self.info, signer=self._signer, watermark=self._watermark)

    async def _draw(
        self, task: DrawTask, on_step: OnStep, on_preview: OnPreview | None
    ) -> "Sequence[Pixels | EncodedImage]":
        watchdog = Watchdog(self._limits)
        progress = self._running[task.job_id] = _Progress(watchdog, on_step, on_preview)
        progress.wanted = task.job_id in self._wanted
        drawing = asyncio.ensure_future(self._engine.draw(task, progress))
        try:
            async with watchdog:
                await asyncio.wait({drawing})
        finally:
            self._running.pop(task.job_id, None)
            if not drawing.done():
                progress.cancelled = True
                await asyncio.shield(self._cancel(task.job_id, drawing))
        if drawing.cancelled():
            raise EngineCrashed("it cancelled its own drawing")
        return drawing.result()

    async def _cancel(self, job_id: str, drawing: "asyncio.Future[Any]") -> None:
        """Cancel a drawing; when it does not end within `cancel_grace` seconds, count it as a part of the capacity."""
        drawing.cancel()
        with suppress(TimeoutError):
            async with RunningTimeout(self._limits.cancel_grace):
                await asyncio.wait({drawing})
        if drawing.done():
            _ignore_result(drawing)
            return
        log.error("job %s: its drawing did not stop; the capacity is one less until it does", job_id)
        self._abandoned.add(drawing)
        drawing.add_done_callback(self._forget)

    def _forget(self, drawing: "asyncio.Future[Any]") -> None:
        """Give back the capacity of a drawing that has ended late."""
        self._abandoned.discard(drawing)
        _ignore_result(drawing)
        self._grow()

    def show(self, job_id: str, wanted: bool) -> None:
        (self._wanted.add if wanted else self._wanted.discard)(job_id)
        if progress := self._running.get(job_id):
            progress.wanted = wanted

    async def unload(self) -> None:
        """Call the engine's `unload`, if it has one: its server then frees its memory, and loads again by itself."""
        if (unload := getattr(self._engine, "unload", None)) is not None:
            await unload()

    async def stop(self) -> None:
        await self._engine.close()
        self._loaded = False


def _ignore_result(drawing: "asyncio.Future[Any]") -> None:
    if not drawing.cancelled():
        drawing.exception()  # retrieved, so asyncio does not log it
