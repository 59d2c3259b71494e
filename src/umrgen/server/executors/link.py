"""The connection to one engine elsewhere: tasks out, messages about them in, and how it ended."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from umrgen.server.domain.job import MAX_IMAGES
from umrgen.server.engines import DrawTask, EncodedImage, EngineCrashed, EngineFailure, EngineInfo, OutOfMemory, Phase
from umrgen.server.executors import OnPreview, OnStep, WatchdogLimits
from umrgen.server.executors.frames import Frame, FrameError
from umrgen.server.executors.task_message import pack_tasks
from umrgen.server.executors.watchdog import Watchdog
from umrgen.server.running_time import RunningTimeout

__all__ = ["INVALID", "SECRETS", "EngineLink", "Listener"]

SECRETS = (
    *("UMRGEN_API_KEY", "UMRGEN_SERVER_KEY", "UMRGEN_METRICS_TOKEN", "UMRGEN_LEDGER", "PGPASSWORD"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
"""Variables that a process with an engine, or with foreign code, does not get."""

INVALID = "it sent an invalid message"

MOST_STEPS = 1_000_000
"""A bound for what an engine reports; far more than any engine has."""

PROGRESS = ("step", "phase", "drawn", "image")
"""The messages about a job that are not final."""

LOADING = ("placed", "ready", "unavailable")
"""The messages about the engine itself."""

Inbox = asyncio.Queue[Frame | EngineCrashed]


@dataclass(frozen=True, slots=True)
class Listener:
    """The callbacks of one job, called on the event loop."""

    on_step: OnStep
    on_preview: OnPreview | None
    on_drawn: Callable[[], None]
    """The drawing has ended, and the images are encoded."""


class EngineLink(ABC):
    """A connected engine, which executes a `Worker`. After any failure it is ended and replaced, never repaired."""

    def __init__(self, inbox: int) -> None:
        """`inbox`: the messages of a job that are buffered, before the reader of the link waits; 0: no limit."""
        self.info = EngineInfo("unknown", "unknown", "")
        self.was_used = False
        """True after its first job."""
        self.load_seconds = 0.0
        self._end: EngineCrashed | None = None
        self._inbox = inbox
        self._jobs: dict[str, Inbox] = {}
        self._loading: Inbox = asyncio.Queue(self._inbox)
        """The messages that are about no job: whether the engine was loaded."""

    @property
    @abstractmethod
    def alive(self) -> bool: ...

    @abstractmethod
    async def ended(self) -> None:
        """Wait until the engine has ended."""

    @abstractmethod
    def end(self) -> None:
        """Kill the engine without waiting for its end. It is no longer `alive`."""

    @abstractmethod
    async def kill(self) -> None:
        """Kill the engine and wait for its end. A task that waits for a message gets EngineCrashed."""

    @abstractmethod
    def _write(self, head: dict[str, Any], body: bytes = b"") -> None:
        """Send a message. If the engine has ended, this has no effect."""

    @abstractmethod
    async def _drain(self) -> None:
        """Wait until the written messages are in the system's buffer."""

    @property
    def jobs(self) -> Collection[str]:
        """The jobs without a final message."""
        return self._jobs.keys()

    async def loaded(self, seconds: float) -> None:
        """Wait until the engine is loaded, at most `seconds`. Raises EngineFailure, EngineCrashed and TimeoutError."""
        began = asyncio.get_running_loop().time()
        async with RunningTimeout(seconds):
            head, _ = await self._next(self._loading)
        self.load_seconds = asyncio.get_running_loop().time() - began
        if head["is"] == "unavailable":
            raise EngineFailure(str(head.get("error")))
        try:
            self.info = msgspec.convert(head.get("info"), EngineInfo)
        except msgspec.ValidationError as error:
            raise EngineCrashed(str(error)) from None

    def start(self, tasks: Sequence[DrawTask]) -> None:
        """Send tasks to be drawn together. Each is followed with `follow`."""
        if not tasks:
            return
        self.was_used = True
        for task in tasks:
            inbox = self._jobs[task.job_id] = asyncio.Queue(self._inbox)
            if self._end is not None:
                inbox.put_nowait(self._end)
        self._write(*pack_tasks(tasks))

    async def follow(self, job_id: str, listener: Listener, limits: WatchdogLimits) -> list[EncodedImage]:
        """Wait for the images of a job. Raises EngineFailure, EngineCrashed and EngineStalled."""
        images: list[EncodedImage] = []
        async with Watchdog(limits) as watchdog:
            await self._drain()
            while (message := await self._next_message(job_id))[0]["is"] in PROGRESS:
                _observe(message, listener, watchdog, images)
        _check_done(message[0])
        return images

    async def _next_message(self, job_id: str) -> Frame:
        """Return the next message about this job. After the final one, the job is no longer one of `jobs`."""
        message = await self._next(self._jobs[job_id])
        if message[0]["is"] not in PROGRESS:
            del self._jobs[job_id]
        return message

    async def _next(self, inbox: Inbox) -> Frame:
        """Return the next frame of an inbox. Cancelling this loses no frame: another task reads the stream."""
        item = await inbox.get()
        if isinstance(item, EngineCrashed):
            inbox.put_nowait(item)  # for the next call too
            raise item
        return item

    async def cancel(self, job_id: str, grace: float) -> None:
        """Request it to stop this job, and wait for that, at most `grace` seconds.

        Then the process is killed; if it draws other jobs too, it continues, and the result of this one is dropped.
        """
        if job_id not in self._jobs:
            return
        try:
            async with RunningTimeout(grace):
                self._write({"do": "cancel", "job_id": job_id})
                await self._drain()
                while (kind := (await self._next_message(job_id))[0]["is"]) in PROGRESS:
                    pass
            if kind == "broken":
                await self.kill()
        except (TimeoutError, EngineCrashed):
            if len(self._jobs) > 1 and self.alive:
                del self._jobs[job_id]
            else:
                await self.kill()

    def show(self, job_id: str, wanted: bool) -> None:
        """Start or stop previews of this job."""
        if self.alive:
            self._write({"do": "show", "job_id": job_id, "wanted": wanted})

    async def _deliver(self, frame: Frame) -> None:
        """Put a frame into the inbox of its job; drop it if the job is over. Raises FrameError."""
        head = frame[0]
        if not isinstance(head.get("is"), str):
            raise FrameError("a frame without a kind")
        if head["is"] in LOADING:
            await self._loading.put(frame)
        elif not isinstance(head.get("job_id"), str):
            raise FrameError("a frame about no job")
        elif (inbox := self._jobs.get(head["job_id"])) is not None:
            await inbox.put(frame)

    def _publish_end(self, end: EngineCrashed) -> None:
        """Give the reason of its end to all that wait for a frame. The first reason is kept."""
        self._end = self._end or end
        for inbox in (self._loading, *self._jobs.values()):
            while inbox.full():
                inbox.get_nowait()
            inbox.put_nowait(self._end)


