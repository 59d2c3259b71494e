"""How long the server waits for a caller: for a head, between requests, and not at all while it answers."""

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from umrgen.server.http.guarded import GuardedProtocol

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD, KEEP_ALIVE = 20.0, 75


class Timer:
    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at, self.call, self.cancelled = at, call, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """What a protocol uses of an event loop, on a clock of its own. Requests are taken, and never answered."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[..., None], *args: Any) -> Timer:
        timer = Timer(self.now + delay, lambda: call(*args))
        self.timers.append(timer)
        return timer

    def create_task(self, work: Coroutine[Any, Any, None]) -> Any:
        work.close()
        return self

    def add_done_callback(self, call: Callable[..., None]) -> None:
        """Of the task that it stands for."""

    def pass_until(self, moment: float) -> None:
        """Let the time come to `moment` seconds after the start, and what is due on the way happen."""
        while due := [timer for timer in self.timers if not timer.cancelled and timer.at <= 1000 + moment]:
            timer = min(due, key=lambda timer: timer.at)
            self.timers.remove(timer)
            self.now = timer.at
            timer.call()
        self.now = 1000 + moment


class Transport:
    def __init__(self) -> None:
        self.closed = False
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name in ("sockname", "peername") else None

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


async def answer_never(scope: Any, receive: Any, send: Any) -> None: ...


class Caller:
    """A connection to a server, seen from both ends."""

    def __init__(self) -> None:
        protocol = type("Protocol", (GuardedProtocol,), {"head_timeout": HEAD, "company": Counter[str]()})
        self.loop, self.transport = Loop(), Transport()
        config = uvicorn.Config(
            answer_never, timeout_keep_alive=KEEP_ALIVE, log_config=None, lifespan="off", ws="none", interface="asgi3"
        )
        config.load()
        self.protocol: GuardedProtocol = protocol(config, ServerState(), {}, self.loop)
        self.protocol.connection_made(self.transport)  # type: ignore[arg-type]

    def sends(self, data: bytes) -> None:
        self.protocol.data_received(data)

    def is_answered(self) -> None:
        self.protocol.cycle.response_complete = True
        self.protocol.on_response_complete()

    def closed_between(self, before: float, after: float) -> bool:
        self.loop.pass_until(before)
        early = self.transport.closed
        self.loop.pass_until(after)
        return not early and self.transport.closed


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_one_that_says_nothing_has_as_long_as_a_head(caller: Caller) -> None:
    assert caller.closed_between(HEAD - 0.1, HEAD)
    assert caller.transport.written == b""


def test_a_head_that_does_not_end_is_told_so(caller: Caller) -> None:
    caller.loop.pass_until(15)
    caller.sends(REQUEST[:10])
    caller.loop.pass_until(19)
    caller.sends(REQUEST[10:20])
    assert caller.closed_between(HEAD - 0.1, HEAD), "from the connection's beginning, not from its last byte"
    assert caller.transport.written.startswith(b"HTTP/1.1 408 ")


def test_who_waits_for_an_answer_is_not_cut_off(caller: Caller) -> None:
    caller.sends(REQUEST)
    caller.loop.pass_until(10_000)
    assert not caller.transport.closed


@pytest.mark.parametrize("answered", [0.0, 3.0, 19.9, 1000.0])
def test_between_requests_it_may_be_silent_for_longer(caller: Caller, answered: float) -> None:
    caller.sends(REQUEST)
    caller.loop.pass_until(answered)
    caller.is_answered()
    assert caller.closed_between(answered + KEEP_ALIVE - 0.1, answered + KEEP_ALIVE)
    assert caller.transport.written == b""


@pytest.mark.parametrize("silent", [1.0, 19.0, 56.0, 74.9])
def test_a_later_head_has_as_long_as_the_first(caller: Caller, silent: float) -> None:
    caller.sends(REQUEST)
    caller.is_answered()
    caller.loop.pass_until(silent)
    caller.sends(REQUEST[:10])
    assert caller.closed_between(silent + HEAD - 0.1, silent + HEAD)
    assert caller.transport.written.startswith(b"HTTP/1.1 408 ")


def test_blank_lines_are_no_sign_of_life(caller: Caller) -> None:
    caller.sends(REQUEST)
    caller.is_answered()
    for second in range(int(HEAD)):
        caller.loop.pass_until(second)
        caller.sends(b"\r\n")
    assert caller.closed_between(HEAD - 0.1, HEAD)


def test_a_head_begun_before_the_answer_is_not_given_the_patience_of_silence(caller: Caller) -> None:
    caller.sends(REQUEST + REQUEST[:10])
    caller.loop.pass_until(5)
    caller.is_answered()
    assert caller.closed_between(HEAD - 0.1, HEAD)


def test_one_that_goes_leaves_no_timer(caller: Caller) -> None:
    caller.sends(REQUEST)
    caller.protocol.connection_lost(None)
    assert all(timer.cancelled for timer in caller.loop.timers)
