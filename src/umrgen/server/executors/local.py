"""Engines on this machine: each slot is a process of its own, replaced when it dies."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from umrgen.server.engines import DrawRequest, EngineFailure, EngineInfo
from umrgen.server.executors import EngineCrashed, OnStep, Picture
from umrgen.server.executors.frames import HEAD, Frame, FrameError, pack, unpack_lengths

__all__ = ["LocalExecutor"]

log = logging.getLogger(__name__)


def _how_it_ended(returncode: int | None) -> str:
    if returncode is None:
        return "its pipe closed"
    if returncode < 0:
        return f"it was ended by {signal.Signals(-returncode).name}"
    return f"it exited with code {returncode}"


class EngineProcess:
    """One running engine: frames in, frames out."""

    def __init__(self, process: asyncio.subprocess.Process, info: EngineInfo) -> None:
        self._process = process
        self.info = info

    @classmethod
    async def spawn(cls, engine: str, options: Mapping[str, Any]) -> "EngineProcess":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "umrgen.server.executors.worker",
            engine,
            json.dumps(options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # An engine needs no key: what it prints or dumps can then hold none.
            env={name: value for name, value in os.environ.items() if name != "UMRGEN_API_KEY"},
        )
        starting = cls(process, EngineInfo(engine, "unknown", ""))
        try:
            head, _ = await starting._receive()
        except EngineCrashed as crash:
            raise EngineCrashed(f"the engine {engine} did not start: {crash}") from None
        except asyncio.CancelledError:
            await starting.kill()
            raise
        if head["is"] != "ready":
            await starting.kill()
            raise EngineFailure(head["error"])
        info = head["info"]
        starting.info = EngineInfo(**info | {"features": tuple(info["features"])})
        return starting

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def draw(self, job_id: str, request: DrawRequest, on_step: OnStep) -> Picture:
        await self._send(_draw_head(job_id, request), b"".join(request.references))
        while True:
            head, body = await self._receive()
            match head["is"]:
                case "step":
                    on_step(head["step"], head["total"])
                case "done":
                    return Picture(body, head["width"], head["height"])
                case "failed":
                    raise EngineFailure(head["error"])

    async def cancel(self, job_id: str, grace: float) -> None:
        """Ask it to stop this job, and wait until it has; kill it after `grace` seconds."""
        try:
            async with asyncio.timeout(grace):
                await self._send({"do": "cancel", "job_id": job_id})
                while (await self._receive())[0]["is"] == "step":
                    pass
        except (TimeoutError, EngineCrashed):
            await self.kill()

    async def kill(self) -> None:
        if self.alive:
            self._process.kill()
        await self._process.wait()

    async def _send(self, head: dict[str, Any], body: bytes = b"") -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(pack(head, body))
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise await self._crash() from None

    async def _receive(self) -> Frame:
        pipe = self._process.stdout
        assert pipe is not None
        try:
            head_length, body_length = unpack_lengths(await pipe.readexactly(HEAD.size))
            head = json.loads(await pipe.readexactly(head_length))
            return head, await pipe.readexactly(body_length)
        except asyncio.IncompleteReadError:
            raise await self._crash() from None
        except (FrameError, ValueError):
            await self.kill()
            raise EngineCrashed("what the engine answered makes no sense") from None

    async def _crash(self) -> EngineCrashed:
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
        return EngineCrashed(_how_it_ended(self._process.returncode))


def _draw_head(job_id: str, request: DrawRequest) -> dict[str, Any]:
    fields = asdict(request)
    references: tuple[bytes, ...] = fields.pop("references")
    return {"do": "draw", "job_id": job_id, "request": fields, "references": [len(image) for image in references]}


class LocalExecutor:
    """Implements `Executor` with `slots` processes of one engine."""

    def __init__(self, engine: str, options: Mapping[str, Any], *, slots: int = 1, cancel_grace: float = 5.0) -> None:
        self.slots = slots
        self.info: EngineInfo | None = None
        self.trouble: str | None = None
        self._engine = engine
        self._options = options
        self._cancel_grace = cancel_grace
        self._idle: asyncio.Queue[EngineProcess | None] = asyncio.Queue()
        self._processes: set[EngineProcess] = set()

    async def start(self) -> None:
        first = await self._spawn()
        self._idle.put_nowait(first)
        for _ in range(self.slots - 1):
            self._idle.put_nowait(None)

    async def _spawn(self) -> EngineProcess:
        try:
            process = await EngineProcess.spawn(self._engine, self._options)
        except (EngineFailure, EngineCrashed) as error:
            self.trouble = str(error)
            raise
        self._processes.add(process)
        self.info, self.trouble = process.info, None
        return process

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[EngineProcess]:
        """An idle process, alive; its place is given back afterwards, whatever became of it."""
        process = await self._idle.get()
        try:
            if process is None or not process.alive:
                process = await self._spawn()
            yield process
        finally:
            if process is not None and not process.alive:
                self._processes.discard(process)
                process = None
            self._idle.put_nowait(process)

    async def run(self, job_id: str, request: DrawRequest, on_step: OnStep) -> Picture:
        async with self._process() as process:
            try:
                return await process.draw(job_id, request, on_step)
            except asyncio.CancelledError:
                await asyncio.shield(process.cancel(job_id, self._cancel_grace))
                raise

    async def stop(self) -> None:
        for process in self._processes:
            await process.kill()
        self._processes.clear()
