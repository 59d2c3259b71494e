"""How long the calls of a client may wait, after it has cut calls off."""

import asyncio

import pytest

from umrgen.mcp import waits
from umrgen.mcp.waits import PendingCalls, WaitLimits
from umrgen.testing import FakeClock


class Clients:
    """Calls of clients at the times of a fake clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.limits = WaitLimits()
        self.clock = clock

    async def report(self, progress: float, total: float, message: str) -> None: ...

    def allowed(self, client: str, seconds: float = 25.0) -> float:
        """Return how long a call may wait."""
        with self.limits.call(client, seconds, self.report) as call:
            return call.deadline - call.arrived

    def cut(self, client: str, after: float) -> None:
        with pytest.raises(asyncio.CancelledError), self.limits.call(client, 45.0, self.report):
            self.clock.advance(after)
            raise asyncio.CancelledError


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Clients:
    clock = FakeClock()
    monkeypatch.setattr(waits, "_now", clock.monotonic)
    return Clients(clock)


def test_a_cut_shortens_the_later_calls_of_its_client(clients: Clients) -> None:
    assert clients.allowed("a") == 25
    clients.cut("a", after=5)
    assert clients.allowed("a") == pytest.approx(3.5)
    assert clients.allowed("a", 2) == 2
    assert clients.allowed("b") == 25
    clients.cut("a", after=60)
    assert clients.allowed("a") == pytest.approx(2.45)
    clients.cut("a", after=0)
    assert clients.allowed("a") == 0.5


async def test_an_equal_call_ends_the_earlier_one_that_was_cut_off_and_not_cancelled(clients: Clients) -> None:
    pending = PendingCalls()
    waiting = asyncio.Event()

    async def first() -> bool:
        with clients.limits.call("a", 1e9, clients.report) as call, pending.add("boat", call):
            try:
                async with call.limit():
                    waiting.set()
                    await asyncio.Event().wait()
            except TimeoutError:
                return call.repeated
        raise AssertionError("the call had no time limit")

    running = asyncio.create_task(first())
    await waiting.wait()
    clients.clock.advance(2.9)
    await pending.end_repeated("boat")  # a concurrent call
    clients.clock.advance(2.1)
    await pending.end_repeated("ship")
    assert not running.done()
    await pending.end_repeated("boat")
    assert clients.allowed("a") == pytest.approx(3.5)
    assert await running
    await pending.end_repeated("boat")  # no call is pending


async def test_progress_rises_strictly_when_the_clock_does_not(clients: Clients) -> None:
    reported: list[float] = []

    async def report(progress: float, total: float, message: str) -> None:
        reported.append(progress)

    with clients.limits.call("a", 25.0, report) as call:
        for _ in range(5):
            await call.progress("queued")
    assert len(set(reported)) == 5
    assert reported == sorted(reported)
