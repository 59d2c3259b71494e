"""The jobs of a simulated server: when each is queued, runs, is interrupted and ends, decided when it is created."""

from collections.abc import Iterable, Sequence

from umrgen.model import State
from umrgen.server.domain.job import Change, Job, Output, advance
from umrgen.server.domain.request import GenerationRequest

__all__ = ["NEVER", "Schedule", "SimulatedJob"]

NEVER = 1e12
LAG = 0.05
"""Seconds from an idle worker to a job's start."""
IMAGES = tuple(Output(f"{number}.png", "s", 1000, "0" * 64, 512, 512) for number in range(2))
REQUESTS = {steps: GenerationRequest("a boat", seed=1, steps=steps) for steps in (1, 4, 20)}


class SimulatedJob:
    """A job's whole life. Every method is about a time, in seconds."""

    __slots__ = (
        "_base",
        "ahead",
        "cancelled",
        "created",
        "end_state",
        "ended_at",
        "id",
        "images",
        "key",
        "lost_at",
        "runs",
        "steps",
    )

    def __init__(self, job_id: str, key: str, created: float, end_state: str, images: int, steps: int) -> None:
        """`images`: how many it has when it is completed."""
        self.id = job_id
        self.key = key
        """The idempotency key of its submit; '' for a job of another client."""
        self.created = created
        self.end_state = end_state
        self.images = images
        self.steps = steps
        self.cancelled = False
        self.runs: list[tuple[float, float]] = []
        """When it runs; more than once if the server restarts in between."""
        self.ahead: tuple[float, ...] = ()
        """When the jobs ahead of it in the queue start."""
        self.ended_at = NEVER
        self.lost_at = NEVER
        """From when on the server does not know it."""
        self._base = Job(job_id, "s", REQUESTS[steps], "simulated", _millis(created))

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of its images once it is completed."""
        return tuple(image.url for image in IMAGES[: self.images])

    def state(self, at: float) -> str:
        """Return its state."""
        if at >= self.ended_at:
            return self.end_state
        return "running" if self._run(at) else "queued"

    def _run(self, at: float) -> tuple[float, float] | None:
        for start, stop in self.runs:
            if start <= at < stop:
                return start, stop
        return None

    def step(self, at: float) -> int:
        """Return how many steps the present run has done."""
        if run := self._run(at):
            return int(self.steps * (at - run[0]) / (self.runs[-1][1] - self.runs[-1][0]))
        return self.steps if at >= self.ended_at and self.end_state == "completed" else 0

    def position(self, at: float) -> int | None:
        """Return its position in the queue, from 1; None when it is not queued."""
        if self.state(at) != "queued":
            return None
        return 1 + sum(start > at for start in self.ahead)

    def record(self, at: float) -> Job:
        """Return a modern server's record of it, made by the changes so far."""
        job = self._base
        for start, stop in self.runs:
            if start > at or start >= self.ended_at:
                break
            job = advance(job, Change.CLAIM, now=_millis(start))
            if at < min(stop, self.ended_at):
                return advance(job, Change.PROGRESS, now=_millis(at), step=self.step(at))
            if stop < self.ended_at:
                job = advance(job, Change.RELEASE, now=_millis(stop), interruptions=job.interruptions + 1)
        return self._ended(job) if at >= self.ended_at else job

    def _ended(self, job: Job) -> Job:
        now = _millis(self.ended_at)
        if self.cancelled:
            return advance(job, Change.CANCEL, now=now, error="the job was cancelled", error_code="cancelled")
        if self.end_state == State.FAILED:
            return advance(job, Change.FAIL, now=now, error="it failed", error_code="engine_failed")
        return advance(job, Change.COMPLETE, now=now, outputs=IMAGES[: self.images], step=self.steps)

    def changed_at(self, at: float) -> float:
        """Return when its state last changed."""
        last = self.created
        for start, stop in self.runs:
            last = stop if stop <= at else start if start <= at else last
        return self.ended_at if self.ended_at <= at else last

    def next_state_at(self, at: float) -> float:
        """Return when its state changes next."""
        return min([moment for run in self.runs for moment in run if moment > at] + [NEVER])

    def next_change(self, at: float) -> float:
        """Return when its state, position or step changes next."""
        times = [moment for run in self.runs for moment in run if moment > at]
        times += [start for start in self.ahead if start > at]
        start, stop = self.runs[-1]
        if start <= at < stop:
            times.append(start + (self.step(at) + 1) * (stop - start) / self.steps + 0.001)
        return min(min(times, default=NEVER), self.ended_at if self.ended_at > at else NEVER)

    def cancel(self, at: float) -> None:
        """End it as cancelled."""
        self.ended_at, self.end_state, self.images, self.cancelled = at, "failed", 0, True
        self.runs = [(start, min(stop, at)) for start, stop in self.runs if start < at] or [(at, at)]


class Schedule:
    """One worker, first in, first out, with pauses while the server is down."""

    def __init__(self, outages: Sequence[tuple[float, float]], *, loses_jobs: bool) -> None:
        """`loses_jobs`: whether an outage loses every job, as in a legacy server."""
        self.outages = outages
        """From when to when the server is down, in order."""
        self._loses_jobs = loses_jobs
        self._idle_at = 0.0

    def is_down(self, at: float) -> bool:
        """Return whether the server is down."""
        return any(start <= at < stop for start, stop in self.outages)

    def next_outage(self, at: float) -> float:
        """Return when the next outage begins."""
        return min((start for start, _ in self.outages if start >= at), default=NEVER)

    def plan(self, job: SimulatedJob, need: float, others: Iterable[SimulatedJob]) -> None:
        """Decide the whole life of a job that has to run for `need` seconds."""
        at = job.created
        if self._loses_jobs:
            job.runs = [(at + LAG, at + LAG + need)]
            job.ended_at = at + LAG + need
            job.lost_at = self.next_outage(at)
            if job.end_state == "failed":
                job.lost_at = min(job.lost_at, job.ended_at + 60.0)
            return
        start = max(at, self._idle_at) + LAG
        for down, up in self.outages:
            if down <= start < up:
                start = up + LAG
            elif start < down < start + need:
                job.runs.append((start, down))
                start = up + LAG
        job.runs.append((start, start + need))
        job.ended_at = self._idle_at = start + need
        job.ahead = tuple(other.runs[0][0] for other in others if other.runs[0][0] > at)


def _millis(at: float) -> int:
    return int(at * 1000)
