"""One engine process: frames in, frames out, and how it ended."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from umrgen.server.domain.job import MAX_IMAGES
from umrgen.server.engines import (
    DrawTask,
    EncodedImage,
    EngineCrashed,
    EngineFailure,
    EngineInfo,
    EngineStalled,
    OutOfMemory,
    Phase,
)
from umrgen.server.executors import OnPreview, OnStep, WatchdogLimits
from umrgen.server.executors.subprocess.frames import HEAD, Frame, FrameError, pack, unpack_lengths
from umrgen.server.executors.watchdog import Watchdog
from umrgen.server.running_time import RunningTimeout
from umrgen.server.signing import SigningOptions

__all__ = ["EngineProcess", "Listener"]

SECRETS = (
    *("UMRGEN_API_KEY", "UMRGEN_SERVER_KEY", "UMRGEN_METRICS_TOKEN", "UMRGEN_LEDGER", "PGPASSWORD"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
"""Variables that an engine does not get."""

INVALID = "it sent an invalid message"

GONE = (BrokenPipeError, ConnectionResetError, RuntimeError)
"""What writing to a process that has ended raises; uvloop raises RuntimeError."""

MOST_STEPS = 1_000_000
"""A bound for what an engine reports; far more than any engine has."""

PROGRESS = ("step", "phase", "drawn", "image")
"""The messages about a job that are not final."""

INBOX = 32
"""Frames of a job that are buffered; an engine that sends more must wait."""

Inbox = asyncio.Queue[Frame | EngineCrashed]


@dataclass(frozen=True, slots=True)
class Listener:
    """The callbacks of one job, called on the event loop."""

    on_step: OnStep
    on_preview: OnPreview | None
    on_drawn: Callable[[], None]
    """The drawing has ended, and the images are encoded."""


def _how_it_ended(returncode: int | None) -> str:
    if returncode is None:
        return "its connection was closed"
    if returncode < 0:
        return f"it was ended by {signal.Signals(-returncode).name}"
    return f"it exited with code {returncode}"


class EngineProcess:
    """A running engine process. After any failure it is ended and replaced, never repaired."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: socket.socket,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._channel = channel
        self._frames = reader
        self._writer = writer
        self.info = EngineInfo("unknown", "unknown", "")
        self.was_used = False
        """True after its first job."""
        self._ended = False
        self._end: EngineCrashed | None = None
        self._jobs: dict[str, Inbox] = {}
        self._loading: Inbox = asyncio.Queue(INBOX)
        """The messages that are about no job: whether the engine was loaded."""
        self._reader = asyncio.create_task(self._read())
        self._watcher = asyncio.create_task(self._watch_end())

    @classmethod
    async def start_command(cls, *command: str, environment: Mapping[str, str] | None = None) -> "EngineProcess":
        """Start a command whose standard input and output are one socket, which carries the frames.

        A socket, not asyncio's pipes: with these, `wait` returns only when all that was written has been read, and when
        no process that the command has forked holds the pipes.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=theirs.fileno(), stdout=theirs.fileno(), env=environment
                )
            except BaseException:
                writer.close()
                raise
        return cls(process, ours, reader, writer)

    @classmethod
    async def spawn(
        cls,
        engine: str,
        options: Mapping[str, Any],
        *,
        device: int = 0,
        load_timeout: float,
        memory: int = 0,
        signing: SigningOptions | None = None,
        watermark: str = "",
    ) -> "EngineProcess":
        """Start an engine and wait until it is loaded, at most `load_timeout` seconds.

        The process finds the number of its device in UMRGEN_DEVICE. `memory` is its limit in MiB (0: none). Raises
        EngineFailure and EngineCrashed.
        """
        process = await cls.start_command(
            sys.executable,
            "-m",
            "umrgen.server.executors.subprocess.worker",
            engine,
            json.dumps(options),
            str(memory),
            signing.to_json() if signing is not None else "null",
            watermark,
            # An engine needs no key, so nothing that it prints or dumps can contain one.
            environment={name: value for name, value in os.environ.items() if name not in SECRETS}
            | {"UMRGEN_DEVICE": str(device)},
        )
        try:
            async with RunningTimeout(load_timeout):
                head, _ = await process._next(process._loading)
            if head["is"] == "unavailable":
                raise EngineFailure(str(head["error"]))
            process.info = msgspec.convert(head["info"], EngineInfo)
        except BaseException as error:
            await process.kill()
            if isinstance(error, TimeoutError):
                error = EngineStalled(f"it was not loaded after {load_timeout:g} s")
            if isinstance(error, (EngineCrashed, KeyError, msgspec.ValidationError)):
                raise EngineCrashed(f"the engine {engine} did not start: {error}") from None
            raise
        return process

    @property
    def alive(self) -> bool:
        return self._process.returncode is None and not self._ended

    @property
    def jobs(self) -> Collection[str]:
        """The jobs without a final message."""
        return self._jobs.keys()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, tasks: Sequence[DrawTask]) -> None:
        """Send tasks to be drawn together. Each is followed with `follow`."""
        if not tasks:
            return
        self.was_used = True
        for task in tasks:
            inbox = self._jobs[task.job_id] = asyncio.Queue(INBOX)
            if self._end is not None:
                inbox.put_nowait(self._end)
        images = b"".join(file for task in tasks for file in (*task.references, *task.archives))
        with suppress(*GONE):  # its end is noticed by the reader
            self._writer.write(pack({"do": "draw", "tasks": [_task_head(task) for task in tasks]}, images))

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
        """Return the next frame of an inbox. Cancelling this loses no frame: another task reads the socket."""
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
                await self._send({"do": "cancel", "job_id": job_id})
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
            with suppress(*GONE):
                self._writer.write(pack({"do": "show", "job_id": job_id, "wanted": wanted}))

    async def ended(self) -> None:
        """Wait until the process has ended."""
        await self._process.wait()

    def end(self) -> None:
        """Kill the process without waiting for its end. It is no longer `alive`."""
        self._ended = True
        with suppress(ProcessLookupError):
            self._process.kill()

    async def kill(self) -> None:
        """Kill the process and wait for its end. A task that waits for a message gets EngineCrashed."""
        self.end()
        await self._process.wait()
        self._reader.cancel()
        await asyncio.wait({self._reader, self._watcher})
        self._publish_end(EngineCrashed(_how_it_ended(self._process.returncode)))

    # --- the socket ---

    async def _send(self, head: dict[str, Any]) -> None:
        with suppress(*GONE):  # its end is noticed by the reader
            self._writer.write(pack(head))
        await self._drain()

    async def _drain(self) -> None:
        with suppress(*GONE):
            await self._writer.drain()

    async def _read(self) -> None:
        try:
            while True:
                await self._deliver(await self._frame())
        except (asyncio.IncompleteReadError, OSError):
            end = await self._wait_for_end()
        except (FrameError, ValueError, RecursionError):
            self.end()
            end = EngineCrashed(INVALID)
        finally:
            self._writer.close()
        self._publish_end(end)

    async def _deliver(self, frame: Frame) -> None:
        """Put a frame into the inbox of its job; drop it if the job is over. Raises FrameError."""
        head = frame[0]
        if not isinstance(head.get("is"), str):
            raise FrameError("a frame without a kind")
        if head["is"] in ("ready", "unavailable"):
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

    async def _frame(self) -> Frame:
        head_length, body_length = unpack_lengths(await self._frames.readexactly(HEAD.size))
        head = json.loads(await self._frames.readexactly(head_length))
        if not isinstance(head, dict):
            raise FrameError("not an object")
        return head, await self._frames.readexactly(body_length)

    async def _watch_end(self) -> None:
        """When the process has ended, end the stream after what it sent: a process that it forked may hold it."""
        await self._process.wait()
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RD)

    async def _wait_for_end(self) -> EngineCrashed:
        """Return how it ended. Its stream is closed; if the process does not end within seconds, it is killed."""
        try:
            async with RunningTimeout(5):
                await self._process.wait()
        except TimeoutError:
            self.end()
            await self._process.wait()
            return EngineCrashed("its connection was closed")
        return EngineCrashed(_how_it_ended(self._process.returncode))


def _task_head(task: DrawTask) -> dict[str, Any]:
    return {
        "job_id": task.job_id,
        "request": msgspec.to_builtins(task.request),
        "references": [len(image) for image in task.references],
        "archives": [len(archive) for archive in task.archives],
        "with_prompt": task.with_prompt,
        "created_at": task.created_at,
    }


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
