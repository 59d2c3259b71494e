"""The truth about jobs: when each is queued, runs, restarts and ends, settled the moment it is made."""

from collections.abc import Iterable, Sequence

__all__ = ["NEVER", "Job", "Plan"]

NEVER = 1e12
LAG = 0.05
"""Seconds from a free worker to a job's start."""


class Job:
    """A job's whole life. Everything that can be asked about it is asked for a time."""

    __slots__ = ("ahead", "created", "error_code", "fate", "gone_at", "id", "images", "key", "over_at", "runs", "steps")

    def __init__(self, job_id: str, key: str, created: float, fate: str, images: tuple[str, ...], steps: int) -> None:
        self.id = job_id
        self.key = key
        """The idempotency key it was made under; '' for other people's."""
        self.created = created
        self.fate = fate
        self.images = images
        self.steps = steps
        self.error_code = "engine_error"
        self.runs: list[tuple[float, float]] = []
        """When it ran; more than once if the server was restarted meanwhile."""
        self.ahead: tuple[float, ...] = ()
        """When those before it in the queue start."""
        self.over_at = NEVER
        self.gone_at = NEVER
        """From when on the server knows nothing of it."""

    def state(self, at: float) -> str:
        if at >= self.over_at:
            return self.fate
        for start, stop in self.runs:
            if start <= at < stop:
                return "running"
        return "queued"

    def step(self, at: float) -> int:
        for start, stop in self.runs:
            if start <= at < stop:
                return int(self.steps * (at - start) / (self.runs[-1][1] - self.runs[-1][0]))
        return self.steps if at >= self.over_at and self.fate == "completed" else 0

    def position(self, at: float) -> int | None:
        """Its place in the queue, from 1; None when it is not queued."""
        if self.state(at) != "queued":
            return None
        return 1 + sum(start > at for start in self.ahead)

    def changed(self, at: float) -> float:
        """When its state last changed."""
        last = self.created
        for start, stop in self.runs:
            last = stop if stop <= at else start if start <= at else last
        return self.over_at if self.over_at <= at else last

    def next_news(self, at: float) -> float:
        """When its state, place or step changes next."""
        times = [time for run in self.runs for time in run if time > at]
        times += [start for start in self.ahead if start > at]
        start, stop = self.runs[-1]
        if start <= at < stop:
            times.append(start + (self.step(at) + 1) * (stop - start) / self.steps + 0.001)
        return min(min(times, default=NEVER), self.over_at if self.over_at > at else NEVER)

    def cancel(self, at: float) -> None:
        self.over_at, self.fate, self.images, self.error_code = at, "failed", (), "cancelled"
        self.runs = [(start, min(stop, at)) for start, stop in self.runs if start < at] or [(at, at)]


class Plan:
    """One worker, first come, first served, with pauses while the server is down."""

    def __init__(self, downs: Sequence[tuple[float, float]], *, forgets: bool) -> None:
        self.downs = downs
        """From when to when the server is away, in order."""
        self._forgets = forgets
        self._free_at = 0.0

    def down_at(self, at: float) -> bool:
        return any(start <= at < stop for start, stop in self.downs)

    def next_down(self, at: float) -> float:
        return min((start for start, _ in self.downs if start >= at), default=NEVER)

    def settle(self, job: Job, need: float, others: Iterable[Job]) -> None:
        """Decide the whole life of a job that runs for `need` seconds."""
        at = job.created
        if self._forgets:
            job.runs = [(at + LAG, at + LAG + need)]
            job.over_at = at + LAG + need
            job.gone_at = self.next_down(at)
            if job.fate == "failed":
                job.gone_at = min(job.gone_at, job.over_at + 60.0)
            return
        start = max(at, self._free_at) + LAG
        for down, up in self.downs:
            if down <= start < up:
                start = up + LAG
            elif start < down < start + need:
                job.runs.append((start, down))
                start = up + LAG
        job.runs.append((start, start + need))
        job.over_at = self._free_at = start + need
        job.ahead = tuple(other.runs[0][0] for other in others if other.runs[0][0] > at)
