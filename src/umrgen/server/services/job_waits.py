"""Reading jobs and waiting for changes: one mechanism under long polls, batches and event streams.

A disconnect of the caller cancels the task that waits here, and has no other effect.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass

from umrgen.model import State
from umrgen.server.domain.job import Job
from umrgen.server.ledger import ALL_JOBS, JobFilter, JobStore, Webhook, WebhookStore
from umrgen.server.scheduler.eta import Estimates
from umrgen.server.scheduler.previews import Previews
from umrgen.server.services.api_keys import ApiKeys
from umrgen.server.services.caller import Caller
from umrgen.server.services.job_lookup import find_job
from umrgen.server.services.limits import RateLimits
from umrgen.server.services.refusal import Refusal
from umrgen.server.services.subscriptions import Subscription, Subscriptions

__all__ = ["MAX_JOBS", "SLICE", "JobChanges", "JobEvent", "JobListing", "JobView", "JobWaits"]

MAX_JOBS = 1000
"""Jobs that one call may name."""
SLICE = 50
"""Jobs that are read in one iteration of the event loop: a few milliseconds. Other calls run in between."""
JOBS_A_REQUEST = 50
"""A response with more jobs is charged as a further request for each of these."""
KEEP_ALIVE = 15.0
"""Seconds without an event after which a stream sends a comment: below the idle timeouts of proxies."""


@dataclass(frozen=True, slots=True)
class JobView:
    """The present state of a job: its record, and the values that depend on other jobs."""

    job: Job
    position: int | None
    """The queue position, from 1; None when the job is not queued."""
    eta: float | None
    """Seconds until its end; None when there is no estimate, or it is over."""

    @property
    def version(self) -> str:
        """A string that changes with every part of the view except the estimate."""
        favorite = ".favorite" if self.job.favorite else ""
        return f"{self.job.state.value}.{self.job.attempt}.{self.job.step}.{self.position or 0}{favorite}"

    def is_known(self, versions: Collection[str]) -> bool:
        """Return whether this version is among `versions`; `*` matches any."""
        return self.version in versions or "*" in versions

    @property
    def stage(self) -> tuple[State, int, int | None]:
        """State, attempt and position: a change of these is a `status` event, of the step alone a `progress` event."""
        return (self.job.state, self.job.attempt, self.position)


@dataclass(frozen=True, slots=True)
class JobListing:
    """A job in a list, and the webhook that reports its end, if it has one."""

    view: JobView
    webhook: Webhook | None


@dataclass(frozen=True, slots=True)
class JobChanges:
    """The jobs that changed since a cursor, and the cursor for the next call."""

    jobs: list[Job]
    unknown: list[str]
    """Ids that are not jobs of the caller."""
    cursor: int


@dataclass(frozen=True, slots=True)
class JobEvent:
    """An event of a job's stream: `status`, `progress`, `preview` (a JPEG), `keep_alive`, or `stopping`."""

    kind: str
    view: JobView
    preview: bytes | None = None


