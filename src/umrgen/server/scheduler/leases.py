"""Leases of tasks that only one of the servers of a ledger runs at a time."""

from umrgen.clock import Clock
from umrgen.server.ledger import CoordinationStore

__all__ = ["TaskLease"]

SECONDS = 60.0
"""The duration of a lease: the time until another server takes the task of one that ended without releasing it."""


class TaskLease:
    """The right to run one task. Each call of `held` renews it when half of its time has passed."""

    def __init__(self, store: CoordinationStore, task: str, holder: str, clock: Clock) -> None:
        self._store = store
        self._task = task
        self._holder = holder
        self._clock = clock
        self._until = 0

    async def held(self) -> bool:
        """Return whether this server may run the task now; acquire or renew the lease if needed.

        A lease with half of its time left is not renewed, so most calls do not write. Raises LedgerUnavailable.
        """
        now, duration = self._clock.now(), int(SECONDS * 1000)
        if now < self._until - duration / 2 <= now + duration:
            return True
        acquired = await self._store.acquire(self._task, self._holder, now=now, until=now + duration)
        self._until = now + duration if acquired else 0
        return acquired

    async def release(self) -> None:
        """End the lease, so that another server can acquire it immediately. Raises LedgerUnavailable."""
        self._until = 0
        await self._store.release(self._task, self._holder)
