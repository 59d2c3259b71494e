"""The ledger: every job from its acknowledgement to its end, durably.

A call that changes something returns after the change is on disk. All changes of a job's state go
through `umrgen.server.domain.job.advance`, inside one transaction.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from umrgen.errors import UmrgenError
from umrgen.model import State
from umrgen.server.domain.job import Change, Job, JobSpec, Output

__all__ = [
    "DAY",
    "LEDGERS",
    "NO_CAPS",
    "Caps",
    "DailyLimit",
    "Idempotency",
    "IdempotencyConflict",
    "Key",
    "Ledger",
    "LedgerTooNew",
    "LedgerUnavailable",
    "OnChange",
    "OutputExpired",
    "QueueFull",
    "TooManyJobs",
    "Upload",
    "UploadsFull",
    "Webhook",
    "WebhookState",
]

DAY = 86_400_000
"""Milliseconds."""

LEDGERS: Mapping[str, str] = {
    "sqlite": "umrgen.server.ledger.sqlite:SqliteLedger",
    "memory": "umrgen.server.ledger.memory:MemoryLedger",
}

OnChange = Callable[[Sequence[Job]], None]
"""Called on the event loop with the jobs that a committed transaction changed."""


class IdempotencyConflict(UmrgenError):
    """This Idempotency-Key was used for another request body."""

    code = "idempotency_conflict"
    next = "Use a new Idempotency-Key for a new request."


class LedgerUnavailable(UmrgenError):
    """The ledger cannot be read or written now; nothing was changed."""

    code = "ledger_unavailable"
    retryable = True
    next = "Look for a full disk, or another program that holds the file."


class QueueFull(UmrgenError):
    """This session has as many jobs in the queue as it may."""

    code = "queue_full"
    retryable = True


class TooManyJobs(UmrgenError):
    """This session has as many jobs alive as it may; `job_id` is the one that runs longest."""

    code = "concurrent_limit"
    retryable = True


class DailyLimit(UmrgenError):
    """This session has made as many jobs today as it may; it may again at `until` (ms since the epoch)."""

    code = "rate_limited"
    retryable = True

    def __init__(self, *, until: int) -> None:
        super().__init__()
        self.until = until


class UploadsFull(UmrgenError):
    """This session has as many reference images as it may."""

    code = "too_many_references"


class OutputExpired(UmrgenError):
    """This image is on record, and its file is gone: it was kept as long as images are kept here."""

    code = "output_expired"


class LedgerTooNew(UmrgenError):
    """This ledger was written by a newer UMRGEN."""

    code = "ledger_too_new"
    next = "Start it with that version; an older one would not understand its records."


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A caller's key and a digest of what was asked under it; kept for `kept_for` milliseconds."""

    key: str
    digest: bytes
    kept_for: int = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Caps:
    """How many jobs of a session there may be; 0: any number."""

    queued: int = 0
    alive: int = 0
    """Queued or running."""
    daily: int = 0
    """Made on one day, UTC."""


NO_CAPS = Caps()


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as the ledger knows it: by its hash alone. Times in milliseconds; a limit of None is the server's."""

    id: str
    hash: bytes
    session_id: str
    name: str
    created_at: int
    expires_at: int | None = None
    rate: int | None = None
    """Requests a minute."""
    concurrent: int | None = None
    """Jobs alive at once."""
    daily: int | None = None
    """Jobs a day."""
    last_used_at: int | None = None
    revoked_at: int | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """A reference image as it is stored: encoded anew, under a name made here. `created_at` in milliseconds."""

    name: str
    session_id: str
    bytes: int
    sha256: str
    width: int
    height: int
    created_at: int
    media_type: str = "image/png"


class WebhookState(StrEnum):
    """How a webhook stands; only the first is not final."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Webhook:
    """The message that a job is over, to be delivered to its caller. Times in milliseconds."""

    id: str
    job_id: str
    session_id: str
    key_id: str
    """The key whose secret signs it."""
    url: str
    host: str
    """The URL's host, so that one which is slow does not hold up the others."""
    state: WebhookState
    attempts: int
    next_at: int | None
    """When it is to be tried next; None when it is not pending."""
    created_at: int
    """The job's end."""
    delivered_at: int | None = None
    last_error: str | None = None
    """Why the last attempt did not deliver it, in words for its receiver."""


