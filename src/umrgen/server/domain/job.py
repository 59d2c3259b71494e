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
    "output_name",
    "possible_outputs",
]


MAX_IMAGES = 8
"""Images that one job may have."""


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
    request: GenerationRequest
    """Its seed is chosen already: never -1."""
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
        return self.state in FINAL_STATES

    @property
    def tries(self) -> int:
        """The attempts that count: those that no restart of the server cut short."""
        return self.attempt - self.interruptions


def output_name(job: Job, index: int, media_type: str) -> str:
    """Return the file name of an image of the job's present attempt.

    It cannot be guessed without the job's id, and no two attempts share one, so an attempt that lost its lease cannot
    overwrite a file of the next.
    """
    digest = hashlib.sha256(f"{job.id}/{job.token}/{index}".encode()).hexdigest()[:32]
    return f"umrgen_{job.request.seed}_{digest}{EXTENSIONS[media_type]}"


def possible_outputs(job: Job) -> list[str]:
    """Return every file name that the job's present attempt may have used."""
    return [output_name(job, index, media_type) for index in range(MAX_IMAGES) for media_type in EXTENSIONS]


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
