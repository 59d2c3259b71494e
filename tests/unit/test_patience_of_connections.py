"""How long the server waits for a caller: for a head, between requests, and not at all while it answers."""

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from umrgen.server.http.guarded import MAX_PIPELINED, READER_SECONDS, GuardedProtocol

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
        self.closed = self.aborted = False
        self.reading = True
        self.unread = 0
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name in ("sockname", "peername") else None

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return self.unread

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


async def answer_never(scope: Any, receive: Any, send: Any) -> None: ...


class Caller:
    """A connection to a server, seen from both ends."""

    def __init__(self, base: type[GuardedProtocol] = GuardedProtocol) -> None:
        protocol = type("Protocol", (base,), {"head_timeout": HEAD, "company": Counter[str]()})
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
        """The request whose turn it is."""
        answering = self.protocol._answering
        assert answering is not None
        answering.response_complete = True
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
    assert caller.closed_between(5 + HEAD - 0.1, 5 + HEAD)
    assert caller.transport.written.startswith(b"HTTP/1.1 408 ")


def test_a_head_begun_before_the_answer_takes_nothing_from_it(caller: Caller) -> None:
    caller.sends(REQUEST + REQUEST[:10])
    caller.loop.pass_until(10_000)
    assert (caller.transport.closed, caller.transport.written) == (False, b"")


class AnswersLooks(GuardedProtocol):
    """Answers each GET before the next byte is looked at, as `http.quick` does; anything else never."""

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"GET":
            self.head_complete()
            self.on_response_complete()
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.cycle is not None:
            super().on_message_complete()


SLOW = REQUEST.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n")


def test_what_came_with_an_answered_request_is_not_cut_off_while_it_is_answered() -> None:
    caller = Caller(AnswersLooks)
    caller.sends(REQUEST + SLOW)
    caller.loop.pass_until(3)
    caller.sends(b"{}")
    caller.loop.pass_until(10_000)
    assert not caller.transport.closed


def test_a_head_that_came_with_an_answered_request_has_as_long_as_any() -> None:
    caller = Caller(AnswersLooks)
    caller.sends(REQUEST + REQUEST[:1])
    caller.loop.pass_until(15)
    caller.sends(REQUEST[1:10])
    assert caller.closed_between(HEAD - 0.1, HEAD)
    assert caller.transport.written.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("behind", [b"\0 nonsense\r\n\r\n", b"GET /" + b"a" * (1 << 17)], ids=["nonsense", "endless"])
def test_what_is_wrong_behind_a_request_takes_nothing_from_its_answer(caller: Caller, behind: bytes) -> None:
    caller.sends(REQUEST)
    for start in range(0, len(behind), 4096):
        caller.sends(behind[start : start + 4096])
    assert (caller.transport.closed, caller.transport.written) == (False, b"")
    assert not caller.transport.reading
    assert not caller.protocol.cycle.keep_alive, "uvicorn closes after its answer"


def test_what_is_wrong_in_a_body_is_said_at_once(caller: Caller) -> None:
    caller.sends(SLOW.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked") + b"nonsense\r\n")
    assert caller.transport.written.startswith(b"HTTP/1.1 400 ")
    assert caller.transport.closed


def test_who_does_not_read_the_end_is_let_go(caller: Caller) -> None:
    caller.transport.unread = 1000
    caller.sends(REQUEST)
    caller.protocol.cycle.response_complete = True
    caller.transport.close()  # as uvicorn does after `Connection: close`
    caller.protocol.on_response_complete()
    caller.loop.pass_until(HEAD + READER_SECONDS + 0.1)
    assert caller.transport.aborted


def test_what_is_read_behind_the_back_of_a_full_pipeline_is_bounded(caller: Caller) -> None:
    taken = 0
    while caller.transport.reading:
        caller.sends(REQUEST * 10)
        taken += 1
    assert taken < 20
    for _ in range(5):
        caller.protocol.flow.resume_reading()  # as whoever listens for a hang-up does
        assert caller.transport.reading
        caller.sends(REQUEST * 1000)
        assert not caller.transport.reading
        assert len(caller.protocol.pipeline) <= 2 * MAX_PIPELINED


def test_one_that_goes_leaves_no_timer(caller: Caller) -> None:
    caller.sends(REQUEST)
    caller.protocol.connection_lost(None)
    assert all(timer.cancelled for timer in caller.loop.timers)
