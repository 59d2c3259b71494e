"""One attempt at one job: draw it, store its images, and write its end into the ledger, in this order.

After any failure in between, the job's lease ends and the job is queued again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from umrgen.clock import Clock
from umrgen.server.blobs import BlobStore, BlobStoreOutage, BlobStoreUnavailable, read
from umrgen.server.domain.engine_info import unsupported
from umrgen.server.domain.job import Change, Conflict, Job, Output, output_name, thumbnail_name
from umrgen.server.domain.references import archive_name
from umrgen.server.engines import DrawTask, EngineCrashed, EngineFailure
from umrgen.server.executors import Executor, JobBatch, VerifiedImage
from umrgen.server.ledger import JobStore, LedgerUnavailable
from umrgen.server.scheduler.previews import Previews
from umrgen.server.tasks import cancelled
from umrgen.server.tracing import span

__all__ = ["Attempt", "AttemptContext", "DispatchPolicy"]

log = logging.getLogger(__name__)

T = TypeVar("T")

PROGRESS_INTERVAL = 0.25
"""Seconds between two writes of a job's progress."""
RETRY_INTERVAL = 1.0
"""Seconds until a write that failed is tried again."""


@dataclass(frozen=True, slots=True)
class DispatchPolicy:
    """The limits of dispatching: times in seconds, and counts."""

    lease: float = 30.0
    max_attempts: int = 3
    max_interruptions: int = 20
    running_cap: int = 0
    """Running jobs of a session; 0: no limit."""
    engine: str = ""
    """On a ledger that other servers use: only jobs for this engine and its models are claimed. "": all jobs."""
    prompt_in_files: bool = True
    storage_timeout: float = 60.0
    """Seconds for which the storing of an image is retried."""


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """The services and values that every attempt uses."""

    jobs: JobStore
    executor: Executor
    blobs: BlobStore
    clock: Clock
    policy: DispatchPolicy
    previews: Previews

    def lease_until(self) -> int:
        return self.clock.now() + int(self.policy.lease * 1000)


class RequestUnsupported(EngineFailure):
    """The engine has no such model or feature, which was not known yet when the job was submitted."""

    code = "unsupported_request"


class ReferenceGone(Exception):
    """A reference image was deleted before the job ran."""


