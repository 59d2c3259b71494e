"""The ledger's values other than jobs. All times are milliseconds since the epoch."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from umrgen.model import State
from umrgen.server.domain.engine_info import EngineInfo
from umrgen.server.domain.job import Job
from umrgen.server.domain.request import GenerationRequest

__all__ = [
    "ALL_BITS",
    "ALL_JOBS",
    "DAY",
    "NO_CAPS",
    "BatchKey",
    "Call",
    "Caps",
    "ClaimFilter",
    "DeletedJobs",
    "Idempotency",
    "JobCounts",
    "JobFilter",
    "Key",
    "KnownImage",
    "LiveWorker",
    "OnChange",
    "Template",
    "UnhashedImage",
    "Upload",
    "Webhook",
    "WebhookState",
]

DAY = 86_400_000
"""Milliseconds."""

OnChange = Callable[[Sequence[Job]], None]
"""A callback that the ledger calls on the event loop with the jobs that a committed transaction changed."""

BatchKey = Callable[[GenerationRequest], Hashable]
"""A pure function: an engine can draw jobs whose requests have equal keys in one batch."""


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A caller's idempotency key and a digest of the request; kept for `kept_for` milliseconds."""

    key: str
    digest: bytes
    kept_for: int = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits on the jobs of a session; 0: no limit."""

    queued: int = 0
    active: int = 0
    """Queued or running."""
    daily: int = 0
    """Submitted on one day (UTC)."""


NO_CAPS = Caps()


@dataclass(frozen=True, slots=True)
class ClaimFilter:
    """The jobs that a worker can draw: those for its engine that need no model, or one of `models`."""

    engine: str
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """A worker of the ledger, as it last reported itself; it lives until `until` unless it reports again."""

    id: str
    engine: str
    """The setting `engine`, as in the records of jobs."""
    state: str
    """As `engine.state` of the capabilities."""
    capacity: int
    """The number of batches that it draws at a time."""
    info: EngineInfo | None
    """None until its engine is loaded."""
    until: int


@dataclass(frozen=True, slots=True)
class JobCounts:
    """Numbers of jobs."""

    queued: int
    running: int
    submitted: int = 0
    """Submitted on the present day (UTC); counted for one session only."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs of a session a list has."""

    state: State | None = None
    favorite: bool = False
    """Only favorites."""
    words: tuple[str, ...] = ()
    """All of them occur in the prompt, whole or as a part of a word; each is `searchable`."""
    engine: str = ""
    after: int = -1
    """Made later than this (ms)."""
    until: int = 2**62
    """Made earlier than this (ms)."""

    @property
    def has_index(self) -> bool:
        """Whether each job that an index names is one of the list, so that no other jobs are read."""
        return self == JobFilter(self.state) or self == JobFilter(favorite=self.favorite)


ALL_JOBS = JobFilter()


@dataclass(frozen=True, slots=True)
class DeletedJobs:
    """The result of a deletion: the jobs, and their files (session and name), which are obsolete now."""

    deleted: list[str]
    """Also those that were deleted before."""
    unknown: list[str]
    """Ids that are not jobs of the session."""
    files: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a call that lasts until its jobs are over, on the server `worker`.

    The call renews `held_until` while it lasts.
    """

    call_id: str
    """The same for all requests of the call."""
    digest: bytes
    """Of the request: equal requests have equal digests."""
    worker: str
    held_until: int


@dataclass(frozen=True, slots=True)
class Key:
    """The record of an API key, with the key's hash only. A limit of None is the server's default."""

    id: str
    hash: bytes
    session_id: str
    name: str
    created_at: int
    expires_at: int | None = None
    rate: int | None = None
    """Requests a minute."""
    concurrent: int | None = None
    """Queued or running jobs."""
    daily: int | None = None
    """Jobs a day."""
    last_used_at: int | None = None
    revoked_at: int | None = None


ALL_BITS = b"\xff" * 32
"""The mask of a perceptual hash of which each bit is known."""


@dataclass(frozen=True, slots=True)
class UnhashedImage:
    """An image whose perceptual hash is not in the registry of fingerprints."""

    name: str
    session_id: str = ""
    """"": its record was pruned."""
    sha256: bytes = b""
    created_at: int = 0
    engine: str = ""
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class KnownImage:
    """An image that was made here, as the registry of fingerprints knows it."""

    exact: bool
    """Whether it is the same file."""
    distance: int
    """Bits of 256 in which the perceptual hashes differ, by those that are known; 0 for the same file."""
    created_at: int
    """When it was made, to the second."""
    engine: str
    job_id: str | None
    """Its job, if the session that asks owns it and the job's record still exists."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A reference image as it is stored: encoded again by the server, under a name that the server chose."""

    name: str
    session_id: str
    bytes: int
    sha256: str
    width: int
    height: int
    created_at: int
    media_type: str = "image/png"


@dataclass(frozen=True, slots=True)
class Template:
    """A request that a session keeps under a name."""

    name: str
    session_id: str
    request: str
    """Fields of a generation request, as a JSON object."""
    updated_at: int


class WebhookState(StrEnum):
    """The state of a webhook; only the first is not final."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Webhook:
    """The message that a job is over, to be delivered to its caller."""

    id: str
    job_id: str
    session_id: str
    key_id: str
    """The key whose secret signs it."""
    url: str
    host: str
    """The URL's host: a slow one does not delay deliveries to the others."""
    state: WebhookState
    attempts: int
    next_at: int | None
    """When to try it next; None when it is not pending."""
    created_at: int
    """The job's end."""
    delivered_at: int | None = None
    last_error: str | None = None
    """Why the last attempt failed, for the receiver to read."""
