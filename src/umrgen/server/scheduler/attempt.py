"""One attempt at one job: it is drawn, stored, and its end is written into the ledger, in this order.

Whatever happens in between, the job's lease brings it back.
"""

import asyncio
import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from umrgen.server.blobs import Storage
from umrgen.server.clock import Clock
from umrgen.server.domain.job import Change, Conflict, Job, Output
from umrgen.server.engines import DrawRequest, EngineFailure
from umrgen.server.executors import EncodedImage, EngineCrashed, Executor
from umrgen.server.ledger import JobStore, LedgerUnavailable
from umrgen.server.scheduler.previews import Previews
from umrgen.server.tracing import span

__all__ = ["Attempt", "AttemptContext", "DispatchPolicy"]

log = logging.getLogger(__name__)

PROGRESS_INTERVAL = 0.25
"""Seconds between two writes of a job's progress: a few a second are enough to watch."""
RETRY_INTERVAL = 1.0
"""Seconds between two tries to write what could not be written."""


@dataclass(frozen=True, slots=True)
class DispatchPolicy:
    """The numbers of dispatching; seconds, and counts."""

    lease: float = 30.0
    max_attempts: int = 3
    max_interruptions: int = 20
    running_cap: int = 0
    """Jobs of one session that run at once; 0: as many as there are slots."""
    storage_patience: float = 60.0
    """How long a picture that was drawn waits for storage to take it."""


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """What an attempt works with."""

    jobs: JobStore
    executor: Executor
    storage: Storage
    clock: Clock
    policy: DispatchPolicy
    previews: Previews
    storing: set[str] = field(default_factory=set)
    """Names of images on their way: stored perhaps, and not on record yet."""

    def lease_until(self) -> int:
        return self.clock.now() + int(self.policy.lease * 1000)


class ReferenceGone(Exception):
    """What the picture was to be like is not there any more."""


