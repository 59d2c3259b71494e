"""The server's jobs: what becomes of them is worked out from the clock whenever somebody looks."""

import asyncio
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any, Literal

from umrgen.model import State
from umrgen.testing.png import png_bytes

__all__ = ["Output", "ServerJob", "Settings", "World", "on_the_wire"]


def _noise(job: "ServerJob", number: int) -> bytes:
    return png_bytes(seed=job.index * 1000 + number)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a FaultServer is like. Times in seconds; `...` means: what the mode has."""

    mode: Literal["modern", "legacy"] = "modern"
    """After the contract's section 2, or like the servers of its section 3."""
    key: str = "test-key"
    """The one API key that is accepted."""
    job_seconds: float | Callable[[int], float] = 0.05
    """How long a job runs, or a function of its index (0, 1, ...); math.inf: for ever."""
    steps: int = 4
    """Steps of a job whose request does not say."""
    workers: int | None = 1
    """Jobs that run at once; None: all of them."""
    concurrency: int | EllipsisType | None = ...
    """Jobs, queued or running, beyond which a submit is refused (429). legacy: 1, modern: None, no limit."""
    rate_limit: int | EllipsisType | None = ...
    """Calls of /api in a window, for each address; then 429. legacy: 60, modern: None."""
    rate_window: float = 60.0
    """The rate limit's window: a fixed one, which begins with an address's first call."""
    fail: "str | Mapping[int, str] | Callable[[ServerJob], str | bool | None] | None" = None
    """Which jobs end `failed`, with which `error_code`: all of them, some by index, or as a function says."""
    image: "bytes | Callable[[ServerJob, int], bytes]" = _noise
    """The images, or a function of the job and the image's number; by default each is another small PNG."""
    images: int = 1
    """Images of a job. 0: `completed` with nothing in `results.images`, the guide's "empty result"."""
    image_url: str | Callable[[str], str] | None = None
    """The address to report, or a function of the true path. One that begins with a single `/` is also served."""
    submit_status: int = 202
    """The status of an accepted submit."""
    interstitial: bool = False
    """Whether an HTML page answers every request without the header `skip_zrok_interstitial`."""
    prefix: str = ""
    """A path before all others, like `/umrgen`: part of the server's `url`, not of the paths it answers with."""
    settle_seconds: float = 60.0
    """legacy: how long a completed job has no `image_url` yet, only `results`."""
    forget_seconds: float = 60.0
    """legacy: how long a failed job is still known."""
    max_wait: float = 60.0
    """modern: the longest that a call is held."""
    clock: Callable[[], float] = time.monotonic
    """The time that jobs, windows and `Recorded.at` go by, called from the server's thread."""

    def __post_init__(self) -> None:
        if self.mode not in ("modern", "legacy"):
            raise ValueError(f"there is no mode {self.mode!r}, only modern and legacy")

    def limit(self, name: Literal["concurrency", "rate_limit"]) -> int | None:
        value: int | EllipsisType | None = getattr(self, name)
        if isinstance(value, EllipsisType):
            return {"concurrency": 1, "rate_limit": 60}[name] if self.mode == "legacy" else None
        return value


@dataclass(slots=True, eq=False)
class ServerJob:
    """A job on a FaultServer. Moments are on the server's clock."""

    id: str
    index: int
    """How many jobs there were before it."""
    request: Mapping[str, Any]
    """The body it was submitted with."""
    seconds: float
    steps: int
    created: float
    state: State = State.QUEUED
    started: float | None = None
    ended: float | None = None
    error: str | None = None
    error_code: str | None = None
    urls: tuple[str, ...] = ()
    """What is reported as its images' addresses."""
    forgotten: bool = False
    """Whether a restart has made the server forget it."""
    changed: int = field(default=0, repr=False)
    """The number of its last change of state, counted over all jobs."""

    @property
    def ends(self) -> float:
        """When it is due to end, if it runs."""
        return (self.started or 0.0) + self.seconds

    def step(self, now: float) -> int:
        if self.started is None:
            return 0
        if self.state is State.COMPLETED or self.seconds <= 0:
            return self.steps
        ran = (self.ended or now) - self.started
        return min(self.steps, int(self.steps * ran / self.seconds))

    def next_step(self, now: float) -> float:
        """When its step will change, or it ends."""
        if not math.isfinite(self.seconds):
            return math.inf
        return (self.started or 0.0) + self.seconds * (self.step(now) + 1) / max(1, self.steps)


@dataclass(frozen=True, slots=True)
class Output:
    """A finished image."""

    session_id: str
    name: str
    data: bytes
    wall: float
    """Seconds since the epoch."""


