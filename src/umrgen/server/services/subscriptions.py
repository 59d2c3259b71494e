"""Subscriptions to changes of jobs: the one mechanism under long polls, batches and event streams.

A caller subscribes to jobs, then waits for a change until a deadline. A subscription carries no data: the caller reads
the job store again when it wakes up, so a missed or merged notification loses nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

from umrgen.model import State
from umrgen.server.domain.job import Job

__all__ = ["Subscription", "Subscriptions"]

QUEUE = ""
"""The name under which the subscribers to queue positions are kept."""
QUEUE_INTERVAL = 0.25
"""Debounce interval for queue positions, in seconds: each notification makes every subscriber query its position."""
QUEUE_SUBSCRIBERS = 50
"""With more subscribers to queue positions than this, the interval grows in proportion."""


class Subscriptions:
    """The subscriptions of all callers that wait for a job to change."""

    def __init__(self, limit: int) -> None:
        """`limit`: concurrent subscriptions of one owner (an API key)."""
        self.limit = limit
        self._of_owner: Counter[str] = Counter()
        self._of_job: dict[str, set[Subscription]] = {}
        self._queue_timer: asyncio.TimerHandle | None = None
        self.closed = False
        """True after `close`: no call waits any longer."""

    def __len__(self) -> int:
        return self._of_owner.total()

    def full(self, owner: str) -> bool:
        """Return whether this owner has as many subscriptions as it may."""
        return self._of_owner[owner] >= self.limit

    def subscribe(self, job_ids: Sequence[str], *, owner: str, queue: bool = False) -> "Subscription":
        """Return a subscription to changes of these jobs; with `queue`, to changes of queue positions too."""
        return Subscription(self, [*job_ids, QUEUE] if queue else job_ids, owner)

    def notify(self, jobs: Sequence[Job]) -> None:
        """Wake the subscribers of the jobs that a commit changed; a job that leaves the queue changes positions."""
        for job in jobs:
            self.wake(job.id)
        if self._queue_timer is None and QUEUE in self._of_job and any(job.state is not State.QUEUED for job in jobs):
            delay = QUEUE_INTERVAL * max(1.0, len(self._of_job[QUEUE]) / QUEUE_SUBSCRIBERS)
            self._queue_timer = asyncio.get_running_loop().call_later(delay, self._wake_queue)

    def wake(self, job_id: str) -> None:
        """Wake the subscribers of one job."""
        for subscription in self._of_job.get(job_id, ()):
            subscription.wake(job_id)

    def _wake_queue(self) -> None:
        self._queue_timer = None
        self.wake(QUEUE)

    def close(self) -> None:
        """End every wait, because the server stops. Later waits return immediately."""
        self.closed = True
        for subscriptions in self._of_job.values():
            for subscription in subscriptions:
                subscription.wake(QUEUE)

    def add(self, subscription: "Subscription") -> None:
        """Count a subscription, and wake it from now on."""
        self._of_owner[subscription.owner] += 1
        for name in subscription.names:
            self._of_job.setdefault(name, set()).add(subscription)

    def remove(self, subscription: "Subscription") -> None:
        """Undo `add`."""
        self._of_owner[subscription.owner] -= 1
        if not self._of_owner[subscription.owner]:
            del self._of_owner[subscription.owner]
        for name in subscription.names:
            self._of_job[name].discard(subscription)
            if not self._of_job[name]:
                del self._of_job[name]


class Subscription:
    """A subscription, as a context manager. A change between entering it and `wait` is not missed."""

    __slots__ = ("_all", "_changed", "_future", "names", "owner")

    def __init__(self, subscriptions: Subscriptions, names: Sequence[str], owner: str) -> None:
        self.names = names
        self.owner = owner
        self._all = subscriptions
        self._changed: set[str] | None = None
        self._future: asyncio.Future[None] | None = None

    def __enter__(self) -> "Subscription":
        self._all.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._all.remove(self)

    @property
    def closed(self) -> bool:
        """Whether the server stops, so that waiting is useless."""
        return self._all.closed

    def wake(self, job_id: str) -> None:
        """Let `wait` return: this job changed."""
        if self._changed is None:
            self._changed = set()
        self._changed.add(job_id)
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, until: float) -> set[str]:
        """Return the ids of jobs that changed since the last call, as soon as there are any.

        Empty when `until`, a time of the event loop's clock in seconds, has passed or the server stops.
        """
        if not self._changed and not self._all.closed:
            loop = asyncio.get_running_loop()
            future = self._future = loop.create_future()
            timer = loop.call_at(until, _resolve, future)
            try:
                await future
            finally:
                timer.cancel()
                self._future = None
        if self._all.closed:
            return set()
        changed, self._changed = self._changed, None
        return changed or set()


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
