"""uvicorn's protocol with bounds on what a stranger may hold open: time and size of a request's head, and
the number of connections. What passes here is a whole head; its body is bounded by whoever reads it."""

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

__all__ = ["GuardedProtocol"]

MAX_HEAD = 64 << 10
"""Bytes of a request line and its headers, beyond what came in with their first byte."""


class GuardedProtocol(HttpToolsProtocol):
    """Ends connections that send their head too slowly, too long, or are one too many."""

    head_timeout: ClassVar[float] = 20.0
    max_connections: ClassVar[int] = 20_000
    _head_bytes = 0
    _in_head = False
    _begun_now = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(503)
        else:
            self._head_timer = self.loop.call_later(self.head_timeout, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._in_head = self._begun_now = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.head_complete()
        super().on_headers_complete()

    def head_complete(self) -> None:
        """Hear that a request's head is whole."""
        self._in_head = False
        self._head_bytes = 0
        if self._head_timer is not None:
            self._stop_timer()

    def data_received(self, data: bytes) -> None:
        self._begun_now = False
        super().data_received(data)
        if self._in_head:
            # Where in `data` a head begins is not known; what came in with its beginning is not counted.
            self._watch_head(0 if self._begun_now else len(data))

    def _watch_head(self, received: int) -> None:
        """A head that is not whole yet: it has so much time, and so much room."""
        self._head_bytes += received
        if self.transport.is_closing():
            return
        if self._head_bytes > MAX_HEAD:
            self._refuse(431)
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout, self._too_slow)

    def _too_slow(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(408)
        else:
            self.transport.close()  # it has asked for nothing: nothing is answered

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int) -> None:
        if not self.transport.is_closing():
            self.transport.write(STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()
