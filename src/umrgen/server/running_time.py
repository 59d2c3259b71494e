"""Timeouts and sleeps that notice when the process did not run: SIGSTOP, a paused container, a suspended machine, a
blocked event loop.

asyncio's own timeouts count that time too, and end before the data that has arrived is read.
"""

import asyncio
from types import TracebackType

from umrgen.clock import Clock

__all__ = ["Allowance", "RunningTimeout", "slept_on_time"]

TICKS = 8
"""Checks of a timeout, at least; more of a longer one than LONGEST_TICK each."""
LONGEST_TICK = 1.0
"""The longest time between two checks, in seconds."""
LATE_TICKS = 2
"""A check that is later than this many ticks is a standstill."""
RENEWALS = 3
"""Standstills after which the time starts again from 0. After further ones it continues: it ends in any case."""


class Allowance:
    """Seconds that are used up by the time between two regular checks; after a standstill they start again."""

    def __init__(self, seconds: float, now: float) -> None:
        self.restart(seconds, now)

    def restart(self, seconds: float, now: float) -> None:
        """Allow `seconds` from `now` on."""
        self._seconds = self._left = seconds
        self._tick = min(seconds / TICKS, LONGEST_TICK)
        self._last = now
        self._renewals = RENEWALS
        self._plan()

    def extend(self, seconds: float) -> None:
        """Allow `seconds` more."""
        self._left += seconds

    def _plan(self) -> None:
        self.next_check = min(self._tick, self._left)
        """Seconds from the last check until the next one is due."""

    def check(self, now: float) -> bool:
        """Count the time since the last check; return whether the time is over."""
        passed, self._last = now - self._last, now
        if passed - self.next_check <= LATE_TICKS * self._tick:
            self._left -= passed
        elif self._renewals:
            self._renewals -= 1
            self._left = max(self._left, self._seconds)
        else:
            self._left -= self._tick
        self._plan()
        return self._left <= self._tick / 1000  # a shorter time may be none at the clock's resolution


class RunningTimeout:
    """An `async with` block that is cancelled, and raises TimeoutError, when the event loop has run for `seconds`.

    After a standstill the time starts again (see `Allowance`): the process that the block waits for may have been
    stopped as well, and its data may be waiting to be read.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._allowance = Allowance(seconds, self._loop.time())
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "RunningTimeout":
        await self._timeout.__aenter__()
        self._schedule()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._timeout.__aexit__(kind, error, traceback)

    def restart(self, seconds: float) -> None:
        """Allow `seconds` from now on."""
        self._allowance.restart(seconds, self._loop.time())
        if self._timer is not None and not self._timeout.expired():
            self._timer.cancel()
            self._schedule()

    def extend(self, seconds: float) -> None:
        """Allow `seconds` more."""
        self._allowance.extend(seconds)

    def _schedule(self) -> None:
        self._timer = self._loop.call_later(self._allowance.next_check, self._check)

    def _check(self) -> None:
        if self._allowance.check(self._loop.time()):
            self._timeout.reschedule(self._loop.time())
        else:
            self._schedule()


async def slept_on_time(clock: Clock, seconds: float) -> bool:
    """Sleep; return whether at most twice the time has passed, by the monotonic clock and by the system's.

    The second one passes while the machine is suspended too, and jumps when the system's time is set.
    """
    monotonic, wall = clock.monotonic(), clock.now()
    await clock.sleep(seconds)
    return max(clock.monotonic() - monotonic, (clock.now() - wall) / 1000) <= 2 * seconds
