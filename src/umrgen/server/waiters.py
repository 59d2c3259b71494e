"""Callers that wait for a job to change, woken by what the ledger has committed."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from umrgen.jobs import Job, State

__all__ = ["Waiters"]


class Waiters:
    """Who waits for which job. A woken waiter reads the ledger again and decides for itself."""

    def __init__(self) -> None:
        self._of_job: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.closing = False
        """True once the server is told to stop: nobody is held any longer."""

    def __len__(self) -> int:
        return sum(map(len, self._of_job.values()))

    def notify(self, jobs: Sequence[Job]) -> None:
        """Wake those who wait for one of `jobs`; a job that leaves the queue moves every place in it."""
        for job in jobs:
            for event in self._of_job.get(job.id, ()):
                event.set()
        if any(job.state is not State.QUEUED for job in jobs):
            for event in self._of_job.get("", ()):
                event.set()

    def close(self) -> None:
        """Wake everybody, for good."""
        self.closing = True
        for events in self._of_job.values():
            for event in events:
                event.set()

    def join(self, job_ids: Sequence[str], *, places: bool = False) -> "Waiting":
        """Start to wait for any of `job_ids`; with `places`, for moves of the queue too."""
        return Waiting(self, [*job_ids, ""] if places else job_ids)

    def _add(self, names: Sequence[str], event: asyncio.Event) -> None:
        for name in names:
            self._of_job[name].add(event)

    def _discard(self, names: Sequence[str], event: asyncio.Event) -> None:
        for name in names:
            self._of_job[name].discard(event)
            if not self._of_job[name]:
                del self._of_job[name]


class Waiting:
    """A context: what changes between entering it and `changed` is not missed."""

    def __init__(self, waiters: Waiters, names: Sequence[str]) -> None:
        self._waiters = waiters
        self._names = names
        self._event = asyncio.Event()

    def __enter__(self) -> "Waiting":
        self._waiters._add(self._names, self._event)
        return self

    def __exit__(self, *_: object) -> None:
        self._waiters._discard(self._names, self._event)

    def wake(self) -> None:
        """Let `changed` return: something else happened that its caller wants to look at."""
        self._event.set()

    async def changed(self) -> None:
        """Return at the next change (or at one since the last call)."""
        await self._event.wait()
        if not self._waiters.closing:
            self._event.clear()