class Ledger(Protocol):
    """All times are milliseconds since the epoch and come from the caller.

    Every method raises LedgerUnavailable when the ledger cannot be reached; then nothing was changed.
    """

    async def open(self, on_change: OnChange) -> None: ...
    async def close(self) -> None: ...

    async def submit(
        self,
        job_id: str,
        session_id: str,
        spec: JobSpec,
        engine: str,
        *,
        now: int,
        priority: int = 0,
        idempotency: Idempotency | None = None,
        caps: Caps = NO_CAPS,
        key_id: str = "",
    ) -> tuple[Job, bool]:
        """Write a queued job; give it and whether it is new.

        Under an Idempotency the job made earlier with it is given back instead. Raises
        IdempotencyConflict; and TooManyJobs, QueueFull or DailyLimit where one more job would pass `caps`.
        """
        ...

    async def earlier(self, session_id: str, idempotency: Idempotency, *, now: int) -> Job | None:
        """The job made earlier under this Idempotency. Raises IdempotencyConflict."""
        ...

    async def get(self, job_id: str) -> Job | None: ...

    def peek(self, job_id: str) -> Job | None:
        """The job, if it can be had at once, as of the last change told; None says nothing about it."""
        ...

    async def get_many(self, job_ids: Sequence[str]) -> list[Job]: ...

    async def changes(self, job_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Of each job that is there, its session and its `changed`: what a look at many costs little for."""
        ...

    async def last_change(self) -> int:
        """The largest `changed` of any job that is there; 0 when there is none."""
        ...

    async def queue_position(self, job: Job) -> int | None:
        """1 for the job that is next in turn, None for one that is not queued."""
        ...

    async def page(
        self, session_id: str, *, state: State | None, limit: int, before: int | None
    ) -> tuple[list[Job], int | None]:
        """Jobs of a session, newest first, and the cursor of the next page."""
        ...

    async def count(self) -> dict[State, int]:
        """Queued and running jobs; the finished ones are not counted."""
        ...

    async def recent_runs(self, *, among: int) -> list[Job]:
        """The completed ones among the last `among` jobs, in the order of their ends."""
        ...

    async def claim(self, worker: str, *, now: int, lease_until: int, running_cap: int = 0) -> Job | None:
        """Lease the job whose turn it is to `worker`.

        The turn goes to the session served longest ago, of those with fewer than `running_cap` jobs
        running (0: no cap); within it to the highest priority, then the oldest.
        """
        ...

    async def change(
        self,
        job_id: str,
        change: Change,
        *,
        now: int,
        token: int | None = None,
        version: int | None = None,
        **values: Any,
    ) -> Job:
        """Apply `advance` to the stored job. Raises Conflict; KeyError when there is no such job.

        With the end of a job that has a `webhook_url` its webhook is written, due at once.
        """
        ...

    async def expired_leases(self, *, now: int) -> list[Job]:
        """Running jobs whose lease has ended."""
        ...

    # --- images ---

    async def output(self, session_id: str, name: str) -> Output | None:
        """The record of an image. Raises OutputExpired when retention has taken its file."""
        ...

    async def known_files(self, names: Sequence[str]) -> set[str]:
        """Those of `names` that are on record as files, images and uploads alike."""
        ...

    async def expire_outputs(self, *, now: int, before: int, keep_bytes: int, limit: int) -> list[Output]:
        """Write down that images are gone: those made before `before` (ms), and the oldest as long as all
        together have more than `keep_bytes` (0: no matter how many); `limit` at most. Their files are yours to delete.
        """
        ...

    async def kept_bytes(self) -> int:
        """What all images together have, in bytes."""
        ...

    # --- reference images ---

    async def add_upload(self, upload: Upload, *, cap: int) -> None:
        """Raises UploadsFull when the session has `cap` of them."""
        ...

    async def upload(self, session_id: str, name: str) -> Upload | None: ...

    async def uploads(self, session_id: str) -> list[Upload]:
        """The oldest first."""
        ...

    async def remove_upload(self, session_id: str, name: str) -> bool:
        """Whether there was such an upload."""
        ...

    async def expire_uploads(self, *, before: int, limit: int) -> list[Upload]:
        """Forget uploads from before `before` (ms) that no living job needs. Their files are yours to delete."""
        ...

    # --- webhooks ---

    async def due_webhooks(
        self,
        *,
        now: int,
        limit: int,
        ids: Collection[str] = (),
        hosts: Collection[str] = (),
        sessions: Collection[str] = (),
    ) -> list[Webhook]:
        """Pending webhooks whose time has come, the longest due first; but for `ids`, and all of `hosts` and
        `sessions`."""
        ...

    async def next_webhook_at(self, *, after: int) -> int | None:
        """The earliest time after `after` at which one is to be tried."""
        ...

    async def note_delivery(
        self,
        webhook_id: str,
        *,
        state: WebhookState,
        attempts: int,
        next_at: int | None = None,
        delivered_at: int | None = None,
        last_error: str | None = None,
    ) -> bool:
        """Write down how a pending webhook stands now; whether it was pending."""
        ...

    async def webhooks_of(self, job_ids: Sequence[str]) -> dict[str, Webhook]:
        """The webhooks of those jobs that have one, by the job's id."""
        ...

    # --- keys ---

    async def add_key(self, key: Key) -> None: ...
    async def key(self, hash: bytes) -> Key | None: ...

    async def key_by_id(self, key_id: str) -> Key | None: ...
    async def keys(self) -> list[Key]: ...

    async def use_keys(self, uses: Mapping[str, int]) -> None:
        """Write down when keys, by their ids, were last used (ms)."""
        ...

    async def revoke_key(self, key_id: str, *, now: int) -> bool:
        """Whether there was such a key; revoking twice is the same."""
        ...

    async def readmit_key(self, key_id: str) -> bool:
        """Take a revocation back; whether there was such a key."""
        ...
