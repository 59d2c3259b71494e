"""The clock as a parameter of clients and servers, so that a test can control time."""

import asyncio
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock", "seconds_since_boot"]


class Clock(Protocol):
    """The time of the system, a time for measuring, and a sleep."""

    def now(self) -> int:
        """Return the system's time in milliseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary point; setting the system's time does not affect them."""
        ...

    async def sleep(self, seconds: float) -> None: ...


def seconds_since_boot() -> float:
    """Return the seconds since the system was started, with those in which it was suspended where it counts them."""
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)  # Linux; the monotonic time of macOS and Windows counts them too
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)


class SystemClock:
    """The clock of the operating system."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)
    """Without a Python call in between: each request reads it several times."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
