"""A process that frames are exchanged with."""

import asyncio
import json
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from umrgen.server.executors.frames import HEAD, Frame, FrameError, pack, unpack_lengths
from umrgen.server.running_time import RunningTimeout

__all__ = ["ProcessChannel"]

GONE = (BrokenPipeError, ConnectionResetError, RuntimeError)
"""What writing to a process that has ended raises; uvloop raises RuntimeError."""
LAST_SECONDS = 5.0
"""Seconds that a process which has closed its stream has to end."""


class ProcessChannel:
    """A process whose standard input and output are one socket, which carries the frames.

    A socket, not asyncio's pipes: with these, `wait` returns only when all that was written has been read, and when no
    process that this one has forked holds the pipes.
    """

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
        self._watcher = asyncio.create_task(self._watch_end())

    @classmethod
    async def start(
        cls, *command: str, environment: Mapping[str, str] | None = None, errors: int | None = None
    ) -> "ProcessChannel":
        """Start a command. `errors`: the descriptor of its standard error; None: that of this process."""
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=errors, env=environment
                )
            except BaseException:
                writer.close()
                raise
        return cls(process, ours, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def write(self, head: Mapping[str, Any], body: bytes = b"") -> None:
        """Send a frame. If the process has ended, this has no effect: the reader gets its end."""
        with suppress(*GONE):
            self._writer.write(pack(head, body))

    async def drain(self) -> None:
        """Wait until the written frames are in the system's buffer."""
        with suppress(*GONE):
            await self._writer.drain()

    async def frame(self) -> Frame:
        """Return the next frame.

        Raises FrameError, ValueError and RecursionError for invalid data; IncompleteReadError and OSError at its end.
        """
        head_length, body_length = unpack_lengths(await self._frames.readexactly(HEAD.size))
        head = json.loads(await self._frames.readexactly(head_length))
        if not isinstance(head, dict):
            raise FrameError("not an object")
        return head, await self._frames.readexactly(body_length)

    async def wait(self) -> None:
        """Wait until the process has ended."""
        await self._process.wait()

    def end(self) -> None:
        """Kill the process without waiting for its end."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def kill(self) -> None:
        """Kill the process and wait for its end."""
        self.end()
        await self._process.wait()
        await asyncio.wait({self._watcher})

    def close(self) -> None:
        """Close the stream."""
        self._writer.close()

    async def wait_for_end(self) -> str:
        """Return how it ended. Its stream is closed; if the process does not end within seconds, it is killed."""
        try:
            async with RunningTimeout(LAST_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.end()
            await self._process.wait()
            return "its connection was closed"
        return self.how_it_ended()

    def how_it_ended(self) -> str:
        code = self._process.returncode
        if code is None:
            return "its connection was closed"
        return f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it exited with code {code}"

    async def _watch_end(self) -> None:
        """End the stream after the end of the process: a process that it forked may hold it."""
        await self._process.wait()
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RD)
