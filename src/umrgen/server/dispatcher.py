"""Which job, when, on which slot; and what becomes of it.

A slot takes the job whose turn it is, has it drawn, stores the picture and writes the end into the
ledger, in this order. Whatever happens in between, the lease brings the job back.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from umrgen.jobs import Change, Conflict, Job, Output
from umrgen.server.clock import Clock
from umrgen.server.engines import DrawRequest, EngineFailure
from umrgen.server.executors import EngineCrashed, Executor, Picture
from umrgen.server.ledger import Ledger
from umrgen.server.storage import Storage

__all__ = ["Dispatcher", "Policy"]

log = logging.getLogger(__name__)

PROGRESS_INTERVAL = 0.25
"""Seconds between two writes of a job's progress: a few a second are enough to watch."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers of the dispatcher; seconds, and counts."""

    lease: float = 30.0
    max_attempts: int = 3
    max_interruptions: int = 20


class Dispatcher:
    """Keeps every slot of the executor busy while there is work."""

    def __init__(
        self, ledger: Ledger, executor: Executor, storage: Storage, clock: Clock, policy: Policy | None = None
    ) -> None:
        self._ledger = ledger
        self._executor = executor
        self._storage = storage
        self._clock = clock
        self._policy = policy or Policy()
        self._worker = f"worker_{secrets.token_hex(8)}"
        self._work = asyncio.Event()
        self._stopping = asyncio.Event()
        self._running: dict[str, asyncio.Task[Picture]] = {}
        self._slots: list[asyncio.Task[None]] = []
        self._keeper: asyncio.Task[None] | None = None

    # --- life ---

    async def recover(self) -> None:
        """Put back what a server that died was running. Only for a ledger that nobody else serves."""
        far_future = self._clock.now() + 10 * 365 * 86_400_000
        for job in await self._ledger.lapsed(now=far_future):
            await self._put_back_interrupted(job)

    def start(self) -> None:
        self._slots = [asyncio.create_task(self._serve_slot()) for _ in range(self._executor.slots)]
        self._keeper = asyncio.create_task(self._keep_leases())

    async def drain(self, limit: float) -> None:
        """Take no more jobs; let the running ones finish within `limit` seconds, put back the rest."""
        self._stopping.set()
        self._work.set()
        if self._slots:
            await asyncio.wait(self._slots, timeout=limit)
        for task in [*self._slots, *([self._keeper] if self._keeper else [])]:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def notify(self, jobs: Sequence[Job]) -> None:
        """Hear what the ledger committed: new work, or the end of a job that is being drawn."""
        for job in jobs:
            if job.over and (drawing := self._running.get(job.id)):
                drawing.cancel()
        self._work.set()

    # --- one slot ---

    async def _serve_slot(self) -> None:
        while not self._stopping.is_set():
            self._work.clear()
            try:
                if job := await self._claim():
                    await self._carry_out(job)
                else:
                    await self._work.wait()
            except Exception:
                # The ledger cannot be written: a full disk, a locked file. Jobs wait in it until it
                # can; one that was running comes back when its lease has lapsed.
                log.exception("the ledger could not be written")
                await self._clock.sleep(1.0)

    async def _claim(self) -> Job | None:
        now = self._clock.now()
        return await self._ledger.claim(self._worker, now=now, lease_until=self._lease_until())

    def _lease_until(self) -> int:
        return self._clock.now() + int(self._policy.lease * 1000)

    async def _carry_out(self, job: Job) -> None:
        log.info("job %s: attempt %d", job.id, job.attempt)
        try:
            picture = await self._draw(job)
            await self._finish(job, picture)
        except Conflict:
            log.info("job %s: is no longer ours", job.id)
        except EngineFailure as failure:
            await self._fail(job, "engine_failed", str(failure))
        except EngineCrashed as crash:
            await self._try_again(job, "engine_crashed", f"the engine crashed: {crash}")
        except OSError:
            log.exception("job %s: its image could not be stored", job.id)
            await self._try_again(job, "storage_failed", "the image could not be stored")
        except asyncio.CancelledError:
            await asyncio.shield(self._put_back_interrupted(job))
            raise

    async def _draw(self, job: Job) -> Picture:
        """The picture, with progress and signs of life written to the ledger meanwhile.

        Raises Conflict when the job was ended from outside (cancelled, or taken by another worker).
        """
        progress = _Progress()
        drawing = asyncio.create_task(self._executor.run(job.id, _request_of(job), progress.report))
        self._running[job.id] = drawing
        telling = asyncio.create_task(self._tell_progress(job, progress))
        try:
            return await drawing
        except asyncio.CancelledError:
            if self._ended_from_outside(drawing):
                raise Conflict(job_id=job.id) from None
            drawing.cancel()
            with suppress(asyncio.CancelledError):
                await drawing
            raise
        finally:
            del self._running[job.id]
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling

    @staticmethod
    def _ended_from_outside(drawing: asyncio.Task[Picture]) -> bool:
        current = asyncio.current_task()
        return drawing.cancelled() and current is not None and not current.cancelling()

    async def _tell_progress(self, job: Job, progress: "_Progress") -> None:
        """Write each new step, at most every PROGRESS_INTERVAL, and renew the lease in any case."""
        while True:
            await progress.news(within=self._policy.lease / 3)
            try:
                await self._ledger.change(
                    job.id,
                    Change.PROGRESS,
                    now=self._clock.now(),
                    token=job.token,
                    step=progress.step,
                    lease_until=self._lease_until(),
                )
            except Conflict:
                self._running[job.id].cancel()
                return
            except Exception:
                log.exception("job %s: its progress could not be written", job.id)
            await self._clock.sleep(PROGRESS_INTERVAL)

    async def _finish(self, job: Job, picture: Picture) -> None:
        output = Output(
            name=f"umrgen_{job.spec.seed}_{secrets.token_hex(16)}.png",
            session_id=job.session_id,
            bytes=len(picture.data),
            sha256=(await asyncio.to_thread(hashlib.sha256, picture.data)).hexdigest(),
            width=picture.width,
            height=picture.height,
            media_type=picture.media_type,
        )
        await self._storage.put(output.session_id, output.name, picture.data)
        try:
            await self._ledger.change(
                job.id,
                Change.COMPLETE,
                now=self._clock.now(),
                token=job.token,
                outputs=(output,),
                step=job.spec.steps,
            )
        except Conflict:
            await self._storage.delete(output.session_id, output.name)
            raise
        log.info("job %s: completed, %d bytes", job.id, output.bytes)

    # --- the ends that are not completed ---

    async def _fail(self, job: Job, code: str, error: str) -> None:
        log.warning("job %s: %s: %s", job.id, code, error)
        with suppress(Conflict):
            await self._ledger.change(
                job.id, Change.FAIL, now=self._clock.now(), token=job.token, error=error, error_code=code
            )

    async def _try_again(self, job: Job, code: str, what: str) -> None:
        """Back into the queue, or failed when that was its last attempt."""
        attempts = job.attempt - job.interruptions
        if attempts >= self._policy.max_attempts:
            await self._fail(job, code, f"{what} (in attempt {attempts}, the last)")
        else:
            await self._release(job, what, job.interruptions)

    async def _put_back_interrupted(self, job: Job) -> None:
        """Back into the queue: the server itself was stopped, which is not held against the job."""
        what, interruptions = "the server was stopped while it ran", job.interruptions + 1
        if interruptions > self._policy.max_interruptions:
            await self._fail(job, "interrupted", f"{what}, {interruptions} times")
        else:
            await self._release(job, what, interruptions)

    async def _release(self, job: Job, what: str, interruptions: int) -> None:
        log.warning("job %s: %s; it is queued again", job.id, what)
        with suppress(Conflict):
            await self._ledger.change(
                job.id, Change.RELEASE, now=self._clock.now(), token=job.token, interruptions=interruptions
            )

    async def _keep_leases(self) -> None:
        """Take back jobs whose worker has fallen silent."""
        while True:
            await self._clock.sleep(self._policy.lease / 3)
            try:
                for job in await self._ledger.lapsed(now=self._clock.now()):
                    await self._try_again(job, "engine_crashed", "its worker fell silent")
            except Exception:
                log.exception("the leases could not be looked through")


class _Progress:
    """The last step an engine reported; whoever writes it down may skip some."""

    def __init__(self) -> None:
        self.step = 0
        self._news = asyncio.Event()

    def report(self, step: int, total: int) -> None:
        self.step = step
        self._news.set()

    async def news(self, *, within: float) -> None:
        """Return at the next step, or after `within` seconds without one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._news.wait()
        self._news.clear()


def _request_of(job: Job) -> DrawRequest:
    spec = job.spec
    return DrawRequest(
        prompt=spec.prompt,
        negative=spec.negative,
        width=spec.width,
        height=spec.height,
        steps=spec.steps,
        seed=spec.seed,
        loras=tuple((lora.name, lora.strength) for lora in spec.loras),
    )
