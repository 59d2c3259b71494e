"""The jobs of a simulated server: when each is queued, runs, restarts and ends, computed when it is submitted."""

from collections.abc import Iterable, Sequence

__all__ = ["NEVER", "Job", "Plan"]

NEVER = 1e12
LAG = 0.05
"""Seconds between the end of a job and the start of the next."""


class Job:
    """A job with all of its state changes. Each method has the time as its argument."""

    __slots__ = ("ahead", "created", "error_code", "fate", "gone_at", "id", "images", "key", "over_at", "runs", "steps")

    def __init__(self, job_id: str, key: str, created: float, fate: str, images: tuple[str, ...], steps: int) -> None:
        self.id = job_id
        self.key = key
        """The idempotency key of its submit; '' for jobs of other callers."""
        self.created = created
        self.fate = fate
        self.images = images
        self.steps = steps
        self.error_code = "engine_error"
        self.runs: list[tuple[float, float]] = []
        """The start and end of each run; several if the server was restarted during one."""
        self.ahead: tuple[float, ...] = ()
        """The start times of the jobs before it in the queue."""
        self.over_at = NEVER
        self.gone_at = NEVER
        """The time from which the server responds that it has no such job."""

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
        """Return the position in the queue, from 1; None when it is not queued."""
        if self.state(at) != "queued":
            return None
        return 1 + sum(start > at for start in self.ahead)

    def changed(self, at: float) -> float:
        """Return the time of the last change of its state."""
        last = self.created
        for start, stop in self.runs:
            last = stop if stop <= at else start if start <= at else last
        return self.over_at if self.over_at <= at else last

    def next_change(self, at: float) -> float:
        """Return the time of the next change of its state, position or step."""
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
    """The schedule of a server with one worker: in the order of the submits, with downtimes."""

    def __init__(self, downs: Sequence[tuple[float, float]], *, loses_jobs: bool) -> None:
        self.downs = downs
        """The start and end of each downtime, in order."""
        self._loses_jobs = loses_jobs
        self._free_at = 0.0

    def down_at(self, at: float) -> bool:
        return any(start <= at < stop for start, stop in self.downs)

    def next_down(self, at: float) -> float:
        return min((start for start, _ in self.downs if start >= at), default=NEVER)

    def settle(self, job: Job, need: float, others: Iterable[Job]) -> None:
        """Compute all state changes of a job that runs for `need` seconds."""
        at = job.created
        if self._loses_jobs:
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
