"""The server's side of the process that is connected to Ray, and of the engines that it reaches."""

import asyncio
import itertools
import logging
import os
import re
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from umrgen.server.engines import EngineCrashed
from umrgen.server.executors.channel import ProcessChannel
from umrgen.server.executors.frames import Frame, FrameError
from umrgen.server.executors.link import INVALID, SECRETS, EngineLink
from umrgen.server.executors.ray.spec import RaySpec
from umrgen.server.running_time import RunningTimeout
from umrgen.text import printable

__all__ = ["ActorLink", "RayConnection"]

log = logging.getLogger(__name__)

LOST = "the connection to Ray was lost"
LONGEST_PORTS = 10_000
"""Characters of the line with the ports."""
LAST_SECONDS = 1.0
"""Seconds for the last lines that Ray prints."""
LINES, LONGEST_LINE = 5, 500
"""The last lines that Ray has printed, and their characters, which are logged when its process fails."""
ERROR = re.compile(r"^(?:\[[-\d]+ [:,\d]+ [EFC] .*?\] |(?=[\w.]+(?:Error|Exception): ))(.+)$", re.MULTILINE)
"""A line that Ray logs as an error, without time and process, or the last line of a Python traceback."""


class ActorLink(EngineLink):
    """An engine in an actor, by its number on one connection."""

    def __init__(self, write: Callable[[dict[str, Any], bytes], None], drain: Callable[[], Any]) -> None:
        """`write` sends a message about this engine, and `drain` waits until it is on its way."""
        super().__init__(0)  # all engines of a connection have one reader, which must not wait for the reader of a job
        self._write_to = write
        self._drain_to = drain
        self._gone = asyncio.Event()

    @property
    def alive(self) -> bool:
        return not self._gone.is_set()

    async def placed(self) -> None:
        """Wait, without a limit, until a node has the resources for the engine. Raises EngineCrashed."""
        head, _ = await self._next(self._loading)
        if head["is"] != "placed":
            raise EngineCrashed(str(head.get("error", INVALID)))

    async def ended(self) -> None:
        await self._gone.wait()

    def end(self) -> None:
        """Kill the actor. Until Ray has done so, its resources are not free, and the next actor is not placed."""
        if self.alive:
            self._write({"do": "close"})
            self.lose("it was stopped")

    async def kill(self) -> None:
        self.end()

    async def deliver(self, frame: Frame) -> None:
        """Receive a message about this engine or one of its jobs. Raises FrameError."""
        if frame[0].get("is") == "ended":
            self.lose(str(frame[0].get("error", INVALID)))
        elif self.alive:
            await self._deliver(frame)

    def lose(self, reason: str) -> None:
        """Note that the engine has ended. A task that waits for a message gets EngineCrashed."""
        self._gone.set()
        self._publish_end(EngineCrashed(reason))

    def _write(self, head: dict[str, Any], body: bytes = b"") -> None:
        self._write_to(head, body)

    async def _drain(self) -> None:
        await self._drain_to()


