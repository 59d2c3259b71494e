"""Callers that wait for a job to change, woken by what the ledger has committed."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from umrgen.jobs import Job, State

__all__ = ["Waiters"]


class Waiters:
    """Who waits for which job. A woken waiter reads the ledger again and decides for itself."""

    def __init__(self) -> None:
        self._of_job: defaultdict[str, set[Waiting]] = defaultdict(set)
        self.closing = False
        """True once the server is told to stop: nobody is held any longer."""

    def __len__(self) -> int:
        return sum(map(len, self._of_job.values()))

    def notify(self, jobs: Sequence[Job]) -> None:
        """Wake those who wait for one of `jobs`; a job that leaves the queue moves every place in it."""
        for job in jobs:
            for waiting in self._of_job.get(job.id, ()):
                waiting.names_changed.add(job.id)
                waiting.wake()
        if any(job.state is not State.QUEUED for job in jobs):
            for waiting in self._of_job.get("", ()):
                waiting.wake()

    def close(self) -> None:
        """Wake everybody, for good."""
        self.closing = True
        for waitings in self._of_job.values():
            for waiting in waitings:
                waiting.wake()

    def join(self, job_ids: Sequence[str], *, places: bool = False) -> "Waiting":
        """Start to wait for any of `job_ids`; with `places`, for moves of the queue too."""
        return Waiting(self, [*job_ids, ""] if places else job_ids)

    def _add(self, names: Sequence[str], waiting: "Waiting") -> None:
        for name in names:
            self._of_job[name].add(waiting)

    def _discard(self, names: Sequence[str], waiting: "Waiting") -> None:
        for name in names:
            self._of_job[name].discard(waiting)
            if not self._of_job[name]:
                del self._of_job[name]


class Waiting:
    """A context: what changes between entering it and `changed` is not missed."""

    def __init__(self, waiters: Waiters, names: Sequence[str]) -> None:
        self._waiters = waiters
        self._names = names
        self._event = asyncio.Event()
        self.names_changed: set[str] = set()
        """The jobs that changed since somebody last emptied this."""

    def __enter__(self) -> "Waiting":
        self._waiters._add(self._names, self)
        return self

    def __exit__(self, *_: object) -> None:
        self._waiters._discard(self._names, self)

    def wake(self) -> None:
        """Let `changed` return: something else happened that its caller wants to look at."""
        self._event.set()

    async def changed(self) -> None:
        """Return at the next change (or at one since the last call)."""
        await self._event.wait()
        if not self._waiters.closing:
            self._event.clear()

    async def hold(self, seconds: float, receive: Callable[[], Awaitable[Any]]) -> AsyncIterator[None]:
        """Turns for looking: one now, one after each change; none once `seconds` have passed, the caller
        (whose ASGI `receive` this is) has hung up, or the server closes."""
        gone = asyncio.ensure_future(_hang_up(receive))
        gone.add_done_callback(lambda _: self.wake())
        ends = asyncio.get_running_loop().time() + seconds
        try:
            while True:
                yield
                if self._waiters.closing or gone.done():
                    return
                async with asyncio.timeout_at(ends):
                    await self.changed()
        except TimeoutError:
            return
        finally:
            gone.cancel()


async def _hang_up(receive: Callable[[], Awaitable[Any]]) -> None:
    """Return when the caller is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