class Attempt:
    """An attempt at a job, under the lease it was claimed with."""

    def __init__(self, job: Job, attempt_context: AttemptContext, batch: JobBatch | None = None) -> None:
        """`batch`: the jobs that are drawn together with this one."""
        self.job = job
        self._batch = batch
        self._context = attempt_context
        self._guard: dict[str, Any] = {"token": job.token}
        self._retries_writes = True
        """Whether a write waits until the ledger is available again."""
        self._step = 0
        self._progressed = asyncio.Event()
        self._over = asyncio.Event()

    def end(self) -> None:
        """Note that the job is over: through this attempt, or because it was cancelled."""
        self._over.set()

    async def run(self) -> None:
        """Run the job to an end, or requeue it."""
        job = self.job
        log.info("job %s: attempt %d", job.id, job.attempt)
        heartbeat = asyncio.create_task(self._heartbeat())
        try:
            with span("draw", {"umrgen.job_id": job.id, "umrgen.attempt": job.attempt}):
                images = await self._draw(heartbeat)
            with span("store", {"umrgen.job_id": job.id}):
                await self._finish(images)
        except Conflict:
            log.info("job %s: it was ended, or another worker has it", job.id)
        except EngineFailure as failure:
            await self._fail(failure.code, str(failure))
        except ReferenceGone as gone:
            await self._fail("reference_gone", str(gone))
        except EngineCrashed as crash:
            await self._retry(crash.code, f"the engine failed: {crash}")
        except BlobStoreUnavailable as error:
            await self._retry("storage_failed", str(error))
        except asyncio.CancelledError:
            with suppress(LedgerUnavailable):  # the next start requeues it
                await asyncio.shield(self.interrupted())
            raise
        except Exception as error:
            log.exception("job %s: unexpected exception", job.id)
            await self._retry("engine_crashed", f"the attempt failed: {type(error).__name__}")
        finally:
            await cancelled(heartbeat)

    # --- drawing ---

    async def _draw(self, heartbeat: "asyncio.Task[None]") -> tuple[VerifiedImage, ...]:
        """Return the images. Raises Conflict when the job was ended by others, or another worker leased it."""
        job, context = self.job, self._context
        self._check_supported()
        references, archives = await self._references(), await self._archives()
        task = DrawTask(
            job.id, job.request, references, context.policy.prompt_in_files, job.created_at, archives=archives
        )
        drawing = asyncio.create_task(
            context.executor.run(task, self._on_step, lambda image: context.previews.put(job.id, image), self._batch)
        )
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({drawing, heartbeat, over}, return_when=asyncio.FIRST_COMPLETED)
            if drawing.done():
                return drawing.result()
            if heartbeat.done():
                heartbeat.result()
            raise Conflict(job_id=job.id)
        finally:
            await cancelled(drawing, over)

    def _check_supported(self) -> None:
        """Raise RequestUnsupported; jobs are accepted before the engine has loaded."""
        info = self._context.executor.info
        if info and (errors := unsupported(info, self.job.request)):
            raise RequestUnsupported("; ".join(f"{field}: {error}" for field, error in errors))

    async def _references(self) -> tuple[bytes, ...]:
        """Return the job's reference images. Raises ReferenceGone."""
        names = self.job.request.reference_images
        session_id, blobs = self.job.session_id, self._context.blobs
        found = [await self._despite_outages(partial(read, blobs, session_id, name)) for name in names]
        references = tuple(image for image in found if image is not None)
        if len(references) < len(found):
            raise ReferenceGone("a reference image was deleted before the job ran")
        return references

    async def _archives(self) -> tuple[bytes, ...]:
        """Return the archives of the references' manifests; () if none has one. One that is gone is left out."""
        names, session_id = [archive_name(name) for name in self.job.request.reference_images], self.job.session_id
        if not any(names):
            return ()
        found = [
            await self._despite_outages(partial(read, self._context.blobs, session_id, name)) if name else None
            for name in names
        ]
        return tuple(archive or b"" for archive in found)

    def _on_step(self, step: int, total: int) -> None:
        if not self._step:
            self._context.previews.begun(self.job.id)
        self._step = step
        self._progressed.set()

    async def _heartbeat(self) -> None:
        """Write each new step, at most every PROGRESS_INTERVAL, and renew the lease in any case.

        Returns when the job was ended, or another worker leased it.
        """
        job, context = self.job, self._context
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(context.policy.lease / 3):
                    await self._progressed.wait()
            self._progressed.clear()
            try:
                await self._change(Change.PROGRESS, step=self._step, lease_until=context.lease_until())
            except Conflict:
                return
            except LedgerUnavailable as error:
                log.warning("job %s: its progress could not be written: %s", job.id, error)
            await context.clock.sleep(PROGRESS_INTERVAL)

    # --- the ends ---

    async def _finish(self, images: tuple[VerifiedImage, ...]) -> None:
        """Store the images, then complete the job. Raises Conflict, after deleting the files again."""
        job = self.job
        outputs = tuple(
            Output(
                name=output_name(job, index, image.media_type),
                session_id=job.session_id,
                bytes=len(image.data),
                sha256=image.sha256,
                width=image.width,
                height=image.height,
                media_type=image.media_type,
            )
            for index, image in enumerate(images)
        )
        hashes = [image.pdq for image in images]
        try:
            for output, image in zip(outputs, images, strict=True):
                await self._store(output, image.data)
                await self._store_thumbnail(output, image.thumbnail)
            await self._end_with(Change.COMPLETE, outputs=outputs, step=job.request.steps, hashes=hashes)
        except Conflict:
            # Our COMPLETE may have been committed although the call raised; in that case keep the files.
            now = await self._context.jobs.get(job.id)
            if now is None or now.outputs != outputs:
                await self._delete(outputs)
                raise
        log.info("job %s: completed, %d bytes", job.id, sum(output.bytes for output in outputs))

    async def _delete(self, outputs: tuple[Output, ...]) -> None:
        for output in outputs:
            for name in (output.name, thumbnail_name(output.name)):
                with suppress(BlobStoreUnavailable):  # else retention deletes it
                    await self._context.blobs.delete(output.session_id, name)

    async def _store_thumbnail(self, output: Output, data: bytes) -> None:
        if data:
            with suppress(BlobStoreUnavailable):  # else it is made when it is requested first
                await self._context.blobs.put(output.session_id, thumbnail_name(output.name), data)

    async def _store(self, output: Output, data: bytes) -> None:
        """Store a file, retrying for `storage_timeout`. Raises BlobStoreUnavailable; Conflict if the job is over."""
        blobs, limit = self._context.blobs, self._context.policy.storage_timeout
        await self._despite_outages(lambda: blobs.put(output.session_id, output.name, data), limit)

    async def _despite_outages(self, call: Callable[[], Awaitable[T]], limit: float = 0.0) -> T:
        """Call the blob store until it succeeds: for `limit` seconds, or during an outage for as long as it lasts.

        Raises BlobStoreUnavailable; Conflict if the job is over.
        """
        waited = 0.0
        while True:
            try:
                return await call()
            except BlobStoreUnavailable as error:
                log.error("job %s: %s", self.job.id, error)
                if waited >= limit and not isinstance(error, BlobStoreOutage):
                    raise
            await self._context.clock.sleep(RETRY_INTERVAL)
            waited += RETRY_INTERVAL
            if self._over.is_set():
                raise Conflict(job_id=self.job.id)

    async def _fail(self, code: str, error: str) -> None:
        log.warning("job %s: %s: %s", self.job.id, code, error)
        with suppress(Conflict):
            await self._end_with(Change.FAIL, error=error, error_code=code)

    async def _retry(self, code: str, reason: str) -> None:
        """Requeue the job, or fail it after its last attempt."""
        if self.job.tries >= self._context.policy.max_attempts:
            await self._fail(code, f"{reason} (in attempt {self.job.tries}, the last)")
        else:
            await self._release(reason, self.job.interruptions)

    async def interrupted(self) -> None:
        """Requeue the job because the server stops; this does not count as an attempt. Raises LedgerUnavailable."""
        self._retries_writes = False
        reason, interruptions = "the server was stopped while the job ran", self.job.interruptions + 1
        if interruptions > self._context.policy.max_interruptions:
            await self._fail("interrupted", f"{reason}, {interruptions} times")
        else:
            await self._release(reason, interruptions)

    async def lease_expired(self) -> None:
        """Requeue or fail a job whose worker did not renew its lease, unless it was renewed since it was read."""
        self._guard["version"] = self.job.version
        await self._retry("engine_crashed", "its worker did not renew the lease")

    async def _release(self, reason: str, interruptions: int) -> None:
        log.warning("job %s: %s; it is queued again", self.job.id, reason)
        with suppress(Conflict):
            await self._end_with(Change.RELEASE, interruptions=interruptions)

    # --- the ledger ---

    async def _change(self, change: Change, **values: Any) -> Job:
        return await self._context.jobs.change(
            self.job.id, change, now=self._context.clock.now(), **self._guard, **values
        )

    async def _end_with(self, change: Change, **values: Any) -> None:
        """Write the end, and retry until the ledger accepts it: its disk may be full, or its file locked."""
        while True:
            try:
                await self._change(change, **values)
                return
            except LedgerUnavailable as error:
                log.error("job %s: its end cannot be written yet: %s", self.job.id, error)
                if not self._retries_writes:
                    raise
            await self._context.clock.sleep(RETRY_INTERVAL)
