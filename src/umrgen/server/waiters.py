"""Callers that wait for a job to change, woken by what the ledger has committed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from umrgen.jobs import Job, State

__all__ = ["Waiters", "Waiting"]

PLACES = ""
"""The name under which those wait who want to know of every move of the queue."""
PLACES_INTERVAL = 0.25
"""Seconds between two tellings of it: each place that changes is asked for anew by whoever holds it."""


class Waiters:
    """Who waits for which job. A woken waiter reads the ledger again and decides for itself."""

    def __init__(self) -> None:
        self._of_job: dict[str, set[Waiting]] = {}
        self._moving: asyncio.TimerHandle | None = None
        self.closing = False
        """True once the server is told to stop: nobody is held any longer."""

    def __len__(self) -> int:
        return sum(map(len, self._of_job.values()))

    def notify(self, jobs: Sequence[Job]) -> None:
        """Wake those who wait for one of `jobs`; a job that leaves the queue moves every place in it."""
        for job in jobs:
            self.wake(job.id)
        if self._moving is None and PLACES in self._of_job and any(job.state is not State.QUEUED for job in jobs):
            self._moving = asyncio.get_running_loop().call_later(PLACES_INTERVAL, self._move)

    def wake(self, job_id: str) -> None:
        """Let those look again who wait for this job."""
        for waiting in self._of_job.get(job_id, ()):
            waiting.names_changed.add(job_id)
            waiting.wake()

    def _move(self) -> None:
        self._moving = None
        for waiting in self._of_job.get(PLACES, ()):
            waiting.wake()

    def close(self) -> None:
        """Wake everybody, for good."""
        self.closing = True
        for waitings in self._of_job.values():
            for waiting in waitings:
                waiting.wake()

    def join(self, job_ids: Sequence[str], *, places: bool = False) -> "Waiting":
        """Start to wait for any of `job_ids`; with `places`, for moves of the queue too."""
        return Waiting(self, [*job_ids, PLACES] if places else job_ids)

    def _add(self, names: Sequence[str], waiting: "Waiting") -> None:
        for name in names:
            self._of_job.setdefault(name, set()).add(waiting)

    def _discard(self, names: Sequence[str], waiting: "Waiting") -> None:
        for name in names:
            self._of_job[name].discard(waiting)
            if not self._of_job[name]:
                del self._of_job[name]


class Waiting:
    """A context: what changes between entering it and `changed` is not missed."""

    __slots__ = ("_names", "_turn", "_waiters", "_woken", "names_changed")

    def __init__(self, waiters: Waiters, names: Sequence[str]) -> None:
        self._waiters = waiters
        self._names = names
        self._woken = False
        self._turn: asyncio.Future[None] | None = None
        self.names_changed: set[str] = set()
        """The jobs that changed since somebody last emptied this."""

    def __enter__(self) -> "Waiting":
        self._waiters._add(self._names, self)
        return self

    def __exit__(self, *_: object) -> None:
        self._waiters._discard(self._names, self)

    def wake(self) -> None:
        """Let `changed` return: something else happened that its caller wants to look at."""
        self._woken = True
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def changed(self, within: float | None = None) -> bool:
        """Whether there was a change, or one since the last call, before `within` seconds have passed."""
        if not self._woken:
            loop = asyncio.get_running_loop()
            turn = self._turn = loop.create_future()
            timer = None if within is None else loop.call_later(within, _give_up, turn)
            try:
                await turn
            finally:
                self._turn = None
                if timer is not None:
                    timer.cancel()
        woken, self._woken = self._woken, self._waiters.closing
        return woken

    async def hold(
        self, seconds: float | None, receive: Callable[[], Awaitable[Any]], beat: float | None = None
    ) -> AsyncIterator[bool]:
        """Turns for looking: one now, one after each change; none once `seconds` have passed, the caller
        (whose ASGI `receive` this is) has hung up, or the server closes.

        With `beat`, a turn also after so many seconds without a change; it yields False.
        """
        loop = asyncio.get_running_loop()
        gone = loop.create_task(_hang_up(receive, self.wake))
        ends = None if seconds is None else loop.time() + seconds
        news = True
        try:
            while True:
                yield news
                if self._waiters.closing or gone.done():
                    return
                left = None if ends is None else ends - loop.time()
                news = await self.changed(left if beat is None else beat)
                if not news and beat is None:
                    return
        finally:
            gone.cancel()


def _give_up(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_result(None)


async def _hang_up(receive: Callable[[], Awaitable[Any]], wake: Callable[[], None]) -> None:
    """Return when the caller is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    wake()
