"""Clocks for tests: one that tests move, and the one by which a server under test runs."""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress

__all__ = ["FakeClock", "ServerClock"]

FAKE_EPOCH = 1_800_000_000.0
"""Seconds since the epoch at second 0 of a clock that tests move: the start of a minute, in 2027."""


class FakeClock:
    """A clock whose `sleep` advances the clock and returns immediately. Implements `umrgen.clock.Clock`.

    Give its `monotonic` to a FaultServer as `clock`, and both sides run in simulated time.
    """

    def __init__(self, start: float = 0.0, wall: float = FAKE_EPOCH) -> None:
        """`start`: the first value of `monotonic`; `wall`: the system's time then, in seconds since the epoch."""
        self.sleeps: list[float] = []
        """Every sleep so far, in seconds."""
        self._now = start
        self._wall_offset = wall - start

    def monotonic(self) -> float:
        """Return seconds on the monotonic clock."""
        return self._now

    def now(self) -> int:
        """Return milliseconds since the epoch."""
        return round((self._now + self._wall_offset) * 1000)

    async def sleep(self, seconds: float) -> None:
        """Record the sleep and advance the clock by it."""
        self.sleeps.append(seconds)
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._now += max(0.0, seconds)

    def jump_wall(self, seconds: float) -> None:
        """Set the system's time forward, or back; the monotonic clock is not affected."""
        self._wall_offset += seconds


class ServerClock:
    """A server's clock over any source of seconds. Implements `umrgen.clock.Clock`.

    Its wall-clock time is the system's, or begins at `FAKE_EPOCH` for any other source than `time.monotonic`.

    A source that a test moves does not report its changes: `wake` makes each sleep compare its end with the source.
    """

    def __init__(self, source: Callable[[], float] = time.monotonic) -> None:
        self.monotonic = source
        self._wall_offset = time.time() - source() if source is time.monotonic else FAKE_EPOCH
        self._woken = asyncio.Event()

    def wall(self, time_of_source: float) -> float:
        """Return the wall-clock time, in seconds since the epoch, of a time of the source."""
        return time_of_source + self._wall_offset

    def now(self) -> int:
        """Return milliseconds since the epoch."""
        return int(self.wall(self.monotonic()) * 1000)

    async def sleep(self, seconds: float) -> None:
        """Wait until the source has advanced by `seconds`; `math.inf`: until the task is cancelled."""
        end = self.monotonic() + seconds
        while (left := end - self.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left if math.isfinite(left) else None):
                    await self._woken.wait()

    def wake(self) -> None:
        """Let every sleep that has ended by the source return."""
        self._woken.set()
        self._woken = asyncio.Event()
