"""The clock as a parameter, so that a test can control time."""

import asyncio
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    def now(self) -> int:
        """Milliseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; not affected by setting the system clock."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def now(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)
    """Without a call in between: it is read several times in each request."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
