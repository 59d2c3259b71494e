"""The interfaces of the ledger: eight stores of records, and three for the coordination of servers.

A method that changes something returns after the change is on disk. Every method raises LedgerUnavailable when the
ledger cannot be reached; then nothing was changed. All times are milliseconds since the epoch, passed by the caller.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from umrgen.server.domain.job import Change, Job, Output
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger.values import (
    ALL_BITS,
    ALL_JOBS,
    NO_CAPS,
    BatchKey,
    Call,
    Caps,
    ClaimFilter,
    DeletedJobs,
    Idempotency,
    JobCounts,
    JobFilter,
    Key,
    KnownImage,
    LiveWorker,
    OnChange,
    Template,
    UnhashedImage,
    Upload,
    Webhook,
    WebhookState,
)

__all__ = [
    "CallStore",
    "CoordinationStore",
    "FingerprintStore",
    "JobStore",
    "KeyStore",
    "Ledger",
    "OutputStore",
    "PreviewStore",
    "TemplateStore",
    "UploadStore",
    "WebhookStore",
    "WorkerStore",
]


class JobStore(Protocol):
    """Jobs. Only `umrgen.server.domain.job.advance` changes a job's state, inside one transaction."""

    async def submit(
        self,
        job_id: str,
        session_id: str,
        request: GenerationRequest,
        engine: str,
        *,
        now: int,
        priority: int = 0,
        idempotency: Idempotency | None = None,
        caps: Caps = NO_CAPS,
        key_id: str = "",
        call: Call | None = None,
    ) -> tuple[Job, bool]:
        """Write a queued job, and the call that holds it; return the job and whether it is new.

        Under an Idempotency that was used before, return the job made then. Raises IdempotencyConflict; and
        TooManyJobs, QueueFull or DailyLimit where one more job would exceed `caps`.
        """
        ...

    async def earlier(self, session_id: str, idempotency: Idempotency, *, now: int) -> Job | None:
        """Return the job made earlier under this Idempotency. Raises IdempotencyConflict."""
        ...

    async def get(self, job_id: str) -> Job | None: ...

    def peek(self, job_id: str) -> Job | None:
        """Return the job if it can be read without waiting. None does not mean that there is no such job."""
        ...

    async def get_many(self, job_ids: Sequence[str]) -> list[Job]: ...

    async def changes(self, job_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Return the session and the change number of each job that exists; cheaper than reading the jobs."""
        ...

    async def last_change(self) -> int:
        """Return a number that no job's `changed` exceeds; 0 for an empty ledger."""
        ...

    async def queue_position(self, job: Job) -> int | None:
        """Return 1 for the job that is next, None for one that is not queued."""
        ...

    async def page(
        self, session_id: str, *, where: JobFilter = ALL_JOBS, limit: int, before: int | None
    ) -> tuple[list[Job], int | None]:
        """Return jobs of a session, newest first, and the cursor of the next page. Deleted jobs are in no list.

        A filter without an index may end a page early, after many jobs that do not match: then it has a cursor too.
        """
        ...

    async def set_favorite(self, session_id: str, job_id: str, favorite: bool, *, now: int) -> Job:
        """Mark the session's job as a favorite, or not; its state does not change. Raises KeyError."""
        ...

    async def delete(self, session_id: str, job_ids: Sequence[str], *, now: int) -> DeletedJobs:
        """Delete jobs of the session: cancel those that are not over, expire the images, and erase the requests.

        The webhooks, calls and idempotency keys of these jobs are deleted too. The id, the times and the names of the
        files are kept.
        """
        ...

    async def count(self, session_id: str | None = None, *, now: int = 0) -> JobCounts:
        """Count the queued and running jobs, of all sessions or of one, and those that this one submitted today."""
        ...

    async def oldest_queued(self) -> int | None:
        """Return when the oldest of the queued jobs of all sessions was submitted (ms); None without one."""
        ...

    async def recent_runs(self, *, among: int) -> list[Job]:
        """Return the completed jobs among the last `among` jobs, in the order of their ends."""
        ...

    async def claim(
        self,
        worker: str,
        *,
        now: int,
        lease_until: int,
        limit: int = 1,
        batch_key: BatchKey | None = None,
        running_cap: int = 0,
        only: ClaimFilter | None = None,
    ) -> list[Job]:
        """Lease the next jobs to `worker`, at most `limit`; with `only`, of those that it can draw.

        For each of them, the next session is the one served longest ago, of those with fewer than `running_cap` running
        jobs (0: no cap); within it the highest priority is next, then the oldest job. With `batch_key`, the claim ends
        before the first job whose key differs from that of the first job: no job is overtaken.
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
        hashes: Sequence[bytes] = (),
        **values: Any,
    ) -> Job:
        """Apply `advance` to the stored job. Raises Conflict; KeyError when there is no such job.

        The end of a job that has a `webhook_url` also writes its webhook, which is due immediately. That of a completed
        job writes the fingerprints of its images; `hashes`: the PDQ hash of each image, b"" for one without it.
        """
        ...

    async def expired_leases(self, *, now: int, worker: str = "") -> list[Job]:
        """Return the running jobs whose lease has ended, and all running jobs of `worker`."""
        ...

    async def prune(
        self, *, before: int, limit: int, seconds: float = math.inf, monotonic: Callable[[], float] = time.monotonic
    ) -> int:
        """Delete the records of up to `limit` jobs, with all that belongs to them; return how many; 0 at the end.

        All in one transaction, which deletes a few jobs at a time and no more after `seconds` by `monotonic`. Deleted
        are jobs that failed before `before`, and those whose last image was deleted before it. A job whose
        webhook is pending is kept, and so is a favorite.
        """
        ...

    def forget(self, *, before: int) -> None:
        """Drop the jobs that were over before `before` from caches: any server of the ledger may have pruned them."""
        ...


class OutputStore(Protocol):
    """Records of images."""

    async def get(self, session_id: str, name: str) -> Output | None:
        """Raises OutputExpired when retention has deleted the file."""
        ...

    async def expire(self, *, now: int, before: int, keep_bytes: int, limit: int) -> list[Output]:
        """Mark images as expired: those made before `before`, and the oldest while all images together have more than
        `keep_bytes` (0: no bound); `limit` at most. Their files become obsolete. Images of favorites neither expire
        nor count.
        """
        ...

    async def newest(self) -> int | None:
        """Return when the newest image was made; None without one."""
        ...

    async def kept_bytes(self) -> int:
        """Return the size of all images together, in bytes."""
        ...

    async def expect_file(self, image: Output, name: str, *, now: int) -> bool:
        """Note that the file `name`, which belongs to an image, is about to be stored; it is to be deleted in an hour.

        Returns False, and notes nothing, when the image has no record or is expired.
        """
        ...

    async def keep_file(self, image: Output, name: str) -> bool:
        """Drop the note of `expect_file`; return False, and keep the note, when the image has expired since."""
        ...

    async def obsolete_files(self, *, now: int, limit: int) -> list[tuple[str, str]]:
        """Return the session and name of files, of images and uploads, that are to be deleted."""
        ...

    async def forget_files(self, files: Sequence[tuple[str, str]], *, now: int = ...) -> None:
        """Note that these obsolete files are deleted; not those that are to be deleted after `now`, if it is given."""
        ...


class FingerprintStore(Protocol):
    """The fingerprints of all images that were made; `JobStore.change` writes them, and nothing deletes them."""

    async def find(
        self, sha256: bytes, pdq: bytes, known: bytes = ALL_BITS, *, session_id: str = ""
    ) -> KnownImage | None:
        """Return the image with this digest; else the nearest one, in at most 31 bits of the hash; None without one.

        `pdq`: the PDQ hash, or b"". `known`: the mask of its bits that are known, which are compared in proportion:
        not all hashes near such a one are found. Of several equal ones it is the earliest, with the job of
        `session_id`, if any.
        """
        ...

    async def index(self, *, groups: int) -> int:
        """Index up to `groups` groups of 16 new images, so that `find` does not compare them one by one.

        Return how many were.
        """
        ...

    async def unhashed(self, *, limit: int) -> list[UnhashedImage]:
        """Return images whose perceptual hash is to be computed."""
        ...

    async def enter_hash(self, image: UnhashedImage, pdq: bytes | None) -> None:
        """Write the fingerprint of such an image, which `unhashed` does not return again.

        `pdq`: b"" if it cannot be hashed; None to write none.
        """
        ...


class UploadStore(Protocol):
    """Records of reference images. A record is written before its file, and marked when the file is stored."""

    async def add(self, upload: Upload, *, cap: int) -> Upload:
        """Write the record of a file that is about to be stored; return it.

        If the session has a stored file with the same content, return that record, with the new `created_at`. Raises
        UploadsFull when the session has `cap` files.
        """
        ...

    async def mark_stored(self, session_id: str, name: str) -> bool:
        """Make the upload visible; return whether its record still exists."""
        ...

    async def get(self, session_id: str, name: str) -> Upload | None: ...

    async def of_session(self, session_id: str) -> list[Upload]:
        """Return the session's uploads, oldest first."""
        ...

    async def remove(self, session_id: str, name: str) -> bool:
        """Delete the record; return whether there was one. Its file becomes obsolete."""
        ...

    async def expire(self, *, before: int, limit: int) -> list[Upload]:
        """Delete the records of uploads from before `before` that no queued or running job needs.

        Their files become obsolete.
        """
        ...


class TemplateStore(Protocol):
    """Requests that sessions keep under their own names."""

    async def put(self, template: Template, *, cap: int) -> None:
        """Write a template in place of the session's one of this name, if any.

        Raises TemplatesFull when the session would have more than `cap`.
        """
        ...

    async def get(self, session_id: str, name: str) -> Template | None: ...

    async def of_session(self, session_id: str) -> list[Template]:
        """Return the session's templates, by name."""
        ...

    async def remove(self, session_id: str, name: str) -> bool:
        """Delete a template; return whether there was one."""
        ...


class WebhookStore(Protocol):
    """Webhooks; `JobStore.change` writes them."""

    async def due(
        self,
        *,
        now: int,
        limit: int,
        ids: Collection[str] = (),
        hosts: Collection[str] = (),
        sessions: Collection[str] = (),
    ) -> list[Webhook]:
        """Return pending webhooks that are due, the longest due first, without `ids` and without all of `hosts` and
        `sessions`."""
        ...

    async def count_pending(self) -> int:
        """Return the number of webhooks that are neither delivered nor failed."""
        ...

    async def next_at(self, *, after: int) -> int | None:
        """Return the earliest time after `after` at which a pending webhook is due."""
        ...

    async def record_attempt(
        self,
        webhook_id: str,
        *,
        state: WebhookState,
        attempts: int,
        next_at: int | None = None,
        delivered_at: int | None = None,
        last_error: str | None = None,
    ) -> bool:
        """Write the result of an attempt to deliver a pending webhook; return whether it was pending."""
        ...

    async def of_jobs(self, job_ids: Sequence[str]) -> dict[str, Webhook]:
        """Return the webhooks of those jobs that have one, by the job's id."""
        ...


class CallStore(Protocol):
    """The jobs of calls that last until the job is over; `JobStore.submit` writes them.

    A call that is cut off leaves its job unclaimed for ten minutes after the end of its hold.
    """

    async def take(self, session_id: str, call: Call, *, now: int) -> str | None:
        """Let `call` hold the oldest unclaimed job of an equal call, if there is one that has not failed.

        Return the id of the job. Two calls never take the same job.
        """
        ...

    async def hold(self, call_id: str, *, until: int) -> None:
        """Let the call hold its jobs until `until`; with a time that is not in the future, release them."""
        ...

    async def release_all(self, worker: str, *, now: int) -> None:
        """Release the jobs that calls of `worker` hold: the server was stopped."""
        ...

    async def remove(self, call_id: str) -> None:
        """Delete the record of a call whose response was sent."""
        ...


class KeyStore(Protocol):
    """API keys."""

    async def add(self, key: Key) -> None: ...
    async def find(self, hash: bytes) -> Key | None: ...
    async def get(self, key_id: str) -> Key | None: ...
    async def all(self) -> list[Key]: ...

    async def record_uses(self, uses: Mapping[str, int]) -> None:
        """Write when keys, by their ids, were last used (ms)."""
        ...

    async def revoke(self, key_id: str, *, now: int) -> bool:
        """Revoke a key; return whether it exists. Revoking twice is the same as once."""
        ...

    async def replace(self, key_id: str, successor: Key, *, now: int, until: int) -> bool:
        """Add `successor`, and end the key: at `until`, or with a revocation now if `until` is not after `now`.

        Both or neither are done. Return whether there is such a key that is not revoked. It never ends later than it
        would have.
        """
        ...

    async def limit(self, key_id: str, *, rate: int | None, concurrent: int | None, daily: int | None) -> bool:
        """Write the limits of a key, each of them; return whether the key exists."""
        ...

    async def readmit(self, key_id: str) -> bool:
        """Undo a revocation; return whether the key exists."""
        ...

    async def delete(self, key_id: str) -> bool:
        """Delete the record of a key; return whether it existed."""
        ...


class CoordinationStore(Protocol):
    """The leases of tasks and the secrets that the servers of one ledger share."""

    async def acquire(self, task: str, holder: str, *, now: int, until: int) -> bool:
        """Give `holder` the lease of `task` until `until`, unless another holder's lease has not ended yet."""
        ...

    async def release(self, task: str, holder: str) -> None:
        """End the lease of `task`, if `holder` has it."""
        ...

    async def secret(self, name: str, proposal: bytes) -> bytes:
        """Return the secret `name`; the first `proposal` for it becomes the secret."""
        ...


class WorkerStore(Protocol):
    """The workers that live, for servers without engines."""

    async def report(self, worker: LiveWorker, *, now: int) -> None:
        """Write the worker's report in place of its last one; delete those that have expired."""
        ...

    async def remove(self, worker_id: str) -> None:
        """Delete the report of a worker that stops."""
        ...

    async def live(self, *, now: int) -> list[LiveWorker]:
        """Return the workers that live, by engine and id."""
        ...

    async def queued(self) -> dict[tuple[str, str], int]:
        """Count the queued jobs by the engine and the model that they need; the model may be ""."""
        ...


class PreviewStore(Protocol):
    """The last preview of each job that is watched at a server which does not draw it."""

    async def watch(self, job_ids: Collection[str], *, now: int, until: int) -> None:
        """Note that these jobs are watched until `until`."""
        ...

    async def watched(self, job_ids: Collection[str], *, now: int) -> list[str]:
        """Return those of the jobs that a server watches."""
        ...

    async def put(self, images: Mapping[str, bytes], *, version: int) -> None:
        """Replace the previews (JPEG) of watched jobs, by the id of the job."""
        ...

    async def newer(self, known: Mapping[str, int], *, limit: int) -> dict[str, tuple[int, bytes]]:
        """Return version and image of the previews whose version is another than the one in `known`, by job.

        At most `limit`, those that were written longest ago.
        """
        ...

    async def remove(self, job_ids: Collection[str]) -> None:
        """Delete the previews of these jobs, and that they are watched."""
        ...


class Ledger(Protocol):
    """The durable record of a server, or of several servers that share it."""

    @property
    def jobs(self) -> JobStore: ...
    @property
    def outputs(self) -> OutputStore: ...
    @property
    def fingerprints(self) -> FingerprintStore: ...
    @property
    def uploads(self) -> UploadStore: ...
    @property
    def templates(self) -> TemplateStore: ...
    @property
    def webhooks(self) -> WebhookStore: ...
    @property
    def keys(self) -> KeyStore: ...
    @property
    def calls(self) -> CallStore: ...
    @property
    def coordination(self) -> CoordinationStore: ...
    @property
    def workers(self) -> WorkerStore: ...
    @property
    def previews(self) -> PreviewStore: ...

    async def open(self, on_change: OnChange, on_foreign_change: OnChange | None = None) -> None:
        """Open the ledger, and migrate it if an older version wrote it.

        `on_change` is called with the jobs that this object changed, `on_foreign_change` (if None: `on_change`) with
        those that other servers changed. Raises LedgerTooNew.
        """
        ...

    async def time(self) -> int | None:
        """Return the time of the database's machine, in milliseconds; None when that is this machine."""
        ...

    async def close(self) -> None: ...
