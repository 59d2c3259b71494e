"""Receives the messages of one prompt in a task of its own, and connects again when the socket was closed."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

from umrgen.server.engines.comfyui.answers import Event
from umrgen.server.engines.comfyui.transport import ComfyClient

__all__ = ["EventListener"]

WAITING = 32
"""Messages that may wait; further ones stay in the socket."""
FIRST_DELAY, LONGEST_DELAY = 0.5, 5.0
"""Seconds until the next try to connect, doubled each time."""
CONNECT_WAIT = 5.0
"""Seconds that a prompt waits for the socket before it is sent."""


class EventListener:
    """An `async with` block in which messages arrive. Without a connection there are none, and polling is enough."""

    def __init__(self, client: ComfyClient, client_id: str) -> None:
        self.connected = asyncio.Event()
        self._tried = asyncio.Event()
        self._client = client
        self._client_id = client_id
        self._queue: asyncio.Queue[Event] = asyncio.Queue(WAITING)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "EventListener":
        self._task = asyncio.create_task(self._receive())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), CONNECT_WAIT)
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def next(self, timeout: float) -> Event | None:
        """Return the next message, None when none arrives within `timeout` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                return await self._queue.get()
        return None

    def waiting(self) -> Iterator[Event]:
        """Yield the messages that have arrived already."""
        while not self._queue.empty():
            yield self._queue.get_nowait()

    async def _receive(self) -> None:
        delay = FIRST_DELAY
        while True:
            async for event in self._client.events(self._client_id):
                if event is None:
                    self.connected.set()
                    self._tried.set()
                    delay = FIRST_DELAY
                else:
                    await self._queue.put(event)
            self.connected.clear()
            self._tried.set()
            await asyncio.sleep(delay)
            delay = min(LONGEST_DELAY, 2 * delay)
