"""Estimates of run times, from the last runs of jobs with the same engine, size and steps."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from statistics import fmean, median

from umrgen.clock import Clock
from umrgen.model import State
from umrgen.server.domain.job import Job

__all__ = ["Estimates"]

LAST = 10
"""Runs per shape that count: the recent ones, because an engine's speed changes."""
SHAPES = 500
"""Shapes to keep; the least recently run ones are dropped."""
OVERDUE = 1.0
"""The estimate, in seconds, for a job that has run longer than the estimated time."""

Shape = tuple[str, int, int, int]
"""Engine, width, height and steps of a job."""


def _shape(job: Job) -> Shape:
    return (job.engine, job.request.width, job.request.height, job.request.steps)


class Estimates:
    """Run times by shape. There is no estimate for a shape that has not run yet."""

    def __init__(
        self, clock: Clock, capacity: Callable[[], int], until_loaded: Callable[[], float] = lambda: 0.0
    ) -> None:
        """`capacity`: the batches drawn at a time now; `until_loaded`: the seconds until the engine is loaded."""
        self._clock = clock
        self._capacity = capacity
        self._until_loaded = until_loaded
        self._runs: OrderedDict[Shape, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=LAST)

    def observe(self, jobs: Iterable[Job]) -> None:
        """Record the run times of the completed ones among `jobs`."""
        for job in jobs:
            if job.edited_at is not None:
                continue
            if job.state is State.COMPLETED and job.completed_at is not None and job.claimed_at is not None:
                seconds = (job.completed_at - job.claimed_at) / 1000
                shape = _shape(job)
                self._runs.setdefault(shape, deque(maxlen=LAST)).append(seconds)
                self._runs.move_to_end(shape)
                if len(self._runs) > SHAPES:
                    self._runs.popitem(last=False)
                self._all.append(seconds)

    def seconds_left(self, job: Job, position: int | None = None) -> float | None:
        """Return the seconds until the job's end; None without runs of its shape, or when it is over."""
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
        return self._until_loaded() + typical + ahead * fmean(self._all) / capacity
