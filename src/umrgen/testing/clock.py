"""A clock that tests move."""

import asyncio

__all__ = ["FakeClock"]


class FakeClock:
    """A client's `Clock` whose `sleep` takes no time and moves the clock instead.

    Give `clock.monotonic` to a FaultServer as its `clock` too, and an hour of both passes in a moment.
    """

    def __init__(self, start: float = 0.0, wall: float = 1_800_000_000.0) -> None:
        self.sleeps: list[float] = []
        """Every sleep so far, in seconds."""
        self._now = start
        self._wall_ahead = wall - start

    def monotonic(self) -> float:
        return self._now

    def now(self) -> int:
        return round((self._now + self._wall_ahead) * 1000)

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += max(0.0, seconds)

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock forward (or back); the monotonic one does not notice."""
        self._wall_ahead += seconds
