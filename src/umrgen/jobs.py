"""What a job is: its frozen values, its states, the one transition table, and its form on the wire.

`Job` is the ledger's record. `Status` is what a client understood of a server's answer, ours or an
older one. `advance` is the only function in the project that changes a job's state.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple, TypedDict

from umrgen.errors import UmrgenError

__all__ = [
    "JOB_ID",
    "LIMITS",
    "Change",
    "Conflict",
    "Job",
    "JobAnswer",
    "JobSpec",
    "Limits",
    "Lora",
    "Output",
    "State",
    "Status",
    "advance",
    "job_to_wire",
    "retry_after_ms",
]

JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
"""What may stand where a job id belongs, in a path and in a file name."""


class State(StrEnum):
    """The four states of the guide; only the last two are final."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        return self in _OVER


_OVER = (State.COMPLETED, State.FAILED)


class Change(StrEnum):
    """What can happen to a job."""

    CLAIM = "claim"
    """A worker takes a lease on it."""
    PROGRESS = "progress"
    """Its worker got further (or only says that it is alive)."""
    COMPLETE = "complete"
    """Its images are in storage, synced."""
    FAIL = "fail"
    RELEASE = "release"
    """Its worker gave it back, or lost its lease."""
    CANCEL = "cancel"


TRANSITIONS: Mapping[tuple[State, Change], State] = {
    (State.QUEUED, Change.CLAIM): State.RUNNING,
    (State.QUEUED, Change.FAIL): State.FAILED,
    (State.QUEUED, Change.CANCEL): State.FAILED,
    (State.RUNNING, Change.PROGRESS): State.RUNNING,
    (State.RUNNING, Change.COMPLETE): State.COMPLETED,
    (State.RUNNING, Change.FAIL): State.FAILED,
    (State.RUNNING, Change.RELEASE): State.QUEUED,
    (State.RUNNING, Change.CANCEL): State.FAILED,
}


class Conflict(UmrgenError):
    """The job is not in a state for this, or is held by another worker."""

    code = "conflict"


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a request (contract, section 2)."""

    prompt_chars: int = 2000
    side_min: int = 512
    side_max: int = 2048
    side_default: int = 1024
    steps_max: int = 50
    steps_default: int = 4
    seed_max: int = 2**53 - 1
    """The largest integer that JSON carries safely to every reader."""
    references: int = 10
    priority: int = 10
    """A session may set its jobs from minus this to plus this."""


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Lora:
    name: str
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What to draw. `seed` is resolved before a spec is stored: never absent, never -1."""

    prompt: str
    seed: int
    negative: str = ""
    width: int = LIMITS.side_default
    height: int = LIMITS.side_default
    steps: int = LIMITS.steps_default
    loras: tuple[Lora, ...] = ()
    reference_images: tuple[str, ...] = ()
    webhook_url: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One image of a job, as it lies in storage."""

    name: str
    session_id: str
    bytes: int
    sha256: str
    width: int
    height: int
    media_type: str = "image/png"

    @property
    def url(self) -> str:
        return f"/outputs/{self.session_id}/{self.name}?session_id={self.session_id}"


class Job(NamedTuple):  # no dataclass: a frozen one of so many fields takes six times as long to make
    """A job's record. Times are milliseconds since the epoch; `version` grows with every change."""

    id: str
    session_id: str
    spec: JobSpec
    engine: str
    created_at: int
    priority: int = 0
    """Among its own session's jobs: the higher is drawn first."""
    state: State = State.QUEUED
    version: int = 1
    attempt: int = 0
    """How many times a worker has taken it."""
    interruptions: int = 0
    """How many of those attempts a restart of the server itself cut short."""
    token: int = 0
    """The fencing token: grows with every lease, so that a late worker can change nothing."""
    worker: str | None = None
    lease_until: int | None = None
    step: int = 0
    started_at: int | None = None
    """When it was taken for the first time."""
    claimed_at: int | None = None
    """When it was taken last."""
    completed_at: int | None = None
    outputs: tuple[Output, ...] = ()
    error: str | None = None
    error_code: str | None = None
    changed: int = 0
    """The ledger's count of all changes of state when this job's last one was written."""
    key_id: str = ""
    """The API key that made it: its webhook is signed with this key's secret."""

    @property
    def over(self) -> bool:
        return self.state in _OVER

    @property
    def tries(self) -> int:
        """The attempts that count: those that no restart of the server cut short."""
        return self.attempt - self.interruptions


def advance(
    job: Job, change: Change, *, now: int, token: int | None = None, version: int | None = None, **values: Any
) -> Job:
    """The job after `change`. Raises Conflict when its state forbids it or `token` is not its lease's.

    With `version`, also when anything at all has changed since that version was read. `values` are the
    fields that the change sets: `worker`, `lease_until`, `step`, `outputs`, `error`, `error_code`,
    `interruptions`.
    """
    state = TRANSITIONS.get((job.state, change))
    if state is None:
        raise Conflict(f"a job that is {job.state} cannot {change}", job_id=job.id)
    if token is not None and (token != job.token or job.state is not State.RUNNING):
        # A token is that of a lease: once the job is back in the queue, nobody holds one.
        raise Conflict("another worker holds this job now", job_id=job.id)
    if version is not None and version != job.version:
        raise Conflict("the job changed in the meantime", job_id=job.id)
    match change:
        case Change.CLAIM:
            values |= {
                "attempt": job.attempt + 1,
                "token": job.token + 1,
                "step": 0,
                "started_at": job.started_at or now,
                "claimed_at": now,
            }
        case Change.PROGRESS:
            pass
        case _:
            values |= {"worker": None, "lease_until": None}
    if state.over:
        # A clock that was set back does not let a job end before it began.
        values["completed_at"] = max(now, job.created_at, job.claimed_at or 0)
    if state is State.QUEUED:
        values["step"] = 0
    return job._replace(state=state, version=job.version + 1, **values)


