"""The jobs of a legacy server: computed from the clock whenever they are read."""

import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from umrgen.image_files import EXTENSIONS, sniff
from umrgen.model import State
from umrgen.testing.clock import ServerClock
from umrgen.testing.engine import FakeEngine
from umrgen.testing.options import ServerJob

__all__ = ["LegacyJob", "LegacyJobs", "LegacyOutput"]


@dataclass(slots=True, eq=False)
class LegacyJob:
    """A job's record. Times in seconds on the server's clock."""

    id: str
    index: int
    """How many jobs were made before it."""
    request: Mapping[str, Any]
    """The body it was submitted with."""
    seconds: float
    created: float
    state: State = State.QUEUED
    started: float = 0.0
    ended: float = 0.0
    error: str | None = None
    error_code: str | None = None
    urls: tuple[str, ...] = ()
    forgotten: bool = False

    @property
    def end(self) -> float:
        """The time at which a running job is due to end."""
        return self.started + self.seconds

    def snapshot(self) -> ServerJob:
        """Return the job as a FaultServer reports it."""
        return ServerJob(self.id, self.request, self.state, self.urls, self.error, self.error_code, self.forgotten)


@dataclass(frozen=True, slots=True)
class LegacyOutput:
    """A finished image."""

    name: str
    data: bytes
    media_type: str
    created: float
    """Seconds since the epoch."""


class LegacyJobs:
    """Jobs, their queue and their images, in memory. Used in the server's thread only."""

    def __init__(self, engine: FakeEngine, clock: ServerClock, session_id: str) -> None:
        self.outputs: dict[str, LegacyOutput] = {}
        self.durations: deque[float] = deque(maxlen=10)
        """How long the last jobs ran, in seconds."""
        self._all: list[LegacyJob] = []
        self._by_id: dict[str, LegacyJob] = {}
        self._queue: deque[LegacyJob] = deque()
        self._running: list[LegacyJob] = []
        self._engine = engine
        self._clock = clock
        self._session_id = session_id
        self._time = clock.monotonic()
        """Up to when the jobs are computed."""

    def submit(self, request: Mapping[str, Any]) -> LegacyJob:
        """Queue a job."""
        self.advance()
        index = len(self._all)
        seconds = self._engine.seconds(index)
        job = LegacyJob(f"ext_{secrets.token_hex(16)}", index, request, seconds, self._time)
        self._all.append(job)
        self._by_id[job.id] = job
        self._queue.append(job)
        self.advance()
        return job

    def find(self, job_id: str) -> LegacyJob | None:
        """Return a job that is known, as it is now."""
        self.advance()
        return self._by_id.get(job_id)

    def all(self) -> list[LegacyJob]:
        """Return all jobs as they are now, the lost ones too."""
        self.advance()
        return list(self._all)

    def blocking(self, limit: int | None) -> LegacyJob | None:
        """Return the oldest active job if `limit` jobs are active; None if one more may be submitted."""
        self.advance()
        active = [*self._running, *self._queue]
        return active[0] if limit is not None and active and len(active) >= limit else None

    def queue_index(self, job: LegacyJob) -> int:
        """Return the position in the queue, from 1; 0 when the job is not queued."""
        return self._queue.index(job) + 1 if job.state is State.QUEUED else 0

    def forget(self) -> None:
        """Lose every job, as a restart does; images stay."""
        self.advance()
        for job in self._by_id.values():
            job.forgotten = True
        self._by_id.clear()
        self._queue.clear()
        self._running.clear()
        self.durations.clear()

    def advance(self) -> None:
        """Start and finish jobs up to the present."""
        now = self._clock.monotonic()
        while True:
            self._start_queued()
            first = min(self._running, key=lambda job: job.end, default=None)
            if first is None or first.end > now:
                break
            self._time = max(self._time, first.end)
            self._finish(first)
        self._time = max(self._time, now)

    def _start_queued(self) -> None:
        while self._queue and len(self._running) < self._engine.capacity:
            job = self._queue.popleft()
            job.state, job.started = State.RUNNING, self._time
            self._running.append(job)

    def _finish(self, job: LegacyJob) -> None:
        self._running.remove(job)
        job.ended = self._time
        self.durations.append(job.seconds)
        job.error = self._engine.failure(job.index)
        if job.error is not None:
            job.state = State.FAILED
        else:
            job.state = State.COMPLETED
            job.urls = tuple(self._publish(data) for data in self._engine.images(job.index))

    def _publish(self, data: bytes) -> str:
        """Store an image; return its URL."""
        media_type = sniff(data) or "image/png"
        name = f"umrgen_{secrets.token_hex(16)}{EXTENSIONS[media_type]}"
        self.outputs[name] = LegacyOutput(name, data, media_type, time.time())
        return f"/outputs/{self._session_id}/{name}?session_id={self._session_id}"
