"""Which job, when, on which slot.

A slot waits for an engine, takes the job whose turn it is, and carries out an attempt at it.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from umrgen.server.domain.job import Change, Conflict, Job
from umrgen.server.ledger import LedgerUnavailable
from umrgen.server.scheduler.attempt import Attempt, AttemptContext

__all__ = ["Dispatcher"]

log = logging.getLogger(__name__)

AFTER_TROUBLE = 1.0
"""Seconds until a slot that could not do its work tries again."""


class Dispatcher:
    """Keeps every slot of the executor busy while there is work."""

    def __init__(self, attempt_context: AttemptContext, worker: str) -> None:
        """`worker`: the id under which this server leases jobs, the same after a restart."""
        self._context = attempt_context
        self._worker = worker
        self._work = asyncio.Event()
        self._stopping = False
        self._stop_now = asyncio.Event()
        self._claiming = 0
        """Claims under way: what they lease is ours before we know of it."""
        self._running: dict[str, Attempt] = {}
        self._waiting: set[asyncio.Task[None]] = set()
        """The slots that hold no job."""
        self._slots: list[asyncio.Task[None]] = []
        self._keeper: asyncio.Task[None] | None = None

    # --- life ---

    async def recover(self) -> None:
        """Requeue the jobs that this server was running when it ended, and those whose lease has ended."""
        for job in await self._context.jobs.expired_leases(now=self._context.clock.now(), worker=self._worker):
            attempt = Attempt(job, self._context)
            await (attempt.interrupted() if job.worker == self._worker else attempt.lease_expired())

    def start(self) -> None:
        self._slots = [asyncio.create_task(self._serve_slot()) for _ in range(self._context.executor.slots)]
        self._keeper = asyncio.create_task(self._keep_leases())

    async def drain(self, limit: float) -> None:
        """Take no more jobs; let the running ones finish within `limit` seconds, put back the rest."""
        self._stopping = True
        for slot in self._waiting:
            slot.cancel()
        stop_now = asyncio.create_task(self._stop_now.wait())
        slots = asyncio.gather(*self._slots, return_exceptions=True)
        either: set[asyncio.Future[Any]] = {slots, stop_now}
        await asyncio.wait(either, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        await self._give_back(either)
        if self._stop_now.is_set():
            await self._context.executor.stop()
        stop_now.cancel()
        await asyncio.gather(slots, stop_now, *self._keepers(), return_exceptions=True)

    def _keepers(self) -> "list[asyncio.Task[None]]":
        return [] if self._keeper is None else [self._keeper]

    async def _give_back(self, either: "set[asyncio.Future[Any]]") -> None:
        """Break off what still runs, which puts its job back; until that is done, or there is no time for it."""
        if self._running:
            count = len(self._running)
            log.info("%d job%s back into the queue", count, " is to go" if count == 1 else "s are to go")
        for task in (*self._slots, *self._keepers()):
            task.cancel()
        await asyncio.sleep(0)  # each slot has heard that it is cancelled, so an engine's end is no crash
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)

    def stop_now(self) -> None:
        """Let `drain` wait for nobody any longer."""
        self._stop_now.set()

    def notify(self, jobs: Sequence[Job]) -> None:
        """Hear what the ledger committed: new work, or the end of a job that is being drawn."""
        for job in jobs:
            if job.over and (attempt := self._running.get(job.id)):
                attempt.end()
        self._work.set()

    # --- one slot ---

    async def _serve_slot(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        while not self._stopping:
            self._waiting.add(me)
            try:
                job = await self._next_job(me)
                if job is not None:
                    await self._attempt(job)
            except LedgerUnavailable as error:
                # Jobs wait in it until it can be written again.
                log.error("no job can be taken: %s", error)
                await self._context.clock.sleep(AFTER_TROUBLE)
            except Exception:
                # The job, if there was one, comes back when its lease has lapsed.
                log.exception("a slot failed")
                await self._context.clock.sleep(AFTER_TROUBLE)

    async def _next_job(self, slot: "asyncio.Task[None]") -> Job | None:
        """The next job, leased; None when there was none and now there may be one."""
        await self._context.executor.ready()
        self._work.clear()
        self._waiting.discard(slot)  # a claim is not broken off: it would leave a lease that nobody holds
        self._claiming += 1
        try:
            job = await self._context.jobs.claim(
                self._worker,
                now=self._context.clock.now(),
                lease_until=self._context.lease_until(),
                running_cap=self._context.policy.running_cap,
            )
        finally:
            self._claiming -= 1
        if job is not None:
            self._work.set()  # there may be more than one new job, and more than one slot waiting for it
        elif not self._stopping:
            self._waiting.add(slot)
            await self._work.wait()
        return job

    async def _attempt(self, job: Job) -> None:
        attempt = self._running[job.id] = Attempt(job, self._context)
        try:
            # It may have been cancelled in the same commit that leased it.
            now = self._context.jobs.peek(job.id)
            if now is None or not now.over:
                await attempt.carry_out()
        finally:
            if self._running.get(job.id) is attempt:
                del self._running[job.id]
            self._work.set()  # a session at its cap may run one more

    # --- leases ---

    async def _keep_leases(self) -> None:
        """Take back jobs whose worker has fallen silent."""
        context = self._context
        while True:
            await context.clock.sleep(context.policy.lease / 3)
            try:
                for job in await context.jobs.expired_leases(now=context.clock.now()):
                    await self._look_after(job)
            except Exception:
                log.exception("the leases could not be looked through")

    async def _look_after(self, job: Job) -> None:
        attempt = self._running.get(job.id)
        if attempt is None and job.worker == self._worker and self._claiming:
            return  # it may have been leased this very moment
        if attempt is None or attempt.job.token != job.token:
            await Attempt(job, self._context).lease_expired()
            return
        # It is drawn here and now: not the worker has stopped, but the clock was put forward.
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
