"""The time of the ledger's database, which is the same for all servers of the ledger."""

import logging
from collections.abc import Awaitable, Callable

from umrgen.clock import Clock
from umrgen.server.ledger import LedgerUnavailable

__all__ = ["LedgerClock"]

log = logging.getLogger(__name__)

INTERVAL = 10.0
"""Seconds between two comparisons."""
TOLERANCE = 100
"""Milliseconds by which this machine's clock may differ: clocks that are synchronized are not corrected."""
SLOW = 1000
"""Milliseconds: the result of a slower comparison is too inexact."""
REPORTED = 1000
"""A difference of this many milliseconds is logged."""


class LedgerClock:
    """Implements `Clock`: this machine's clock, corrected by its difference from the database's.

    A server whose clock is wrong would otherwise take the leases of others, or hold its own for too long.
    """

    def __init__(self, clock: Clock, read: Callable[[], Awaitable[int | None]]) -> None:
        """`read` returns the database's time in milliseconds; None when it is that of this machine."""
        self._clock = clock
        self._read = read
        self._offset = 0
        self.monotonic = clock.monotonic
        self.sleep = clock.sleep

    def now(self) -> int:
        return self._clock.now() + self._offset

    async def compare(self) -> None:
        """Read the database's time, and use it from now on. Raises LedgerUnavailable."""
        begun = self._clock.monotonic()
        there = await self._read()
        took = int((self._clock.monotonic() - begun) * 1000)
        if there is None or took > SLOW:
            return
        offset = there + took // 2 - self._clock.now()
        if abs(offset - self._offset) <= TOLERANCE:
            return
        self._offset = offset if abs(offset) > TOLERANCE else 0
        if abs(offset) >= REPORTED:
            log.warning(
                "this machine's clock differs from that of PostgreSQL by %.1f s: PostgreSQL's time is used",
                -offset / 1000,
            )

    async def run(self) -> None:
        """Compare every INTERVAL seconds, until the task is cancelled."""
        while True:
            await self._clock.sleep(INTERVAL)
            try:
                await self.compare()
            except LedgerUnavailable:
                pass  # the listener of the ledger reports it
            except Exception:
                log.exception("the clocks could not be compared")
