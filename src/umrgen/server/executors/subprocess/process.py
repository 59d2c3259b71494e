"""One engine process: frames in, frames out, and how it ended."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
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

__all__ = ["EngineProcess"]

SECRETS = ("UMRGEN_API_KEY", "UMRGEN_SERVER_KEY", "UMRGEN_METRICS_TOKEN")

INVALID = "it sent an invalid message"

GONE = (BrokenPipeError, ConnectionResetError, RuntimeError)
"""What writing to a process that has ended raises; uvloop raises RuntimeError."""

MOST_STEPS = 1_000_000
"""A bound for what an engine reports; far more than any engine has."""

PROGRESS = ("step", "phase", "image")
"""The messages about a job that are not final."""

INBOX = 32
"""Frames that are buffered; an engine that sends more must wait."""


def _how_it_ended(returncode: int | None) -> str:
    if returncode is None:
        return "its pipe was closed"
    if returncode < 0:
        return f"it was ended by {signal.Signals(-returncode).name}"
    return f"it exited with code {returncode}"


class EngineProcess:
    """A running engine process. After any failure it is ended and replaced, never repaired."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.info = EngineInfo("unknown", "unknown", "")
        self.job_id: str | None = None
        """The job it is drawing, from the request to the final message."""
        self.was_used = False
        """True after its first job."""
        self._ended = False
        self._inbox: asyncio.Queue[Frame | EngineCrashed] = asyncio.Queue(INBOX)
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def spawn(
        cls, engine: str, options: Mapping[str, Any], *, device: int = 0, load_timeout: float, memory: int = 0
    ) -> "EngineProcess":
        """Start an engine and wait until it is loaded, at most `load_timeout` seconds.

        The process finds the number of its device in UMRGEN_DEVICE. `memory` is its limit in MiB (0: none). Raises
        EngineFailure and EngineCrashed.
        """
        started = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "umrgen.server.executors.subprocess.worker",
            engine,
            json.dumps(options),
            str(memory),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # An engine needs no key, so nothing that it prints or dumps can contain one.
            env={name: value for name, value in os.environ.items() if name not in SECRETS}
            | {"UMRGEN_DEVICE": str(device)},
        )
        process = cls(started)
        try:
            async with asyncio.timeout(load_timeout):
                head, _ = await process._receive()
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
    def pid(self) -> int:
        return self._process.pid

    async def draw(
        self, task: DrawTask, on_step: OnStep, on_preview: OnPreview | None, limits: WatchdogLimits
    ) -> list[EncodedImage]:
        """Return the images. Raises EngineFailure, EngineCrashed and EngineStalled."""
        self.job_id, self.was_used = task.job_id, True
        images: list[EncodedImage] = []
        async with Watchdog(limits) as watchdog:
            await self._send(_draw_head(task), b"".join(task.references))
            while (message := await self._next_message(task.job_id))[0]["is"] in PROGRESS:
                head, body = message
                if head["is"] == "phase":
                    watchdog.phase(_phase_of(head))
                elif head["is"] == "image" and len(images) < MAX_IMAGES:
                    images.append(EncodedImage(body, str(head.get("media_type"))))
                    watchdog.extend()
                elif head["is"] == "step":
                    step, total = _step_of(head)
                    watchdog.step(step)
                    on_step(step, total)
                    if body and on_preview is not None:
                        on_preview(body)
                else:
                    raise EngineCrashed(f"it returned more than {MAX_IMAGES} images")
        _check_done(message[0])
        return images

    async def _next_message(self, job_id: str) -> Frame:
        """Return the next message about this job, and drop those about others. After the final one it is idle."""
        while True:
            head, body = await self._receive()
            if "job_id" not in head or "is" not in head:
                raise EngineCrashed(INVALID)
            if head["job_id"] == job_id:
                if head["is"] not in PROGRESS:
                    self.job_id = None
                return head, body

    async def cancel(self, job_id: str, grace: float) -> None:
        """Request it to stop this job, and wait for that; kill it after `grace` seconds."""
        if self.job_id != job_id:
            return
        try:
            async with asyncio.timeout(grace):
                await self._send({"do": "cancel", "job_id": job_id})
                while (kind := (await self._next_message(job_id))[0]["is"]) in PROGRESS:
                    pass
            if kind == "broken":
                await self.kill()
        except (TimeoutError, EngineCrashed):
            await self.kill()

    def show(self, job_id: str, wanted: bool) -> None:
        """Start or stop previews of this job."""
        if self.alive and self._process.stdin is not None:
            with suppress(*GONE):
                self._process.stdin.write(pack({"do": "show", "job_id": job_id, "wanted": wanted}))

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
        await asyncio.wait({self._reader})
        while not self._inbox.empty():
            self._inbox.get_nowait()
        self._inbox.put_nowait(EngineCrashed(_how_it_ended(self._process.returncode)))

    # --- the pipe ---

    async def _send(self, head: dict[str, Any], body: bytes = b"") -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(pack(head, body))
            await self._process.stdin.drain()
        except GONE:
            raise await self._wait_for_end() from None

    async def _receive(self) -> Frame:
        """Return the next frame. Cancelling this loses no frame: another task reads the pipe."""
        item = await self._inbox.get()
        if isinstance(item, EngineCrashed):
            self._inbox.put_nowait(item)  # for the next call too
            raise item
        return item

    async def _read(self) -> None:
        try:
            while True:
                await self._inbox.put(await self._frame())
        except (asyncio.IncompleteReadError, OSError):
            end = await self._wait_for_end()
        except (FrameError, ValueError, RecursionError):
            self.end()
            end = EngineCrashed(INVALID)
        await self._inbox.put(end)

    async def _frame(self) -> Frame:
        pipe = self._process.stdout
        assert pipe is not None
        head_length, body_length = unpack_lengths(await pipe.readexactly(HEAD.size))
        head = json.loads(await pipe.readexactly(head_length))
        if not isinstance(head, dict):
            raise FrameError("not an object")
        return head, await pipe.readexactly(body_length)

    async def _wait_for_end(self) -> EngineCrashed:
        """Return how it ended. Its pipe is closed already; if the process does not end within seconds, it is killed."""
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self.end()
            await self._process.wait()
            return EngineCrashed("its pipe was closed")
        return EngineCrashed(_how_it_ended(self._process.returncode))


def _draw_head(task: DrawTask) -> dict[str, Any]:
    return {
        "do": "draw",
        "job_id": task.job_id,
        "request": msgspec.to_builtins(task.request),
        "references": [len(image) for image in task.references],
    }


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
