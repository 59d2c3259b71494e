"""Engines for tests: a local and a remote one with the same behaviour, which the prompt selects.

`one`, `several` (three images, one of another size and encoded by the engine), `refuse`, `raise`, `phases` (each
phase takes a third of a second), `same` (one phase again and again), `compile` (for a second), `many` (nine images),
`wait` (for a cancellation), `stubborn` (of which the remote engine ignores one cancellation), `slow` (0.02 s a step),
`unprintable` (a message of control characters); and those of `_preview`.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from umrgen.server.engines import Cancelled, DrawTask, EncodedImage, EngineFailure, EngineInfo, Phase, Report

INFO = EngineInfo(
    "fake", "procedural", "1", default_steps=6, features=("previews",), models=("base", "slow"), model_steps={"slow": 9}
)
PAUSE = 0.3
"""Seconds between two signs of life."""


def _work(task: DrawTask, report: Report) -> Iterator[float]:
    """Execute the prompt; yield seconds to wait."""
    prompt, steps = task.request.prompt, task.request.steps
    if prompt == "refuse":
        raise EngineFailure("this prompt is refused")
    if prompt == "unprintable":
        raise EngineFailure("bad \udc80\x1b[2J\nnumber \u202e1" + "x" * 9000)
    if prompt == "raise":
        raise RuntimeError(f"a defect of the engine in {__file__}")
    if prompt == "phases":
        for phase in Phase:
            report.phase(phase)
            yield PAUSE
    if prompt == "compile":
        report.phase(Phase.COMPILING)
        yield 2.0
    while prompt == "same":
        report.phase(Phase.DRAWING)
        yield PAUSE
    if prompt == "deaf":
        report(1, steps)
        yield 0.5
        return
    for step in range(1, steps + 1):
        report(step, steps, lambda: _preview(task))
        yield 0.02 if prompt in ("slow", "junk", "truncated", "huge") else 0.0
    while prompt == "wait":
        report(steps, steps)
        yield 0.01


@cache
def _huge_png() -> bytes:
    encoded = BytesIO()
    Image.new("1", (6000, 6000)).save(encoded, "PNG")
    return encoded.getvalue()


def _preview(task: DrawTask) -> Any:
    """Return a preview; for the prompts `junk`, `truncated`, `huge` and `defect` one that cannot be shown."""
    match task.request.prompt:
        case "junk":
            return EncodedImage(b"no image", "image/png")
        case "truncated":
            encoded = BytesIO()
            Image.fromarray(_pixels(task)).save(encoded, "PNG")
            return EncodedImage(encoded.getvalue()[:300], "image/png")
        case "huge":
            return EncodedImage(_huge_png(), "image/png")
        case "defect":
            raise RuntimeError("a defect of the engine's preview")
        case _:
            return _pixels(task)


def _pixels(task: DrawTask, shade: int = 90) -> Any:
    return np.full((task.request.height, task.request.width, 3), shade, np.uint8)


def _images(task: DrawTask) -> list[Any]:
    if task.request.prompt != "several":
        return [_pixels(task)] * (9 if task.request.prompt == "many" else 1)
    jpeg = BytesIO()
    Image.new("RGB", (640, 400), (9, 9, 9)).save(jpeg, "JPEG")
    return [_pixels(task), EncodedImage(jpeg.getvalue(), "image/jpeg"), _pixels(task, 30)]


class FakeEngine:
    """Implements `Engine`."""

    info = INFO

    def load(self) -> None:
        """Nothing to load."""

    def draw(self, task: DrawTask, report: Report) -> list[Any]:
        for seconds in _work(task, report):
            time.sleep(seconds)
        return _images(task)


class FakeBatchEngine(FakeEngine):
    """Implements `BatchEngine`; the shade of an image is the size of its batch.

    `deaf` reports its first step only, `encode later` returns images that are encoded when `allow encoding` was drawn.
    """

    info = replace(INFO, max_batch=4)

    def __init__(self) -> None:
        self._allowed = threading.Event()

    def draw(self, task: DrawTask, report: Report) -> list[Any]:
        if task.request.prompt == "allow encoding":
            self._allowed.set()
        if task.request.prompt == "encode later":
            return _LateImages(self._allowed, [_pixels(task)])
        (result,) = self.draw_batch([task], [report])
        if isinstance(result, Exception):
            raise result
        return list(result)

    def draw_batch(self, tasks: Sequence[DrawTask], reports: Sequence[Report]) -> list[Any]:
        results: list[Any] = [[_pixels(task, len(tasks))] for task in tasks]
        going = {index: _work(task, report) for index, (task, report) in enumerate(zip(tasks, reports, strict=True))}
        while going:
            for index, work in tuple(going.items()):
                try:
                    seconds = next(work, None)
                except (EngineFailure, Cancelled) as error:
                    results[index], seconds = error, None
                if seconds is None:
                    del going[index]
                else:
                    time.sleep(seconds)
        return results


class _LateImages(list[Any]):
    """Images that are available when `allowed` is set."""

    def __init__(self, allowed: threading.Event, images: list[Any]) -> None:
        super().__init__(images)
        self._allowed = allowed

    def __iter__(self) -> Iterator[Any]:
        assert self._allowed.wait(60)
        return super().__iter__()


class FakeRemoteEngine:
    """Implements `RemoteEngine`; the first `failures` loads fail."""

    info = INFO

    def __init__(self, *, capacity: int = 1, failures: int = 0) -> None:
        if capacity < 0:
            raise ValueError(f"capacity must be 0 or more; got {capacity}")
        self.capacity = capacity
        self.loads = 0
        self.closed = False
        self._failures = failures
        self.on_capacity: Callable[[], None] = lambda: None
        self.released = asyncio.Event()
        """Ends the drawings of `stubborn`."""

    async def load(self, on_capacity: Callable[[], None]) -> None:
        self.loads += 1
        self.on_capacity = on_capacity
        if self.loads <= self._failures:
            raise EngineFailure("the other server does not respond")

    async def draw(self, task: DrawTask, report: Report) -> list[Any]:
        for seconds in _work(task, report):
            await asyncio.sleep(seconds)
        if task.request.prompt == "stubborn":
            with suppress(asyncio.CancelledError):
                await self.released.wait()
            await self.released.wait()
        return _images(task)

    async def close(self) -> None:
        self.closed = True


class MeetingEngine:
    """Waits in each drawing until `count` processes draw concurrently, each of which creates a file in `folder`."""

    info = INFO

    def __init__(self, *, folder: str, count: int) -> None:
        self._folder = Path(folder)
        self._count = count

    def load(self) -> None:
        self._folder.mkdir(exist_ok=True)

    def draw(self, task: DrawTask, report: Report) -> list[Any]:
        (self._folder / f"{os.environ['UMRGEN_DEVICE']}-{os.getpid()}").touch()
        deadline = time.monotonic() + 60
        while len(list(self._folder.iterdir())) < self._count:
            if time.monotonic() > deadline:
                raise EngineFailure(f"fewer than {self._count} processes drew concurrently within 60 s")
            time.sleep(0.01)
        report(1, task.request.steps)
        return [_pixels(task)]


class RecordingEngine(FakeEngine):
    """Writes each request, and the number of its reference images, into `folder`."""

    info = EngineInfo(
        "recording",
        "procedural",
        "1",
        features=("references", "negative", "loras", "cfg"),
        models=("base", "large"),
        loras=("ink", "film grain"),
        default_cfg=4.0,
        model_steps={"large": 9},
    )

    def __init__(self, *, folder: str) -> None:
        self._folder = Path(folder)

    def draw(self, task: DrawTask, report: Report) -> list[Any]:
        (self._folder / "request.json").write_bytes(msgspec.json.encode(task.request))
        (self._folder / "references").write_text(str(len(task.references)))
        return super().draw(task, report)


class UnloadableEngine(FakeEngine):
    """An engine whose weights are missing."""

    def load(self) -> None:
        raise EngineFailure("it has no weights: run the command that fetches them")


class EndlessLoadingEngine(FakeEngine):
    """Writes its process id as the name of a file in `folder`, and is never loaded."""

    def __init__(self, *, folder: str) -> None:
        self._folder = Path(folder)

    def load(self) -> None:
        (self._folder / str(os.getpid())).touch()
        threading.Event().wait()


class TimedEngine(FakeRemoteEngine):
    """Draws `capacity` images at a time, each in `seconds`, which its steps share."""

    def __init__(self, *, seconds: float, capacity: int = 1) -> None:
        super().__init__(capacity=capacity)
        self._seconds = seconds

    async def draw(self, task: DrawTask, report: Report) -> list[Any]:
        steps = task.request.steps
        for step in range(1, steps + 1):
            await asyncio.sleep(self._seconds / steps)
            report(step, steps, lambda: _preview(task))
        return _images(task)
