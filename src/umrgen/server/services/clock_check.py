"""Whether the system's time can be trusted for deletions, which cannot be undone."""

import logging

from umrgen.clock import Clock

__all__ = ["ClockCheck"]

log = logging.getLogger(__name__)

DAY_SECONDS = 86_400.0
JUMP_SECONDS = 3600.0
"""The largest difference between the passed system time and the passed monotonic time that is no jump."""
IDLE_SECONDS = 7 * DAY_SECONDS
"""The largest age of the newest record at the start that is no reason for a doubt."""


class ClockCheck:
    """Compares the system's time with the monotonic clock and, at the start, with the newest record.

    After a jump, and after a start that finds only old records, the time is not trusted for a day. A machine may have
    booted with a wrong date, or its clock may have been set wrong for a minute.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: tuple[float, float] | None = None
        self._doubted_until = float("-inf")

    def is_trusted(self, newest: int | None) -> bool:
        """Return whether the time can be trusted now. `newest`: the time of the newest record (ms), if there is one."""
        wall, monotonic = self._clock.now() / 1000, self._clock.monotonic()
        if self._last is None:
            doubt = newest is not None and wall - newest / 1000 > IDLE_SECONDS
            reason = "the newest record is older than 7 days, or the date is wrong"
        else:
            passed = (wall - self._last[0]) - (monotonic - self._last[1])
            doubt, reason = abs(passed) > JUMP_SECONDS, f"the clock jumped by {passed / 3600:.1f} hours"
        self._last = wall, monotonic
        if doubt:
            self._doubted_until = monotonic + DAY_SECONDS
            log.warning("%s: nothing is deleted for a day", reason)
        return monotonic >= self._doubted_until
