"""Leases of tasks that only one of the servers of a ledger does at a time."""

from umrgen.clock import Clock
from umrgen.server.ledger import CoordinationStore

__all__ = ["TaskLease"]

SECONDS = 60.0
"""How long a server that died keeps the task from the others."""


class TaskLease:
    """The right to do one task. A server that holds it renews it as long as it asks."""

    def __init__(self, store: CoordinationStore, task: str, holder: str, clock: Clock) -> None:
        self._store = store
        self._task = task
        self._holder = holder
        self._clock = clock
        self._until = 0

    async def held(self) -> bool:
        """Return whether this server may do the task now; acquire or renew the lease if needed.

        A lease that still has half its time is not renewed, so that asking costs nothing. Raises LedgerUnavailable.
        """
        now, duration = self._clock.now(), int(SECONDS * 1000)
        if now < self._until - duration / 2 <= now + duration:
            return True
        acquired = await self._store.acquire(self._task, self._holder, now=now, until=now + duration)
        self._until = now + duration if acquired else 0
        return acquired

    async def release(self) -> None:
        """Let another server do the task at once. Raises LedgerUnavailable."""
        self._until = 0
        await self._store.release(self._task, self._holder)