def _observe(message: Frame, listener: Listener, watchdog: Watchdog, images: list[EncodedImage]) -> None:
    """Handle a message about the progress of a job. Raises EngineCrashed."""
    head, body = message
    match head["is"]:
        case "phase":
            watchdog.phase(_phase_of(head))
        case "drawn":
            watchdog.phase(Phase.ENCODING)
            listener.on_drawn()
        case "image" if len(images) < MAX_IMAGES:
            images.append(_image_of(head, body))
            watchdog.extend()
        case "image":
            raise EngineCrashed(f"it returned more than {MAX_IMAGES} images")
        case _:
            step, total = _step_of(head)
            watchdog.step(step)
            listener.on_step(step, total)
            if body and listener.on_preview is not None:
                listener.on_preview(body)


def _hash_of(head: Mapping[str, Any]) -> bytes:
    """Return the perceptual hash of an image. Raises EngineCrashed for anything but 32 bytes or none."""
    try:
        pdq = bytes.fromhex(head.get("pdq", ""))
    except (TypeError, ValueError):
        raise EngineCrashed(INVALID) from None
    if len(pdq) not in (0, 32):
        raise EngineCrashed(INVALID)
    return pdq


def _image_of(head: Mapping[str, Any], body: bytes) -> EncodedImage:
    """Return the image of a message, and its thumbnail, which follows it. Raises EngineCrashed."""
    size = head.get("thumbnail", 0)
    if not isinstance(size, int) or not 0 <= size <= len(body):
        raise EngineCrashed(INVALID)
    end = len(body) - size
    return EncodedImage(body[:end], str(head.get("media_type")), body[end:], pdq=_hash_of(head))


def _step_of(head: Mapping[str, Any]) -> tuple[int, int]:
    """Return the finished step and the number of steps. Raises EngineCrashed."""
    try:
        step, total = int(head["step"]), int(head["total"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise EngineCrashed(INVALID) from None
    if not 0 <= step <= total <= MOST_STEPS:
        raise EngineCrashed(INVALID)
    return step, total


def _phase_of(head: Mapping[str, Any]) -> Phase:
    try:
        return Phase(head["phase"])
    except (KeyError, ValueError):
        raise EngineCrashed(INVALID) from None


def _check_done(head: Mapping[str, Any]) -> None:
    """Raise EngineFailure or EngineCrashed unless the final message confirms that all images were sent."""
    match head["is"]:
        case "done":
            return
        case "failed":
            failure = OutOfMemory if head.get("code") == OutOfMemory.code else EngineFailure
            raise failure(str(head.get("error")))
        case "broken":
            raise EngineCrashed(str(head.get("error")))
    raise EngineCrashed(INVALID)
