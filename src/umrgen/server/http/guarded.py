"""uvicorn's protocol with bounds on what a stranger may hold open.

A head has so much time and so much room, a connection that asks for nothing goes, requests do not pile up,
and whoever does not read what he asked for is let go. The body of a request is bounded by whoever reads it.
"""

import asyncio
import math
import re
from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from umrgen.server.limits import neighbourhood

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

__all__ = ["MAX_PIPELINED", "GuardedProtocol"]

MAX_HEAD = 64 << 10
"""Bytes of a request line and its headers, beyond what came in with their first byte."""
MAX_PIPELINED = 64
"""Requests that wait on one connection for the one before them; beyond it nothing more is read."""
MAX_PIPELINED_BYTES = 1 << 20
"""The same of their bodies."""
SLICE = 4 << 10
"""Bytes that are parsed at a time: what stands behind them may have to wait."""
READER_SECONDS = 30.0
"""How long a reader may take nothing at all of what is being sent."""
_UPGRADE_TO_2 = re.compile(rb"(\r\n)upgrade(:[ \t]*h2c[ \t]*(?:\r\n|$))", re.IGNORECASE)


class TooMuch(Exception):
    """Raised in the parser's callbacks: the connection is answered 400, and closed."""


class GuardedProtocol(HttpToolsProtocol):
    """Ends connections that take more time, room or company than they may."""

    head_timeout: ClassVar[float] = 20.0
    max_connections: ClassVar[int] = 20_000
    max_of_address: ClassVar[int] = 1_000
    company: ClassVar[Counter[str]]
    """Connections by address."""

    _address = ""
    _backlog = b""
    """What was received, and waits for the requests before it."""
    _head_bytes = 0
    _in_head = False
    _begun_now = False
    _idle = False
    """Whether all that it asked for is answered, and it has not said anything since."""
    _until = math.inf
    """The time of the loop at which it has been waited for long enough. Never, while anything is to be answered."""
    _watch: asyncio.TimerHandle | None = None
    """Looks at `_until` now and then. To set a timer for each request costs more than to answer it."""
    _reader_timer: asyncio.TimerHandle | None = None
    _answering: RequestResponseCycle | None = None
    """The request that is answered now; `cycle` is the one that came in last."""

    # --- connections ---

    def stands_for_many(self, address: str) -> bool:
        """Whether many callers come from this address: it is a proxy's."""
        return True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if not self.stands_for_many(address):
            self._address = neighbourhood(address)
            self.company[self._address] += 1
        if len(self.connections) > self.max_connections or self.company[self._address] > self.max_of_address:
            self._refuse(503)
        else:
            self._until = self.loop.time() + self.head_timeout
            self._look_again(self.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._stop_reader_timer()
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()
            self._answering = None
        if self._address:
            self.company[self._address] -= 1
            if not self.company[self._address]:
                del self.company[self._address]
        super().connection_lost(exc)
        # These point back here; a collection of such circles comes seldom.
        self.pipeline.clear()
        self._backlog = b""
        if self.cycle is not None and self.cycle.response_complete:
            self.cycle = None  # type: ignore[assignment]

    @property
    def _busy(self) -> bool:
        """Whether anything that was asked is not answered to its end."""
        return self.cycle is not None and not self.cycle.response_complete

    # --- heads ---

    def on_message_begin(self) -> None:
        self._in_head = self._begun_now = True
        if self._idle:  # what was answered came in the same breath
            self._idle = False
            self._until = math.inf
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            raise TooMuch  # a trailer: nobody here reads any, and nothing would bound them
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.head_complete()
        super().on_headers_complete()
        # Only what is read from tells that the caller has hung up, who may wait for what was asked before this.
        if self.pipeline and self._has_room():
            self.flow.resume_reading()

    def _has_room(self) -> bool:
        """Whether more requests may wait on this connection than do."""
        bodies = sum(len(cycle.body) for cycle, _ in self.pipeline)
        return len(self.pipeline) < MAX_PIPELINED and bodies < MAX_PIPELINED_BYTES

    def head_complete(self) -> None:
        """Hear that a request's head is whole."""
        self._in_head = False
        self._head_bytes = 0
        self._until = math.inf

    def on_response_complete(self) -> None:
        """uvicorn's own, but for the timer."""
        self._answering = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._in_head:
            self._until = self.loop.time() + self.head_timeout
        else:
            self._idle = True
            self._until = self.loop.time() + self.timeout_keep_alive
        if self._backlog and len(self.pipeline) < MAX_PIPELINED // 2:
            self.loop.call_soon(self._go_on)
        if self.pipeline or self._backlog:
            self.flow.pause_reading()  # what is here comes first

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        if self._backlog or len(self.pipeline) >= MAX_PIPELINED:
            self._backlog += data
            self.flow.pause_reading()  # again: whoever waits for a message reads on
        elif len(data) <= SLICE:
            self._take(data)
        else:
            self._backlog = data
            self._take_backlog()

    def _take_backlog(self) -> None:
        while self._backlog and len(self.pipeline) < MAX_PIPELINED and not self.transport.is_closing():
            part, self._backlog = self._backlog[:SLICE], self._backlog[SLICE:]
            self._take(part)
        if self._backlog:
            self.flow.pause_reading()

    def _go_on(self) -> None:
        """Take more in. Whoever has reason to stop reading, for a long body say, does so after this."""
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._take_backlog()

    def _take(self, data: bytes) -> None:
        if b"h2c" in data and (self._idle or self.cycle is None):
            data = _without_upgrade(data)
        if self._idle:
            # Of bytes that are no request, blank lines or a body that nobody wanted, only the first are a sign of life.
            self._idle = False
            self._until = self.loop.time() + self.head_timeout
        self._begun_now = False
        super().data_received(data)
        if self._in_head:
            # Where in `data` a head begins is not known; what came in with its beginning is not counted.
            self._bound_head(0 if self._begun_now else len(data))

    def _bound_head(self, received: int) -> None:
        """A head that is not whole yet: it has so much room, and so much time once nothing else is to be answered."""
        self._head_bytes += received
        if self._head_bytes > MAX_HEAD:
            self._refuse(431)
        elif self._until == math.inf and not self._busy:
            self._until = self.loop.time() + self.head_timeout

    # --- patience ---

    def _look_again(self, within: float) -> None:
        # No wait that begins meanwhile ends sooner than the shortest of them.
        pace = min(self.head_timeout, self.timeout_keep_alive)
        self._watch = self.loop.call_later(min(within, pace), self._look)

    def _look(self) -> None:
        self._watch = None
        left = self._until - self.loop.time()
        if self.transport.is_closing():
            self._end()
        elif left > 0:
            self._look_again(left)
        elif self._in_head:
            self._refuse(408)
        else:
            self._end()  # it has asked for nothing: nothing is answered

    # --- readers ---

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_reader_timer()

    def _watch_reader(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stop_reader_timer()
        self._reader_timer = self.loop.call_later(READER_SECONDS, self._look_at_reader, left)

    def _look_at_reader(self, left: int) -> None:
        if self.transport.get_write_buffer_size() < left:
            self._watch_reader()  # slow, and reading
        else:
            self.transport.abort()

    def _stop_reader_timer(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    # --- ends ---

    def _refuse(self, status: int) -> None:
        if self.transport.is_closing():
            return
        if self._may_speak:
            self.transport.write(STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self._end()
        else:
            self._end_after_the_answer()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's own, but never in the middle of an answer."""
        if self._may_speak:
            super().send_400_response(msg)
            self._end()
        else:
            self._end_after_the_answer()

    @property
    def _may_speak(self) -> bool:
        """Whether it is the turn of a word of our own: everything is answered, but for a request that is at fault
        in its body."""
        cycle = self.cycle
        return not self._busy or (cycle is self._answering and cycle.more_body and not cycle.response_started)

    def _end_after_the_answer(self) -> None:
        """Take in nothing more; what was asked before is answered."""
        self.cycle.keep_alive = False
        self._in_head = False
        self._backlog = b""
        self.flow.pause_reading()

    def _end(self) -> None:
        """Close; what is not read by then is dropped a while later."""
        self.transport.close()
        if self._reader_timer is None and self.transport.get_write_buffer_size():
            self._watch_reader()


def _without_upgrade(data: bytes) -> bytes:
    """What begins a request, without the wish for HTTP/2 that some libraries (Java's) add to each. We need not heed
    it; the parser would, and would take what follows the head for something else than its body."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE_TO_2.sub(rb"\1x-not-done\2", head) + end + rest