class JobWaits:
    """Reads jobs and waits for changes, for all transports."""

    def __init__(
        self,
        jobs: JobStore,
        estimates: Estimates,
        subscriptions: Subscriptions,
        keys: ApiKeys,
        limits: RateLimits,
        previews: Previews,
        webhooks: WebhookStore,
        longest_wait: float,
    ) -> None:
        """`longest_wait`: the longest time, in seconds, that a call may wait for a change."""
        self._jobs = jobs
        self._webhooks = webhooks
        self._longest_wait = longest_wait
        self._estimates = estimates
        self._subscriptions = subscriptions
        self._keys = keys
        self._limits = limits
        self._previews = previews
        self._slices = asyncio.Lock()
        """Held while a slice of a call about many jobs is read, so that calls about one job run in between."""
        self._searches = asyncio.Lock()
        """Held while a list without an index is read, on another thread, one at a time: no other call waits for it."""

    def allowed_wait(self, caller: Caller, seconds: int | None) -> int | None:
        """Return how long a call that prefers to wait `seconds` may wait; None if it does not, or may not, wait.

        A caller with as many waiting calls as its key may have is answered immediately: it polls.
        """
        if seconds is None or (seconds and self._subscriptions.full(caller.key.id)):
            return None
        return min(seconds, int(self._longest_wait))

    def check_stream(self, caller: Caller) -> None:
        """Raise Refusal `rate_limited` if the caller's key has as many waiting calls as it may."""
        if self._subscriptions.full(caller.key.id):
            raise Refusal("rate_limited", f"{self._subscriptions.limit} calls of this key are waiting, its limit")

    # --- one job ---

    async def find(self, caller: Caller, job_id: str) -> Job:
        """Return the caller's job. Raises Refusal `job_not_found`."""
        return await find_job(self._jobs, caller.session_id, job_id)

    async def view(self, job: Job) -> JobView:
        """Return the job with its position and estimate."""
        position = await self._jobs.queue_position(job) if job.state is State.QUEUED else None
        return JobView(job, position, self._estimates.seconds_left(job, position))

    def brief_view(self, job: Job) -> JobView:
        """Return the job without its position, which costs a count; so only a running job has an estimate."""
        eta = self._estimates.seconds_left(job) if job.state is State.RUNNING else None
        return JobView(job, None, eta)

    async def wait(self, caller: Caller, job: Job, *, known: Collection[str] | None, seconds: float) -> Job:
        """Wait until the job is over or differs from the versions `known`, or for `seconds` (see `allowed_wait`)."""
        if self._subscriptions.full(caller.key.id):  # since the call was allowed to wait
            return job
        until = asyncio.get_running_loop().time() + seconds
        with self._subscriptions.subscribe([job.id], owner=caller.key.id, queue=known is not None) as subscription:
            while True:
                job = await self.find(caller, job.id)
                if job.over or (known is not None and not (await self.view(job)).is_known(known)):
                    return job
                if not await subscription.wait(until):
                    return await self.find(caller, job.id)

    async def until_over(self, caller: Caller, job: Job) -> Job:
        """Wait until the job is over. Raises Refusal when the server stops, or the key is revoked, before that."""
        self.check_stream(caller)
        kind = ""
        async with aclosing(self.events(caller, job)) as events:
            async for event in events:
                job, kind = event.view.job, event.kind
        if not job.over:
            raise Refusal("draining" if kind == "stopping" else "unauthorized", job_id=job.id)
        return job

    # --- many jobs ---

    async def changes(self, caller: Caller, job_ids: Sequence[str], *, since: int, seconds: float) -> JobChanges:
        """Return the jobs that changed after the cursor `since` (0: all of them), waiting up to `seconds` for one."""
        known = await self._changed_at(caller, job_ids)
        newest = max(known.values(), default=0)
        if since > newest and since > await self._jobs.last_change():
            since = 0  # the cursor is newer than the ledger: a backup was restored
        if seconds and known and newest <= since and not self._subscriptions.full(caller.key.id):
            await self._wait_for_any(caller, list(known), since, seconds)
            known = await self._changed_at(caller, list(known))
        # The cursor is from before the jobs are read: a change during the read is reported again.
        jobs = await self.read([job_id for job_id, changed in known.items() if changed > since])
        self._charge(caller, len(jobs))
        unknown = [job_id for job_id in job_ids if job_id not in known]
        return JobChanges(jobs, unknown, max([since, *known.values()]))

    async def read(self, job_ids: Sequence[str]) -> list[Job]:
        """Read many jobs, in slices."""
        jobs: list[Job] = []
        for start in range(0, len(job_ids), SLICE):
            async with self._slices:
                jobs += await self._jobs.get_many(job_ids[start : start + SLICE])
                await asyncio.sleep(0)
        return jobs

    async def page(
        self, caller: Caller, *, where: JobFilter = ALL_JOBS, limit: int, before: int | None
    ) -> tuple[list[JobListing], int | None]:
        """Return up to `limit` of the caller's jobs, newest first, and the cursor of the next page."""
        async with self._slices if where.has_index else self._searches:
            jobs, cursor = await self._jobs.page(caller.session_id, where=where, limit=limit, before=before)
            await asyncio.sleep(0)
        self._charge(caller, len(jobs))
        webhooks = await self._webhooks.of_jobs([job.id for job in jobs if job.over and job.request.webhook_url])
        return [JobListing(self.brief_view(job), webhooks.get(job.id)) for job in jobs], cursor

    def _charge(self, caller: Caller, jobs: int) -> None:
        """Count a response about many jobs as several requests of the key."""
        self._limits.charge(caller.key, jobs // JOBS_A_REQUEST)

    async def _changed_at(self, caller: Caller, job_ids: Sequence[str]) -> dict[str, int]:
        """Return the change number of each of the caller's own jobs among `job_ids`."""
        changes = await self._jobs.changes(job_ids)
        return {job_id: number for job_id, (session_id, number) in changes.items() if session_id == caller.session_id}

    async def _wait_for_any(self, caller: Caller, job_ids: list[str], since: int, seconds: float) -> None:
        """Return when one of the jobs has changed, or after `seconds`."""
        until = asyncio.get_running_loop().time() + seconds
        with self._subscriptions.subscribe(job_ids, owner=caller.key.id) as subscription:
            changed = set(job_ids)  # after the first read, only those that were notified
            while changed:
                if any(number > since for number in (await self._changed_at(caller, list(changed))).values()):
                    return
                changed = await subscription.wait(until)

    # --- a stream ---

    async def events(
        self, caller: Caller, job: Job, *, known: str | None = None, previews: bool = False
    ) -> AsyncGenerator[JobEvent, None]:
        """Yield the job's state now, then each change, until it is over, the key is revoked, or the server stops.

        An event reports the present state, not the history, so a caller that has the version `known` missed nothing.
        """
        with (
            self._subscriptions.subscribe([job.id], owner=caller.key.id, queue=True) as subscription,
            self._previews.watch(job.id) if previews else nullcontext(),
        ):
            stage, shown = None, None
            while True:
                view = await self.view(await self.find(caller, job.id))
                if view.version != known:
                    yield JobEvent("progress" if stage == view.stage else "status", view)
                    known = view.version
                stage = view.stage
                preview = self._previews.last(job.id)
                if preview is not None and preview is not shown:
                    shown = preview
                    yield JobEvent("preview", view, preview)
                if view.job.over:
                    return
                async for event in self._next_change(caller, view, subscription):
                    yield event
                if subscription.closed or not await self._keys.is_still_valid(caller.key):
                    return

    async def spaced_previews(self, caller: Caller, job: Job, count: int) -> AsyncGenerator[bytes, None]:
        """Yield up to `count` previews (JPEG) of a job until it is over, spread evenly over its steps."""
        shown = 0
        async with aclosing(self.events(caller, job, previews=True)) as events:
            async for event in events:
                step, steps = event.view.job.step, event.view.job.request.steps
                # The preview may be of the step after the last recorded one.
                is_due = shown < count and (step + 1) * (count + 1) > steps * (shown + 1)
                if event.preview is not None and is_due:
                    shown += 1
                    yield event.preview

    async def _next_change(
        self, caller: Caller, view: JobView, subscription: Subscription
    ) -> AsyncGenerator[JobEvent, None]:
        """Yield `keep_alive` events until there is a change, or the stream must end."""
        loop = asyncio.get_running_loop()
        while not await subscription.wait(loop.time() + KEEP_ALIVE):
            if subscription.closed:
                yield JobEvent("stopping", view)
                return
            if not await self._keys.is_still_valid(caller.key):
                return
            yield JobEvent("keep_alive", view)
