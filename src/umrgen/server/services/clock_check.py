"""Whether the system's time can be trusted for deletions, which cannot be undone."""

import logging
from collections.abc import Callable

from umrgen.clock import Clock

__all__ = ["ClockCheck"]

log = logging.getLogger(__name__)

DAY_SECONDS = 86_400.0
JUMP_SECONDS = 3600.0
"""The largest difference between the passed system time and the passed steady time that is no jump."""
IDLE_SECONDS = 7 * DAY_SECONDS
"""The largest age of the newest record at the start that is no reason for a doubt."""


class ClockCheck:
    """Compares the system's time with a steady one and, at the start, with the newest record.

    After a jump, and after a start that finds only old records, the time is not trusted for a day. A machine may have
    booted with a wrong date, or its clock may have been set wrong for a minute.
    """

    def __init__(self, clock: Clock, elapsed: Callable[[], float] | None = None) -> None:
        """`elapsed`: seconds that setting the system's time does not affect; None: the clock's monotonic time.

        Linux's monotonic time stands still while the machine is suspended, which would be a jump.
        """
        self._clock = clock
        self._elapsed = elapsed or clock.monotonic
        self._last: tuple[float, float] | None = None
        self._doubted_until = float("-inf")

    def is_trusted(self, newest: int | None) -> bool:
        """Return whether the time can be trusted now. `newest`: the time of the newest record (ms), if there is one."""
        wall, elapsed = self._clock.now() / 1000, self._elapsed()
        if self._last is None:
            doubt = newest is not None and wall - newest / 1000 > IDLE_SECONDS
            reason = "the newest record is older than 7 days, or the date is wrong"
        else:
            passed = (wall - self._last[0]) - (elapsed - self._last[1])
            doubt, reason = abs(passed) > JUMP_SECONDS, f"the clock jumped by {passed / 3600:.1f} hours"
        self._last = wall, elapsed
        if doubt:
            self._doubted_until = elapsed + DAY_SECONDS
            log.warning("%s: nothing is deleted for a day", reason)
        return elapsed >= self._doubted_until