def retry_after_ms(job: Job, eta_seconds: float | None) -> int | None:
    """When to ask again, in milliseconds; None when there is nothing left to ask for."""
    if job.over:
        return None
    default = 3000 if job.state is State.QUEUED else 2000
    return default if eta_seconds is None else max(1000, min(default, int(eta_seconds * 1000)))


def _next(job: Job) -> str:
    match job.state:
        case State.COMPLETED:
            return "Append image_url to the base URL exactly as it is, and download it."
        case State.FAILED:
            return "Stop polling: this job is over. Read error and error_code; submit a new job to try again."
        case _:
            return (
                f"Not ready yet. GET /api/v1/status/{job.id} again after retry_after_ms, "
                "or at once with the header Prefer: wait=25, which answers when the job is over."
            )


class ImageAnswer(TypedDict):
    """One image of a job. Sizes in pixels, the digest in hex."""

    url: str
    filename: str
    bytes: int
    sha256: str
    width: int
    height: int
    media_type: str


class ResultsAnswer(TypedDict):
    images: list[ImageAnswer]


class ProgressAnswer(TypedDict):
    step: int
    total: int


class JobAnswer(TypedDict):
    """A job as `GET /api/v1/status/{job_id}` answers it (contract, section 2). Times in ms since the epoch."""

    success: bool
    job_id: str
    state: Literal["queued", "running", "completed", "failed"]
    image_url: str | None
    results: ResultsAnswer
    error: str | None
    error_code: str | None
    queue_position: int | None
    eta_seconds: float | None
    progress: ProgressAnswer
    created_at: int
    started_at: int | None
    completed_at: int | None
    engine: str
    seed: int
    priority: int
    attempt: int
    retry_after_ms: int | None
    next: str


def job_to_wire(
    job: Job,
    *,
    queue_position: int | None = None,
    eta_seconds: float | None = None,
    sign: Callable[[str], str] = str,
) -> JobAnswer:
    """The job as it is answered, each URL as `sign` makes it."""
    urls = [sign(output.url) for output in job.outputs]
    return {
        "success": True,
        "job_id": job.id,
        "state": job.state.value,
        "image_url": urls[0] if urls else None,
        "results": {
            "images": [
                {
                    "url": url,
                    "filename": output.name,
                    "bytes": output.bytes,
                    "sha256": output.sha256,
                    "width": output.width,
                    "height": output.height,
                    "media_type": output.media_type,
                }
                for url, output in zip(urls, job.outputs, strict=True)
            ]
        },
        "error": job.error,
        "error_code": job.error_code,
        "queue_position": queue_position,
        "eta_seconds": None if eta_seconds is None else round(eta_seconds, 1),
        "progress": {"step": job.step, "total": job.spec.steps},
        "created_at": job.created_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "engine": job.engine,
        "seed": job.spec.seed,
        "priority": job.priority,
        "attempt": job.attempt,
        "retry_after_ms": retry_after_ms(job, eta_seconds),
        "next": _next(job),
    }


@dataclass(frozen=True, slots=True)
class Status:
    """A job as a server told it; whatever is missing or of a wrong type is None.

    `state` is the server's own word. `raw` is the whole answer.
    """

    job_id: str
    state: str
    images: tuple[str, ...] = ()
    """The image URLs as the server gave them: normally paths relative to the base URL."""
    error: str | None = None
    error_code: str | None = None
    queue_position: int | None = None
    eta_seconds: float | None = None
    step: int | None = None
    total_steps: int | None = None
    seed: int | None = None
    engine: str | None = None
    retry_after_ms: float | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def over(self) -> bool:
        return self.state in _OVER

    @property
    def known(self) -> bool:
        """Whether the state is one of the four."""
        return self.state in tuple(State)

    @property
    def image_url(self) -> str | None:
        return self.images[0] if self.images else None

    @property
    def place(self) -> tuple[Any, ...]:
        """What counts as progress: a change of this resets the stall clock."""
        return (self.state, self.queue_position, self.step)

    @classmethod
    def parse(cls, data: Mapping[str, Any], job_id: str) -> "Status | None":
        """Read an answer of any UMRGEN server; None when it does not tell a state at all."""
        state = data.get("state")
        if not isinstance(state, str) or not state:
            return None
        progress = data.get("progress")
        progress = progress if isinstance(progress, Mapping) else {}
        return cls(
            job_id=job_id,
            state=state,
            images=_image_urls(data),
            error=_text(data.get("error")),
            error_code=_text(data.get("error_code")),
            queue_position=_integer(data.get("queue_position")),
            eta_seconds=_number(data.get("eta_seconds")),
            step=_integer(progress.get("step")),
            total_steps=_integer(progress.get("total")),
            seed=_integer(data.get("seed")),
            engine=_text(data.get("engine")),
            retry_after_ms=_number(data.get("retry_after_ms")),
            raw=data,
        )


def _image_urls(data: Mapping[str, Any]) -> tuple[str, ...]:
    """`image_url` first, then every further image of `results`; old servers give only the latter."""
    urls = [data.get("image_url")]
    results = data.get("results")
    listed = results.get("images") if isinstance(results, Mapping) else None
    if isinstance(listed, list):
        urls += [image.get("url") if isinstance(image, Mapping) else image for image in listed]
    return tuple(dict.fromkeys(url for url in urls if isinstance(url, str) and url))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if value == value and 0 <= value < 1e12 else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