def _media(data: bytes) -> tuple[str, str]:
    """Media type and file extension, by content."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg", "jpg"
    if data[8:12] == b"WEBP":
        return "image/webp", "webp"
    return "image/png", "png"


def on_the_wire(path: str) -> str:
    """A path as a client must send it: as it is, but for what HTTP does not allow there."""
    return "".join(chr(byte) if 0x21 <= byte <= 0x7E else f"%{byte:02X}" for byte in path.encode())


class World:
    """Jobs, their queue and their images. Only the server's thread may use it."""

    def __init__(self, settings: Settings, session_id: str) -> None:
        self.settings = settings
        self.session_id = session_id
        self.jobs: list[ServerJob] = []
        self.by_id: dict[str, ServerJob] = {}
        self.outputs: dict[str, Output] = {}
        self.exact: dict[str, Output] = {}
        """Images by the odd targets that `image_url` made for them."""
        self.durations: deque[float] = deque(maxlen=10)
        self.changes = 0
        self._queue: deque[ServerJob] = deque()
        self._running: list[ServerJob] = []
        self._time = self.now()
        self._wall_ahead = time.time() - self._time
        self._pulse = asyncio.Event()

    def now(self) -> float:
        return self.settings.clock()

    def wall(self, moment: float) -> float:
        return moment + self._wall_ahead

    def millis(self, moment: float | None) -> int | None:
        return None if moment is None else int(1000 * self.wall(moment))

    # --- waiting ---

    def pulse(self) -> None:
        """Let everybody who is held look again."""
        self._pulse.set()
        self._pulse = asyncio.Event()

    async def hold(self, done: Callable[[], bool], seconds: float, gone: asyncio.Event) -> None:
        """Return when `done` holds, `seconds` have passed, or the client is gone."""
        ends = self.now() + seconds
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # an injected clock may stand still
                while not (done() or gone.is_set() or self.now() >= ends):
                    pulse = self._pulse
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._until_next()):
                            await pulse.wait()

    def _until_next(self) -> float | None:
        """Seconds until something is due to happen to a running job; None: nothing will."""
        now = self.now()
        soonest = min((min(job.ends, job.next_step(now)) for job in self._running), default=math.inf)
        return None if soonest == math.inf else max(0.001, soonest - now)

    # --- what happens to jobs ---

    def advance(self) -> None:
        """Bring everything up to the present."""
        now = self.now()
        while True:
            self._start_queued()
            first = min(self._running, key=lambda job: job.ends, default=None)
            if first is None or first.ends > now:
                break
            self._time = max(self._time, first.ends)
            self._finish(first)
        self._time = max(self._time, now)

    def _start_queued(self) -> None:
        workers = self.settings.workers
        while self._queue and (workers is None or len(self._running) < workers):
            job = self._queue.popleft()
            job.started = self._time
            self._running.append(job)
            self._change(job, State.RUNNING)

    def _finish(self, job: ServerJob) -> None:
        self._running.remove(job)
        job.ended = self._time
        self.durations.append(job.seconds)
        code = self._failure(job)
        if code is not None:
            job.error, job.error_code = f"the job failed: {code}", code
        else:
            job.urls = tuple(self._publish(job, number) for number in range(self.settings.images))
        self._change(job, State.FAILED if code is not None else State.COMPLETED)

    def _failure(self, job: ServerJob) -> str | None:
        fail = self.settings.fail
        if isinstance(fail, Mapping):
            return fail.get(job.index)
        verdict = fail(job) if callable(fail) else fail
        return "engine_failed" if verdict is True else verdict or None

    def _publish(self, job: ServerJob, number: int) -> str:
        """Store one image and give the address to report."""
        image = self.settings.image
        data = image if isinstance(image, bytes) else image(job, number)
        name = f"umrgen_{secrets.token_hex(16)}.{_media(data)[1]}"
        output = Output(self.session_id, name, data, self.wall(self._time))
        self.outputs[name] = output
        path = f"/outputs/{self.session_id}/{name}?session_id={self.session_id}"
        url = self.settings.image_url
        if url is None:
            return path
        url = url if isinstance(url, str) else url(path)
        if url.startswith("/") and not url.startswith("//"):
            self.exact[on_the_wire(url)] = output
        return url

    def _change(self, job: ServerJob, state: State) -> None:
        self.changes += 1
        job.state, job.changed = state, self.changes

    def submit(self, request: Mapping[str, Any]) -> ServerJob:
        self.advance()
        index = len(self.jobs)
        seconds = self.settings.job_seconds
        steps = request.get("steps")
        job = ServerJob(
            id=f"ext_{secrets.token_hex(16)}",
            index=index,
            request=request,
            seconds=seconds(index) if callable(seconds) else seconds,
            steps=steps if type(steps) is int else self.settings.steps,
            created=self._time,
        )
        self.jobs.append(job)
        self.by_id[job.id] = job
        self._queue.append(job)
        self._change(job, State.QUEUED)
        self.advance()
        self.pulse()
        return job

    def cancel(self, job: ServerJob) -> None:
        """End a job that is not over; others are left alone."""
        self.advance()
        if job.state.over:
            return
        (self._queue if job.state is State.QUEUED else self._running).remove(job)
        job.ended = self._time
        job.error, job.error_code = "the job was cancelled", "cancelled"
        self._change(job, State.FAILED)
        self.advance()
        self.pulse()

    def forget(self) -> None:
        """Lose every job, as a restart does that keeps them in memory; images stay."""
        self.advance()
        for job in self.by_id.values():
            job.forgotten = True
        self.by_id.clear()
        self._queue.clear()
        self._running.clear()
        self.durations.clear()
        self.pulse()

    # --- what is asked about them ---

    def find(self, job_id: str) -> ServerJob | None:
        self.advance()
        return self.by_id.get(job_id)

    def everything(self) -> list[ServerJob]:
        self.advance()
        return list(self.jobs)

    def in_the_way(self) -> ServerJob | None:
        """The job because of which another would be refused, if one would be."""
        self.advance()
        limit = self.settings.limit("concurrency")
        active = [*self._running, *self._queue]
        return active[0] if limit is not None and active and len(active) >= limit else None

    def place(self, job: ServerJob) -> int | None:
        """Its place in the queue, from 1."""
        return self._queue.index(job) + 1 if job.state is State.QUEUED else None