class Attempt:
    """A job on a slot, under the lease it was claimed with."""

    def __init__(self, job: Job, attempt_context: AttemptContext) -> None:
        self.job = job
        self._context = attempt_context
        self._guard: dict[str, int] = {"token": job.token}
        self._patient = True
        self._step = 0
        self._news = asyncio.Event()
        self._over = asyncio.Event()

    def end(self) -> None:
        """Hear that the job is over: by this attempt, or without it, when it was cancelled."""
        self._over.set()

    async def carry_out(self) -> None:
        """Bring the job to an end, or back into the queue."""
        job = self.job
        log.info("job %s: attempt %d", job.id, job.attempt)
        beating = asyncio.create_task(self._beat())
        try:
            with span("draw", {"umrgen.job_id": job.id, "umrgen.attempt": job.attempt}):
                picture = await self._draw(beating)
            with span("store", {"umrgen.job_id": job.id}):
                await self._finish(picture)
        except Conflict:
            log.info("job %s: is no longer ours", job.id)
        except EngineFailure as failure:
            await self._fail("engine_failed", str(failure))
        except ReferenceGone as gone:
            await self._fail("reference_gone", str(gone))
        except EngineCrashed as crash:
            await self._try_again(crash.code, f"the engine failed: {crash}")
        except OSError as error:
            await self._try_again("storage_failed", f"the image could not be stored: {error.strerror}")
        except asyncio.CancelledError:
            with suppress(LedgerUnavailable):  # what cannot be written now is found by the next start
                await asyncio.shield(self.interrupted())
            raise
        except Exception as error:
            log.exception("job %s: something that nobody thought of", job.id)
            await self._try_again("engine_crashed", f"the attempt failed: {type(error).__name__}")
        finally:
            await _ended(beating)

    # --- drawing ---

    async def _draw(self, beating: "asyncio.Task[None]") -> EncodedImage:
        """The picture. Raises Conflict when the job was ended from outside, or taken by another worker."""
        job, context = self.job, self._context
        request = _request_of(job, await self._references())
        drawing = asyncio.create_task(
            context.executor.run(job.id, request, self._stepped, lambda image: context.previews.put(job.id, image))
        )
        ended = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({drawing, beating, ended}, return_when=asyncio.FIRST_COMPLETED)
            if drawing.done():
                return drawing.result()
            if beating.done():
                beating.result()
            raise Conflict(job_id=job.id)
        finally:
            await _ended(drawing, ended)

    async def _references(self) -> tuple[bytes, ...]:
        """The job's reference images. Raises ReferenceGone."""
        found = [
            await self._context.storage.get(self.job.session_id, name) for name in self.job.request.reference_images
        ]
        references = tuple(image for image in found if image is not None)
        if len(references) < len(found):
            raise ReferenceGone("a reference image was deleted before it was needed")
        return references

    def _stepped(self, step: int, total: int) -> None:
        if not self._step:
            self._context.previews.begun(self.job.id)
        self._step = step
        self._news.set()

    async def _beat(self) -> None:
        """Write each new step, at most every PROGRESS_INTERVAL, and renew the lease in any case.

        Returns when it turns out that the job is not ours any more.
        """
        job, context = self.job, self._context
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(context.policy.lease / 3):
                    await self._news.wait()
            self._news.clear()
            try:
                await self._change(Change.PROGRESS, step=self._step, lease_until=context.lease_until())
            except Conflict:
                return
            except LedgerUnavailable as error:
                log.warning("job %s: its progress could not be written: %s", job.id, error)
            await context.clock.sleep(PROGRESS_INTERVAL)

    # --- the ends ---

    async def _finish(self, picture: EncodedImage) -> None:
        job, storage = self.job, self._context.storage
        output = Output(
            name=f"umrgen_{job.request.seed}_{secrets.token_hex(16)}.png",
            session_id=job.session_id,
            bytes=len(picture.data),
            sha256=picture.sha256,
            width=picture.width,
            height=picture.height,
            media_type=picture.media_type,
        )
        self._context.storing.add(output.name)
        try:
            await self._store(output, picture.data)
            await self._end_with(Change.COMPLETE, outputs=(output,), step=job.request.steps)
        except Conflict:
            # Unless the end that is in the way is this very one, written although it was said it was not.
            now = await self._context.jobs.get(job.id)
            if now is None or output not in now.outputs:
                with suppress(OSError):
                    await storage.delete(output.session_id, output.name)
                raise
        finally:
            self._context.storing.discard(output.name)
        log.info("job %s: completed, %d bytes", job.id, output.bytes)

    async def _store(self, output: Output, data: bytes) -> None:
        """Store, waiting a while for a disk that is full. Raises OSError, and Conflict when the job has ended."""
        waited = 0.0
        while True:
            try:
                return await self._context.storage.put(output.session_id, output.name, data)
            except OSError as error:
                log.error("job %s: its image cannot be stored: %s", self.job.id, error.strerror)
                if waited >= self._context.policy.storage_patience:
                    raise
            await self._context.clock.sleep(RETRY_INTERVAL)
            waited += RETRY_INTERVAL
            if self._over.is_set():
                raise Conflict(job_id=self.job.id)

    async def _fail(self, code: str, error: str) -> None:
        log.warning("job %s: %s: %s", self.job.id, code, error)
        with suppress(Conflict):
            await self._end_with(Change.FAIL, error=error, error_code=code)

    async def _try_again(self, code: str, what: str) -> None:
        """Back into the queue, or failed when that was its last attempt."""
        if self.job.tries >= self._context.policy.max_attempts:
            await self._fail(code, f"{what} (in attempt {self.job.tries}, the last)")
        else:
            await self._release(what, self.job.interruptions)

    async def interrupted(self) -> None:
        """Back into the queue: the server itself was stopped, which is not held against the job.

        Raises LedgerUnavailable: there is no time to wait for it.
        """
        self._patient = False
        what, interruptions = "the server was stopped while it ran", self.job.interruptions + 1
        if interruptions > self._context.policy.max_interruptions:
            await self._fail("interrupted", f"{what}, {interruptions} times")
        else:
            await self._release(what, interruptions)

    async def lease_expired(self) -> None:
        """End an attempt of a worker that let its lease lapse, unless it has spoken up since."""
        self._guard["version"] = self.job.version
        await self._try_again("engine_crashed", "its worker fell silent")

    async def _release(self, what: str, interruptions: int) -> None:
        log.warning("job %s: %s; it is queued again", self.job.id, what)
        with suppress(Conflict):
            await self._end_with(Change.RELEASE, interruptions=interruptions)

    # --- the ledger ---

    async def _change(self, change: Change, **values: Any) -> Job:
        return await self._context.jobs.change(
            self.job.id, change, now=self._context.clock.now(), **self._guard, **values
        )

    async def _end_with(self, change: Change, **values: Any) -> None:
        """Write the end until the ledger takes it: its disk may be full, or its file locked, for a while."""
        while True:
            try:
                await self._change(change, **values)
                return
            except LedgerUnavailable as error:
                log.error("job %s: its end cannot be written yet: %s", self.job.id, error)
                if not self._patient:
                    raise
            await self._context.clock.sleep(RETRY_INTERVAL)


async def _ended(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel what still runs, and wait until it has stopped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _request_of(job: Job, references: tuple[bytes, ...]) -> DrawRequest:
    spec = job.request
    return DrawRequest(
        prompt=spec.prompt,
        negative=spec.negative,
        width=spec.width,
        height=spec.height,
        steps=spec.steps,
        seed=spec.seed,
        loras=tuple((lora.name, lora.strength) for lora in spec.loras),
        references=references,
    )