class RayConnection:
    """A process that is connected to Ray. When it ends, all its engines have ended."""

    def __init__(self, channel: ProcessChannel, errors: asyncio.StreamReader, printing: asyncio.StreamWriter) -> None:
        """`errors`: what the process prints, through the socket of `printing`."""
        self._channel = channel
        self._printing = printing
        self._links: dict[int, ActorLink] = {}
        self._lost: str | None = None
        """The reason of its end."""
        self._numbers = itertools.count(1)
        self._printed: deque[str] = deque(maxlen=LINES)
        self._tasks = [asyncio.create_task(self._keep_errors(errors))]

    @classmethod
    async def open(cls, spec: RaySpec, timeout: float) -> "RayConnection":
        """Start the process, and wait until it is connected, at most `timeout` seconds. Raises EngineCrashed."""
        connection = await cls._start(spec)
        try:
            async with RunningTimeout(timeout):
                head, _ = await connection._channel.frame()
            if head.get("is") != "connected":
                connection._lost = str(head.get("error", INVALID))
                raise EngineCrashed(connection._lost)
        except TimeoutError:
            await connection.close()
            raise EngineCrashed(f"Ray at {spec.address} was not reached within {timeout:g} s") from None
        except (asyncio.IncompleteReadError, OSError, FrameError, ValueError):
            connection._lost = "the process that connects to Ray ended; its error is in the log"
            await connection._log_failure("the process that connects to Ray ended")
            await connection.close()
            raise EngineCrashed(connection._lost) from None
        except BaseException:
            await connection.close()
            raise
        log.info("%s", printable(str(head.get("text")), LONGEST_PORTS))
        connection._tasks.append(asyncio.create_task(connection._read()))
        return connection

    @classmethod
    async def _start(cls, spec: RaySpec) -> "RayConnection":
        ours, theirs = socket.socketpair()
        with theirs:
            errors, printing = await asyncio.open_connection(sock=ours)
            try:
                channel = await ProcessChannel.start(
                    sys.executable,
                    "-m",
                    "umrgen.server.executors.ray.driver",
                    spec.to_json(),
                    environment={name: value for name, value in os.environ.items() if name not in SECRETS},
                    errors=theirs.fileno(),
                )
            except BaseException:
                printing.close()
                raise
        return cls(channel, errors, printing)

    @property
    def alive(self) -> bool:
        return self._lost is None

    def engine(self) -> ActorLink:
        """Create an actor. It is placed when a node has the resources for it."""
        number = next(self._numbers)
        link = self._links[number] = ActorLink(
            lambda head, body: self._channel.write(head | {"engine": number}, body), self._channel.drain
        )
        self._channel.write({"do": "open", "engine": number})
        if self._lost is not None:
            link.lose(self._lost)
        return link

    async def lost(self) -> None:
        """Wait until the connection has ended."""
        await asyncio.wait(self._tasks[-1:])

    async def close(self) -> None:
        """End the process. Ray ends its actors."""
        for task in self._tasks:
            task.cancel()
        if self._lost is not None:  # it is ending
            await self._channel.wait_for_end()
        await self._channel.kill()
        await asyncio.wait(self._tasks)
        self._channel.close()
        self._printing.close()
        self._lose_all(LOST)

    def _lose_all(self, reason: str) -> None:
        self._lost = self._lost or reason
        for link in self._links.values():
            link.lose(reason)
        self._links.clear()

    # --- messages ---

    async def _read(self) -> None:
        refused = None
        try:
            while True:
                refused = await self._deliver(await self._channel.frame()) or refused
        except (asyncio.IncompleteReadError, OSError):
            await self._log_failure(refused or LOST)
        except (FrameError, ValueError, RecursionError):
            log.error("the process that is connected to Ray sent an invalid message; it is replaced")
        finally:
            self._lose_all(refused or LOST)

    async def _deliver(self, frame: Frame) -> str | None:
        """Handle a message. Return the reason when the connection ends. Raises FrameError."""
        head = frame[0]
        number = head.get("engine")
        if head.get("is") == "refused":
            return str(EngineCrashed(str(head.get("error"))))
        if head.get("is") == "note":
            log.warning("%s", printable(str(head.get("text"))))
        elif isinstance(number, int) and (link := self._links.get(number)) is not None:
            await link.deliver(frame)
            if head.get("is") == "ended":
                del self._links[number]
        return None

    async def _keep_errors(self, errors: asyncio.StreamReader) -> None:
        """Keep the last errors that Ray prints among dumps of its state and stacks; a failure logs them."""
        while text := await errors.read(1 << 16):
            self._printed.extend(ERROR.findall(text.decode(errors="replace")))

    async def _log_failure(self, reason: str) -> None:
        log.error("%s", reason)
        await asyncio.wait(self._tasks[:1], timeout=LAST_SECONDS)
        for line in self._printed:
            log.error("Ray printed: %s", printable(line, LONGEST_LINE))
