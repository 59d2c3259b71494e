"""Callers that wait for a job to change, woken by what the ledger has committed."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from umrgen.jobs import Job, State

__all__ = ["Waiters", "Waiting", "Watcher"]

Receive = Callable[[], Awaitable[Any]]

PLACES = ""
"""The name under which those wait who want to know of every move of the queue."""
PLACES_INTERVAL = 0.25
"""Seconds between two tellings of it: each place that changes is asked for anew by whoever holds it."""

PLACES_AT_ONCE = 50
"""More than so many who watch their places are told less often."""


class Watcher(Protocol):
    """Somebody who wants to hear when jobs change."""

    owner: str
    """The key on whose behalf it waits."""
    names_changed: set[str] | None
    """If it is a set: the jobs that changed are put into it."""

    def wake(self) -> None:
        """Hear that there is something to look at. It may leave while it hears."""
        ...


class Waiters:
    """Who waits for which job. A woken waiter reads the ledger again and decides for itself."""

    def __init__(self, most_of_one: int) -> None:
        """`most_of_one`: calls of one owner, a key, that are held at once."""
        self._most_of_one = most_of_one
        self._of_owner: Counter[str] = Counter()
        self._of_job: dict[str, set[Watcher]] = {}
        self._moving: asyncio.TimerHandle | None = None
        self.closing = False
        """True once the server is told to stop: nobody is held any longer."""

    def __len__(self) -> int:
        return sum(map(len, self._of_job.values()))

    def full(self, owner: str) -> bool:
        """Whether as many calls of this owner are held as may be."""
        return self._of_owner[owner] >= self._most_of_one

    def notify(self, jobs: Sequence[Job]) -> None:
        """Wake those who wait for one of `jobs`; a job that leaves the queue moves every place in it."""
        for job in jobs:
            self.wake(job.id)
        if self._moving is None and PLACES in self._of_job and any(job.state is not State.QUEUED for job in jobs):
            pause = PLACES_INTERVAL * max(1.0, len(self._of_job[PLACES]) / PLACES_AT_ONCE)
            self._moving = asyncio.get_running_loop().call_later(pause, self._move)

    def wake(self, job_id: str) -> None:
        """Let those look again who wait for this job."""
        for waiting in tuple(self._of_job.get(job_id, ())):
            if waiting.names_changed is not None:
                waiting.names_changed.add(job_id)
            waiting.wake()

    def _move(self) -> None:
        self._moving = None
        for waiting in tuple(self._of_job.get(PLACES, ())):
            waiting.wake()

    def close(self) -> None:
        """Wake everybody, for good."""
        self.closing = True
        for waiting in {waiting for waitings in self._of_job.values() for waiting in waitings}:
            waiting.wake()

    def join(self, job_ids: Sequence[str], receive: Receive, *, owner: str, places: bool = False) -> "Waiting":
        """Start to wait for any of `job_ids`, on behalf of the caller whose ASGI `receive` this is; with
        `places`, for moves of the queue too."""
        return Waiting(self, [*job_ids, PLACES] if places else job_ids, receive, owner)

    def add(self, names: Sequence[str], waiting: Watcher) -> None:
        """Wake `waiting` whenever one of the jobs `names` changes, and when the server stops."""
        self._of_owner[waiting.owner] += 1
        for name in names:
            self._of_job.setdefault(name, set()).add(waiting)

    def discard(self, names: Sequence[str], waiting: Watcher) -> None:
        """Undo `add`."""
        self._of_owner[waiting.owner] -= 1
        if not self._of_owner[waiting.owner]:
            del self._of_owner[waiting.owner]
        for name in names:
            self._of_job[name].discard(waiting)
            if not self._of_job[name]:
                del self._of_job[name]


class Waiting:
    """One caller that is held. A context: what changes between entering it and `changed` is not missed."""

    __slots__ = ("_listening", "_names", "_receive", "_turn", "_waiters", "_woken", "gone", "names_changed", "owner")

    def __init__(self, waiters: Waiters, names: Sequence[str], receive: Receive, owner: str) -> None:
        self.owner = owner
        self._waiters = waiters
        self._names = names
        self._receive = receive
        self._listening: asyncio.Task[None] | None = None
        self._woken = False
        self._turn: asyncio.Future[None] | None = None
        self.gone = False
        """Whether the caller has hung up."""
        self.names_changed: set[str] | None = None
        """The jobs that changed since somebody last put an empty set here."""

    def __enter__(self) -> "Waiting":
        self._waiters.add(self._names, self)
        # It ends by itself once the answer is sent: `receive` then says that the caller is gone.
        self._listening = asyncio.get_running_loop().create_task(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._waiters.discard(self._names, self)

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self.wake()

    @property
    def over(self) -> bool:
        """Whether there is nobody left to wait for, or to wait with: the caller is gone, or the server stops."""
        return self.gone or self._waiters.closing

    def wake(self) -> None:
        """Let `changed` return: something happened that its caller wants to look at."""
        self._woken = True
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def changed(self, within: float) -> bool:
        """Whether there was a change, or one since the last call, before `within` seconds have passed."""
        if not self._woken and not self.over:
            loop = asyncio.get_running_loop()
            turn = self._turn = loop.create_future()
            timer = loop.call_later(within, _give_up, turn)
            try:
                await turn
            finally:
                timer.cancel()
                self._turn = None
        woken, self._woken = self._woken, False
        return woken and not self.over


def _give_up(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_result(None)
