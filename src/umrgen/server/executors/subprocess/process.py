"""One engine's process: frames in, frames out, and its end, however it comes."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from umrgen.server.engines import DrawRequest, EngineFailure, EngineInfo
from umrgen.server.executors import EngineCrashed, EngineStalled, OnPreview, OnStep
from umrgen.server.executors.subprocess.frames import HEAD, Frame, FrameError, pack, unpack_lengths

__all__ = ["EngineProcess"]

SECRETS = ("UMRGEN_API_KEY", "UMRGEN_METRICS_TOKEN")

NONSENSE = "what it answered makes no sense"

GONE = (BrokenPipeError, ConnectionResetError, RuntimeError)
"""What writing to a process that is gone raises; uvloop has only a RuntimeError for it."""

MOST_STEPS = 1_000_000
"""No engine has more: it is far beyond what anybody would wait for."""

INBOX = 32
"""Frames held for whoever reads them; an engine that sends more than is read waits."""


def _how_it_ended(returncode: int | None) -> str:
    if returncode is None:
        return "its pipe closed"
    if returncode < 0:
        return f"it was ended by {signal.Signals(-returncode).name}"
    return f"it exited with code {returncode}"


class EngineProcess:
    """One running engine. Whatever breaks it leaves it dead: it is replaced, not mended."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.info = EngineInfo("unknown", "unknown", "")
        self.job_id: str | None = None
        """The job it is drawing, from the request to its last word on it."""
        self._ended = False
        self._inbox: asyncio.Queue[Frame | EngineCrashed] = asyncio.Queue(INBOX)
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def spawn(
        cls, engine: str, options: Mapping[str, Any], *, load_timeout: float, memory: int = 0
    ) -> "EngineProcess":
        """Start an engine and wait until it is loaded, at most `load_timeout` seconds.

        `memory` is the most MiB it may take (0: no limit). Raises EngineFailure and EngineCrashed.
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
            # An engine needs no key: what it prints or dumps can then hold none.
            env={name: value for name, value in os.environ.items() if name not in SECRETS},
        )
        process = cls(started)
        try:
            async with asyncio.timeout(load_timeout):
                head, _ = await process._receive()
            if head["is"] == "unavailable":
                raise EngineFailure(str(head["error"]))
            info = head["info"]
            process.info = EngineInfo(**info | {"features": tuple(info["features"])})
        except BaseException as error:
            await process.kill()
            if isinstance(error, TimeoutError):
                error = EngineStalled(f"it was not loaded after {load_timeout:g} s")
            if isinstance(error, (EngineCrashed, KeyError, TypeError)):
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
        self, job_id: str, request: DrawRequest, on_step: OnStep, on_preview: OnPreview | None, stall_after: float
    ) -> bytes:
        """The encoded picture. Raises EngineFailure, EngineCrashed, and EngineStalled after `stall_after`
        seconds without a step."""
        self.job_id = job_id
        loop, furthest = asyncio.get_running_loop(), 0
        try:
            async with asyncio.timeout(stall_after) as patience:
                await self._send(_draw_head(job_id, request), b"".join(request.references))
                while True:
                    head, body = await self._next_word(job_id)
                    if head["is"] != "step":
                        return _picture(head, body)
                    step, total = _step_of(head)
                    if step > furthest:  # whoever says the same step for ever makes no progress
                        furthest = step
                        patience.reschedule(loop.time() + stall_after)
                    on_step(step, total)
                    if body and on_preview is not None:
                        on_preview(body)
        except TimeoutError:
            raise EngineStalled(f"it made no progress for {stall_after:g} s") from None

    async def _next_word(self, job_id: str) -> Frame:
        """What it says next of this job; after its last word it is at rest. Words on another are passed over."""
        while True:
            head, body = await self._receive()
            if "job_id" not in head or "is" not in head:
                raise EngineCrashed(NONSENSE)
            if head["job_id"] == job_id:
                if head["is"] != "step":
                    self.job_id = None
                return head, body

    async def cancel(self, job_id: str, grace: float) -> None:
        """Ask it to stop this job, and wait until it has; kill it after `grace` seconds."""
        if self.job_id != job_id:
            return
        try:
            async with asyncio.timeout(grace):
                await self._send({"do": "cancel", "job_id": job_id})
                while (word := (await self._next_word(job_id))[0]["is"]) == "step":
                    pass
            if word == "broken":
                await self.kill()
        except (TimeoutError, EngineCrashed):
            await self.kill()

    def show(self, job_id: str, wanted: bool) -> None:
        """Ask for previews of this job, or for no more of them."""
        if self.alive and self._process.stdin is not None:
            with suppress(*GONE):
                self._process.stdin.write(pack({"do": "show", "job_id": job_id, "wanted": wanted}))

    def end(self) -> None:
        """End it, and wait for nothing: it is not alive from now on."""
        self._ended = True
        with suppress(ProcessLookupError):
            self._process.kill()

    async def kill(self) -> None:
        """End it, and wait until it has; whoever waits for its words hears of that."""
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
            raise await self._wait_for_its_end() from None

    async def _receive(self) -> Frame:
        """The next frame. Cancelling this loses nothing: the pipe is read by a task of its own."""
        item = await self._inbox.get()
        if isinstance(item, EngineCrashed):
            self._inbox.put_nowait(item)  # it stays the last word
            raise item
        return item

    async def _read(self) -> None:
        try:
            while True:
                await self._inbox.put(await self._frame())
        except (asyncio.IncompleteReadError, OSError):
            end = await self._wait_for_its_end()
        except (FrameError, ValueError, RecursionError):
            self.end()
            end = EngineCrashed(NONSENSE)
        await self._inbox.put(end)

    async def _frame(self) -> Frame:
        pipe = self._process.stdout
        assert pipe is not None
        head_length, body_length = unpack_lengths(await pipe.readexactly(HEAD.size))
        head = json.loads(await pipe.readexactly(head_length))
        if not isinstance(head, dict):
            raise FrameError("not an object")
        return head, await pipe.readexactly(body_length)

    async def _wait_for_its_end(self) -> EngineCrashed:
        """How it ended. Its pipe is closed already; if that is all, it is ended after a while."""
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            self.end()
            await self._process.wait()
            return EngineCrashed("its pipe closed")
        return EngineCrashed(_how_it_ended(self._process.returncode))


def _draw_head(job_id: str, request: DrawRequest) -> dict[str, Any]:
    fields = asdict(request)
    references: tuple[bytes, ...] = fields.pop("references")
    return {"do": "draw", "job_id": job_id, "request": fields, "references": [len(image) for image in references]}


def _step_of(head: Mapping[str, Any]) -> tuple[int, int]:
    """The step it has reached, and how many there are. Raises EngineCrashed."""
    try:
        step, total = int(head["step"]), int(head["total"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise EngineCrashed(NONSENSE) from None
    if not 0 <= step <= total <= MOST_STEPS:
        raise EngineCrashed(NONSENSE)
    return step, total


def _picture(head: Mapping[str, Any], body: bytes) -> bytes:
    """The picture that its last word on a job brought. Raises EngineFailure and EngineCrashed when it brought none."""
    match head["is"]:
        case "done":
            return body
        case "failed":
            raise EngineFailure(str(head.get("error")))
        case "broken":
            raise EngineCrashed(str(head.get("error")))
    raise EngineCrashed(NONSENSE)
