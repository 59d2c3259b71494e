"""How long a job will take, from how long those like it took last."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from statistics import fmean, median

from umrgen.clock import Clock
from umrgen.model import State
from umrgen.server.domain.job import Job

__all__ = ["Estimates"]

LAST = 10
"""Runs that count: the engine's speed of today, not of last week."""
SHAPES = 500
"""Kinds of jobs remembered; of more, those that ran longest ago are forgotten."""
OVERDUE = 1.0
"""What is said to be left, in seconds, of a job that has taken longer than it should have."""

Shape = tuple[str, int, int, int]


def _shape(job: Job) -> Shape:
    return (job.engine, job.request.width, job.request.height, job.request.steps)


class Estimates:
    """Run times by engine, size and step count. What was never seen is not guessed."""

    def __init__(self, clock: Clock, capacity: Callable[[], int]) -> None:
        self._clock = clock
        self._capacity = capacity
        self._runs: OrderedDict[Shape, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=LAST)

    def observe(self, jobs: Iterable[Job]) -> None:
        """Take in the run times of those of `jobs` that are completed."""
        for job in jobs:
            if job.state is State.COMPLETED and job.completed_at is not None and job.claimed_at is not None:
                seconds = (job.completed_at - job.claimed_at) / 1000
                shape = _shape(job)
                self._runs.setdefault(shape, deque(maxlen=LAST)).append(seconds)
                self._runs.move_to_end(shape)
                if len(self._runs) > SHAPES:
                    self._runs.popitem(last=False)
                self._all.append(seconds)

    def seconds_left(self, job: Job, position: int | None = None) -> float | None:
        """Until this job's end; None when nothing like it has been seen, or it is over."""
        runs = self._runs.get(_shape(job))
        if job.over or not runs:
            return None
        typical = median(runs)
        if job.state is State.RUNNING:
            elapsed = (self._clock.now() - (job.claimed_at or 0)) / 1000
            return max(typical - elapsed, OVERDUE)
        # The jobs ahead take the mean run time; each running job is, on average, half finished.
        capacity = max(1, self._capacity())
        ahead = (position or 1) - 1 + capacity / 2
        return typical + ahead * fmean(self._all) / capacity
