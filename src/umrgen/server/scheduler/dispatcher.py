"""The dispatcher: which job runs when.

It waits for an idle engine, claims the next jobs, and starts an attempt at each of them.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence

from umrgen.model import State
from umrgen.server.domain.job import Change, Conflict, Job
from umrgen.server.domain.request import batch_key
from umrgen.server.executors import JobBatch
from umrgen.server.ledger import ClaimFilter, LedgerUnavailable
from umrgen.server.running_time import slept_on_time
from umrgen.server.scheduler.attempt import Attempt, AttemptContext
from umrgen.server.tasks import cancel_once

__all__ = ["Dispatcher"]

log = logging.getLogger(__name__)

AFTER_FAILURE = 1.0
"""Seconds until the dispatcher tries again after a failure."""


class Dispatcher:
    """Runs as many jobs as the executor has capacity for."""

    def __init__(self, attempt_context: AttemptContext, worker: str) -> None:
        """`worker`: the id under which this server leases jobs, the same after a restart."""
        self._context = attempt_context
        self._worker = worker
        self._wake = asyncio.Event()
        self._stopping = False
        self._stop_now = asyncio.Event()
        self._waiting = False
        """Whether the dispatcher waits, so that it may be cancelled."""
        self._claiming = False
        """Whether a claim is in flight: it may have leased jobs that are not in `_running` yet."""
        self._running: dict[str, Attempt] = {}
        self._batches: set[JobBatch] = set()
        """The batches whose drawing has not ended."""
        self._attempts: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        attempt_context.executor.watch(self._wake.set)

    @property
    def running(self) -> Collection[str]:
        """The ids of the jobs that run here."""
        return self._running.keys()

    # --- start and stop ---

    async def recover(self) -> None:
        """Requeue the jobs that this server was running when it ended, and those whose lease has ended."""
        for job in await self._context.jobs.expired_leases(now=self._context.clock.now(), worker=self._worker):
            attempt = Attempt(job, self._context)
            await (attempt.interrupted() if job.worker == self._worker else attempt.lease_expired())

    async def requeue_left(self) -> None:
        """Requeue the jobs that this server has leased, after `drain`. Raises LedgerUnavailable.

        A claim, or an attempt before its first step, may have been cancelled from outside.
        """
        for job in await self._context.jobs.expired_leases(now=self._context.clock.now(), worker=self._worker):
            if job.worker == self._worker:
                await Attempt(job, self._context).interrupted()

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._dispatch()), asyncio.create_task(self._check_leases())]

    async def drain(self, limit: float) -> None:
        """Stop claiming jobs; let the running ones finish within `limit` seconds, and requeue the rest."""
        self._stopping = True
        dispatching, checking = self._tasks or (None, None)
        if self._waiting and dispatching is not None:
            dispatching.cancel()
        stop_now = asyncio.create_task(self._stop_now.wait())
        finished = asyncio.create_task(self._finish())
        await asyncio.wait({finished, stop_now}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        await self._requeue_running()
        if checking is not None:
            checking.cancel()
        await asyncio.wait({finished, stop_now}, return_when=asyncio.FIRST_COMPLETED)
        if self._stop_now.is_set():
            await self._context.executor.stop()
        stop_now.cancel()
        await asyncio.gather(finished, stop_now, *self._tasks, return_exceptions=True)

    async def _finish(self) -> None:
        """Wait until no claim and no attempt is left."""
        await asyncio.gather(*self._tasks[:1], return_exceptions=True)
        while self._attempts:
            await asyncio.wait(self._attempts)

    async def _requeue_running(self) -> None:
        """Cancel the running attempts, which requeues their jobs."""
        await asyncio.sleep(0)  # a task that is cancelled before its first step runs nothing, not even the requeuing
        if self._running:
            log.info("requeuing %d running jobs", len(self._running))
        cancel_once(self._attempts)
        await asyncio.sleep(0)  # each attempt sees its cancellation first, so the end of its engine is no crash

    def stop_now(self) -> None:
        """Let `drain` return without waiting any longer."""
        self._stop_now.set()

    def notify(self, jobs: Sequence[Job]) -> None:
        """Observe a commit: new jobs, or the end of a job that runs here."""
        for job in jobs:
            if job.over and (attempt := self._running.get(job.id)):
                attempt.end()
            if job.state is not State.RUNNING:  # a step of a running job makes no other job claimable
                self._wake.set()

    # --- dispatching ---

    async def _dispatch(self) -> None:
        while not self._stopping:
            try:
                for jobs in await self._claim():
                    self._start_batch(jobs)
            except LedgerUnavailable as error:
                log.error("no job can be claimed: %s", error)
                await self._pause(AFTER_FAILURE)
            except Exception:
                # A job that was leased is requeued when its lease ends.
                log.exception("the dispatcher failed")
                await self._pause(AFTER_FAILURE)

    async def _pause(self, seconds: float) -> None:
        self._waiting = True
        await self._context.clock.sleep(seconds)

    async def _claim(self) -> list[list[Job]]:
        """Wait for capacity, and lease the next jobs, by batches; without jobs, wait until there may be some."""
        self._waiting = True
        self._wake.clear()
        if not self._context.executor.loaded and not (await self._context.jobs.count()).queued:
            await self._wake.wait()
            return []
        await self._context.executor.ready()
        self._wake.clear()
        jobs: list[Job] = []
        free = self._context.executor.capacity - len(self._batches)
        if free > 0:
            self._waiting, self._claiming = False, True  # cancelling a claim would leave leases without an attempt
            try:
                jobs = await self._lease(free)
            finally:
                self._claiming = False
        if not jobs and not self._stopping:
            self._waiting = True
            await self._wake.wait()
        return [jobs[first::free] for first in range(min(free, len(jobs)))]

    async def _lease(self, devices: int) -> list[Job]:
        """Lease the jobs that so many devices can draw at a time. Raises LedgerUnavailable."""
        info, engine = self._context.executor.info, self._context.policy.engine
        most = info.max_batch if info else 1
        return await self._context.jobs.claim(
            self._worker,
            now=self._context.clock.now(),
            lease_until=self._context.lease_until(),
            limit=devices * most,
            batch_key=batch_key if most > 1 else None,
            running_cap=self._context.policy.running_cap,
            only=ClaimFilter(engine, info.models if info else ()) if engine else None,
        )

    def _start_batch(self, jobs: list[Job]) -> None:
        batch = JobBatch(job.id for job in jobs)
        self._batches.add(batch)
        batch.on_release(lambda: self._release(batch))
        for job in jobs:
            self._start_attempt(job, batch)

    def _release(self, batch: JobBatch) -> None:
        """Claim for its device again: the drawing of the batch has ended."""
        self._batches.discard(batch)
        self._wake.set()

    def _start_attempt(self, job: Job, batch: JobBatch) -> None:
        attempt = self._running[job.id] = Attempt(job, self._context, batch)
        task = asyncio.create_task(self._attempt(attempt, batch))
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)

    async def _attempt(self, attempt: Attempt, batch: JobBatch) -> None:
        job_id = attempt.job.id
        try:
            # The job may have been cancelled in the same commit that leased it.
            now = self._context.jobs.peek(job_id)
            if now is None or not now.over:
                await attempt.run()
        except LedgerUnavailable as error:
            log.error("job %s: %s", job_id, error)
        except Exception:
            log.exception("job %s: the attempt failed", job_id)
        finally:
            if self._running.get(job_id) is attempt:
                del self._running[job_id]
            batch.withdraw(job_id)

    # --- leases ---

    async def _check_leases(self) -> None:
        """Requeue jobs whose lease has ended.

        After a standstill of this server, or a jump of its clock, other workers have the time of one lease to renew
        theirs: they may have been stopped on the same machine, or run by the right time.
        """
        context, lease = self._context, self._context.policy.lease
        patient_until = 0.0
        while True:
            if not await slept_on_time(context.clock, lease / 3):
                patient_until = context.clock.monotonic() + lease
                log.warning(
                    "this server did not run for some time, or its clock was set: it takes no job of another worker "
                    "for %g s",
                    lease,
                )
            try:
                for job in await context.jobs.expired_leases(now=context.clock.now()):
                    if job.worker == self._worker or context.clock.monotonic() >= patient_until:
                        await self._check_lease(job)
            except LedgerUnavailable as error:
                log.warning("the leases cannot be checked yet: %s", error)
            except Exception:
                log.exception("the leases could not be checked")

    async def _check_lease(self, job: Job) -> None:
        attempt = self._running.get(job.id)
        if attempt is None and job.worker == self._worker and self._claiming:
            return  # the claim in flight may have leased it
        if attempt is None or attempt.job.token != job.token:
            await Attempt(job, self._context).lease_expired()
            return
        # It runs here: its lease ended because the clock was set forward.
        try:
            await self._context.jobs.change(
                job.id,
                Change.PROGRESS,
                now=self._context.clock.now(),
                token=job.token,
                lease_until=self._context.lease_until(),
            )
        except Conflict:
            log.info("job %s: ended while its lease was renewed", job.id)
