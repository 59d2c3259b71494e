"""The time limits of calls. Hosts cut calls off, after 5 seconds to 5 minutes, without announcing it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

__all__ = ["CallClock", "WaitLimits"]

SHARE = 0.7
"""The part of the time after which a client cut a call off that its later calls last."""
SHORTEST = 0.5
"""Seconds: a call that was cancelled earlier, by its user, teaches nothing less."""
HEARTBEAT = 8.0
"""Seconds between two reports of progress; some hosts cut a call off after 10 without one."""

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
    _last: float = 0.0

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
        """Provide the clock of a call that arrives now and may wait `seconds`; a cancellation of it teaches."""
        arrived = _now()
        allowed = min(seconds, self._learned.get(client, seconds))
        try:
            yield CallClock(arrived, arrived + allowed, report)
        except asyncio.CancelledError:
            cut_after = _now() - arrived
            self._learned[client] = max(SHORTEST, SHARE * min(cut_after, self._learned.get(client, cut_after)))
            raise
