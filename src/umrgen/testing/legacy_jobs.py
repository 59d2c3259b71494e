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
from umrgen.testing.engine import FakeEngine, noise
from umrgen.testing.legacy_files import LegacyOutput
from umrgen.testing.options import ServerJob
from umrgen.testing.png import flat_png

__all__ = ["LegacyJob", "LegacyJobs"]

SIDES = (512, 2048)
"""Pixels to which a width and a height are clamped, without a word."""
DEFAULT_SIDE = 1024
MOST_STEPS = 50
DEFAULT_STEPS = 8


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
    cancelled: bool = False
    """Whether the server's page cancelled it: it is drawn, but has the state `cancelled` until then."""

    @property
    def shown_state(self) -> str:
        """The state that the server reports."""
        return "cancelled" if self.cancelled and not self.state.over else self.state

    @property
    def size(self) -> tuple[int, int]:
        """The width and height that are drawn, in pixels."""
        return self._side("width"), self._side("height")

    @property
    def steps(self) -> int:
        """The steps that are drawn."""
        return min(self._integer("steps", DEFAULT_STEPS), MOST_STEPS)

    def _side(self, name: str) -> int:
        return max(SIDES[0], min(self._integer(name, DEFAULT_SIDE), SIDES[1]))

    def _integer(self, name: str, default: int) -> int:
        value = self.request.get(name)
        return value if isinstance(value, int) else default

    @property
    def end(self) -> float:
        """The time at which a running job is due to end."""
        return self.started + self.seconds

    def snapshot(self) -> ServerJob:
        """Return the job as a FaultServer reports it."""
        return ServerJob(self.id, self.request, self.state, self.urls, self.error, self.error_code, self.forgotten)


class LegacyJobs:
    """Jobs, their queue and their images, in memory. Used in the server's thread only."""

    def __init__(self, engine: FakeEngine, clock: ServerClock, session_id: str) -> None:
        self.outputs: dict[str, LegacyOutput] = {}
        self.durations: deque[float] = deque(maxlen=10)
        """How long the last jobs ran, in seconds."""
        self.history: list[dict[str, Any]] = []
        """The finished jobs, newest first, as the page lists them; kept over a restart, as the images are."""
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

    def queue_index(self, job: LegacyJob) -> int | None:
        """Return the number of queued jobs before this one; None when it is not queued."""
        return self._queue.index(job) if job.state is State.QUEUED else None

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
            job.urls = tuple(self._publish(data) for data in self._images(job))
            self.history[:0] = [self._listed(job, url) for url in job.urls[:1]]

    def _images(self, job: LegacyJob) -> list[bytes]:
        """Return the job's images; one with a given size has it, clamped, unless the options have images."""
        images = self._engine.images(job.index)
        if self._engine.draws is not noise or not {"width", "height"} & job.request.keys():
            return images
        return [flat_png(*job.size, seed=job.index * 1000 + number) for number in range(len(images))]

    def _listed(self, job: LegacyJob, url: str) -> dict[str, Any]:
        width, height = job.size
        prompt = job.request["prompt"]
        return {
            "job_id": job.id,
            "prompt": prompt,
            "width": width,
            "height": height,
            "steps": job.steps,
            "imageUrl": url,
        }

    def _publish(self, data: bytes) -> str:
        """Store an image; return its URL."""
        media_type = sniff(data) or "image/png"
        name = f"umrgen_{secrets.token_hex(16)}{EXTENSIONS[media_type]}"
        self.outputs[name] = LegacyOutput(name, data, media_type, time.time())
        return f"/outputs/{self._session_id}/{name}?session_id={self._session_id}"
