"""The time limits of calls. Hosts cut calls off, after 5 seconds to 5 minutes, without announcing it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

__all__ = ["CallClock", "PendingCalls", "WaitLimits"]

SHARE = 0.7
"""The part of the time after which a client cut a call off that its later calls last."""
SHORTEST = 0.5
"""Seconds: a call that was cancelled earlier, by its user, teaches nothing less."""
HEARTBEAT = 8.0
"""Seconds between two reports of progress; some hosts cut a call off after 10 without one."""

REPEATED_AFTER = 3.0
"""Seconds after which an equal call in a session is a repetition of a pending one; concurrent calls begin sooner."""

Report = Callable[[float, float, str], Awaitable[None]]


def _now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class CallClock:
    """The time of one call, by its event loop, and its reports of progress, which rise strictly."""

    arrived: float
    deadline: float
    report: Report
    message: str = "the job is queued"
    repeated: bool = False
    """True if the client has cut the call off without cancelling it, and has sent it again."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _last: float = 0.0
    _limit: asyncio.Timeout | None = None

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """Raise TimeoutError at the deadline, or when the call is found to be repeated."""
        try:
            async with asyncio.timeout_at(self.deadline) as self._limit:
                yield
        finally:
            self._limit = None

    def end_now(self) -> None:
        """End a call that its client has repeated."""
        self.repeated, self.deadline = True, _now()
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(self.deadline)

    async def progress(self, message: str) -> None:
        """Report the seconds since the call's arrival. A client that cannot receive them is no error."""
        self.message = message
        self._last = max(self._last + 0.001, _now() - self.arrived)
        with suppress(OSError, RuntimeError):
            await self.report(self._last, self.deadline - self.arrived, message)

    async def keep_reporting(self) -> None:
        """Report the last message again and again, until cancelled: also while the job is queued."""
        while True:
            await asyncio.sleep(HEARTBEAT)
            await self.progress(self.message)


@dataclass
class WaitLimits:
    """The time limits of clients, estimated from the calls that they cut off."""

    _learned: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def call(self, client: str, seconds: float, report: Report) -> Iterator[CallClock]:
        """Provide the clock of a call that arrives now and may wait `seconds`. Learn from its being cut off."""
        arrived = _now()
        allowed = min(seconds, self._learned.get(client, seconds))
        clock = CallClock(arrived, arrived + allowed, report)
        try:
            yield clock
        except asyncio.CancelledError:
            self._learn(client, _now() - arrived)
            raise
        finally:
            if clock.repeated:
                self._learn(client, clock.deadline - arrived)

    def _learn(self, client: str, cut_after: float) -> None:
        self._learned[client] = max(SHORTEST, SHARE * min(cut_after, self._learned.get(client, cut_after)))


@dataclass
class PendingCalls:
    """The calls that are not answered. Clients on `mcp` 1.x cut a call off without cancelling it."""

    _pending: dict[Hashable, CallClock] = field(default_factory=dict)

    async def end_repeated(self, call: Hashable) -> None:
        """End the equal call that is pending for so long that the present one is its repetition."""
        earlier = self._pending.get(call)
        if earlier is not None and _now() - earlier.arrived >= REPEATED_AFTER:
            earlier.end_now()
            await earlier.ended.wait()

    @contextmanager
    def add(self, call: Hashable, clock: CallClock) -> Iterator[None]:
        """Record a call until it ends. `call`: its session and arguments."""
        self._pending[call] = clock
        try:
            yield
        finally:
            clock.ended.set()
            if self._pending.get(call) is clock:
                del self._pending[call]
