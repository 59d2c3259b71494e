"""The ledger's record of a job, and the one function that changes its state: `advance`."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from umrgen.errors import UmrgenError
from umrgen.image_files import EXTENSIONS
from umrgen.model import FINAL_STATES, State
from umrgen.server.domain.request import GenerationRequest

__all__ = [
    "MAX_IMAGES",
    "TRANSITIONS",
    "Change",
    "Conflict",
    "Job",
    "Output",
    "advance",
    "erased",
    "image_of_thumbnail",
    "output_name",
    "possible_outputs",
    "thumbnail_name",
]


ERASED = GenerationRequest("(deleted)", seed=0)
"""The request in the record of a deleted job."""
THUMBNAIL = ".thumb.webp"
"""The end of the names of thumbnails."""
MAX_IMAGES = 8
"""The largest number of images of a job."""


class Change(StrEnum):
    """A kind of change of a job's record."""

    CLAIM = "claim"
    """A worker takes a lease on the job."""
    PROGRESS = "progress"
    """The worker reports a step, or renews its lease."""
    COMPLETE = "complete"
    """The images are in storage, synced."""
    FAIL = "fail"
    RELEASE = "release"
    """The worker releases the job, or its lease expired."""
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
    """The job's state forbids the change, or another worker has the lease."""

    code = "conflict"


@dataclass(frozen=True, slots=True)
class Output:
    """The record of one stored image of a job."""

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

    @property
    def thumbnail_url(self) -> str:
        return f"/outputs/{self.session_id}/{thumbnail_name(self.name)}?session_id={self.session_id}"


class Job(NamedTuple):  # a frozen dataclass with these fields takes six times as long to create
    """A job's record. Times are milliseconds since the epoch; `version` grows with every change."""

    id: str
    session_id: str
    request: GenerationRequest
    """Its seed is never -1: a random seed is chosen before the job is stored."""
    engine: str
    created_at: int
    priority: int = 0
    """Among the jobs of its session; the highest runs first."""
    state: State = State.QUEUED
    version: int = 1
    attempt: int = 0
    """The number of claims."""
    interruptions: int = 0
    """The number of attempts that a restart of the server ended."""
    token: int = 0
    """The fencing token. It grows with every lease, so that a worker without the lease can change nothing."""
    worker: str | None = None
    lease_until: int | None = None
    step: int = 0
    started_at: int | None = None
    """The time of the first claim."""
    claimed_at: int | None = None
    """The time of the last claim."""
    completed_at: int | None = None
    outputs: tuple[Output, ...] = ()
    error: str | None = None
    error_code: str | None = None
    changed: int = 0
    """The change number of the job's last change of state."""
    key_id: str = ""
    """The API key that submitted the job; the job's webhook is signed with this key's secret."""
    output_key: str = ""
    """A random part of the names of the job's images; "" for jobs that ran before this field existed."""
    favorite: bool = False
    """Retention keeps the images and the record of a favorite."""
    edited_at: int | None = None
    """When its owner made it a favorite or not, or deleted it; None if a change of its state is later."""
    deleted_at: int | None = None
    """When its owner deleted it: only this record is left, without what the request said."""
    model: str = ""
    """The model that the request names: only a worker that has it runs the job. "": none."""

    @property
    def over(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def tries(self) -> int:
        """The attempts that count against the limit: those that no restart of the server ended."""
        return self.attempt - self.interruptions


def output_name(job: Job, index: int, media_type: str) -> str:
    """Return the file name of an image of the job's present attempt.

    It cannot be derived from the job's id, which each image contains. No two attempts share a name, so an attempt that
    lost its lease cannot overwrite a file of the next.
    """
    digest = hashlib.sha256(f"{job.output_key}{job.id}/{job.token}/{index}".encode()).hexdigest()[:32]
    return f"umrgen_{job.request.seed}_{digest}{EXTENSIONS[media_type]}"


def thumbnail_name(image: str) -> str:
    """Return the file name of the thumbnail of an image."""
    return image + THUMBNAIL


def image_of_thumbnail(name: str) -> str | None:
    """Return the name of the image whose thumbnail has this name; None if it is no name of a thumbnail."""
    return name.removesuffix(THUMBNAIL) if name.endswith(THUMBNAIL) else None


def possible_outputs(job: Job) -> list[str]:
    """Return every file name that the job's present attempt may use."""
    images = [output_name(job, index, media_type) for index in range(MAX_IMAGES) for media_type in EXTENSIONS]
    return images + [thumbnail_name(image) for image in images]


def erased(job: Job, *, now: int) -> Job:
    """Return the record that is kept of a deleted job: nothing of its request but the engine."""
    return job._replace(
        request=ERASED, model="", version=job.version + 1, error=None, favorite=False, edited_at=now, deleted_at=now
    )


def advance(
    job: Job, change: Change, *, now: int, token: int | None = None, version: int | None = None, **values: Any
) -> Job:
    """Return the job after `change`. Raises Conflict when its state forbids the change, or `token` is not its lease's.

    With `version`, raises Conflict also when the job has changed since that version was read. `values` are the fields
    that the change sets: `worker`, `lease_until`, `step`, `outputs`, `error`, `error_code`, `interruptions`.
    """
    state = TRANSITIONS.get((job.state, change))
    if state is None:
        raise Conflict(f"a job that is {job.state} cannot {change}", job_id=job.id)
    if token is not None and (token != job.token or job.state is not State.RUNNING):
        # A job that was queued again has no lease, so its last token is no longer valid.
        raise Conflict("another worker holds this job now", job_id=job.id)
    if version is not None and version != job.version:
        raise Conflict("the job has changed since it was read", job_id=job.id)
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
        # After the clock was set back, a job still does not end before its claim.
        values["completed_at"] = max(now, job.created_at, job.claimed_at or 0)
    if state is State.QUEUED:
        values["step"] = 0
    return job._replace(state=state, version=job.version + 1, edited_at=None, **values)
