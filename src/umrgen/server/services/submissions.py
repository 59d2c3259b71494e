"""Submission of jobs: checks whether a request is allowed, and makes it a durable job."""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass

import msgspec

from umrgen.clock import Clock
from umrgen.server.domain.job import Job
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.executors.routing import EngineRouter, Route
from umrgen.server.ledger import (
    Call,
    CallStore,
    DailyLimit,
    Idempotency,
    IdempotencyConflict,
    JobStore,
    LedgerUnavailable,
    QueueFull,
    TooManyJobs,
)
from umrgen.server.services.admission import Admission
from umrgen.server.services.call_references import HeldReferences
from umrgen.server.services.caller import Caller
from umrgen.server.services.content_policy import PolicyFailed, PromptPolicy
from umrgen.server.services.limits import RateLimits
from umrgen.server.services.refusal import FieldError, Quota, Refusal, invalid
from umrgen.server.services.uploads import Uploads
from umrgen.server.webhooks.address_policy import Allow, check_url

__all__ = ["Idempotency", "Submissions", "Submitted"]

log = logging.getLogger(__name__)

DAY_SECONDS = 86_400
HOLD_SECONDS = 60.0
"""For how long a call holds its jobs without renewing: other servers see after this time that its server is gone."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job of a submission; not `new` when an earlier submission with the same idempotency key made it."""

    job: Job
    new: bool


@dataclass(slots=True)
class Submissions:
    """Accepts jobs, for all transports. Every rule about submissions is here."""

    jobs: JobStore
    calls: CallStore
    worker: str
    """The id of this server, for the calls that it holds."""
    clock: Clock
    admission: Admission
    router: EngineRouter
    uploads: Uploads
    limits: RateLimits
    policy: PromptPolicy | None
    webhooks_allowed: Allow
    log_prompts: bool = False
    on_accepted: Callable[[str], None] = lambda key_id: None
    """Called with the key's id for each new job."""

    def apply(self, policy: PromptPolicy | None, *, log_prompts: bool) -> None:
        """Use this policy, and this choice, for the requests that arrive from now on."""
        self.policy, self.log_prompts = policy, log_prompts

    async def submit(
        self,
        caller: Caller,
        request: GenerationRequest,
        idempotency: Idempotency | None = None,
        call: Call | None = None,
    ) -> Submitted:
        """Create a job, which is durable when this returns. Raises Refusal and LedgerUnavailable.

        An equal request with the same idempotency key returns the earlier job, without checking the rules again.
        """
        try:
            if idempotency is not None:
                earlier = await self.jobs.earlier(caller.session_id, idempotency, now=self.clock.now())
                if earlier is not None:
                    return Submitted(earlier, new=False)
            route = self.router.route(request)
            await self._check(caller, route)
            return await self._write(caller, route, idempotency, call)
        except IdempotencyConflict as conflict:
            raise Refusal("idempotency_conflict", job_id=conflict.job_id) from None

    # --- calls that last until the image is there ---

    async def recover(self) -> None:
        """Release the jobs of calls that this server was answering when it ended."""
        await self.calls.release_all(self.worker, now=self.clock.now())

    @asynccontextmanager
    async def attend(
        self, caller: Caller, requests: Sequence[GenerationRequest], references: HeldReferences | None = None
    ) -> AsyncIterator[list[Job]]:
        """Provide the jobs of a call that lasts until they are over; the response is to be sent inside the context.

        A call that ends with an exception or a cancellation leaves its jobs unclaimed: for ten minutes, the same
        caller's call with an equal request takes them instead of creating others. Raises Refusal, LedgerUnavailable.
        `references`: images that arrived in this call; they are deleted after the last call or job that needs them.
        """
        async with references or nullcontext(), self._attend(caller, requests) as jobs:
            if references is not None:
                references.needed_by(jobs)
            yield jobs

    @asynccontextmanager
    async def _attend(self, caller: Caller, requests: Sequence[GenerationRequest]) -> AsyncIterator[list[Job]]:
        call_id = secrets.token_hex(16)
        try:
            jobs = [await self._take_or_submit(caller, request, call_id) for request in requests]
            renewing = asyncio.create_task(self._renew(call_id))
            try:
                yield jobs
            finally:
                renewing.cancel()
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._release(call_id)))
            raise
        with suppress(LedgerUnavailable):  # then the next equal call gets this image again
            await self.calls.remove(call_id)

    async def _take_or_submit(self, caller: Caller, request: GenerationRequest, call_id: str) -> Job:
        digest = hashlib.sha256(caller.key.id.encode() + b"\0" + msgspec.json.encode(request)).digest()
        call = Call(call_id, digest, self.worker, self._hold_until())
        job_id = await self.calls.take(caller.session_id, call, now=self.clock.now())
        job = None if job_id is None else await self.jobs.get(job_id)
        return job or (await self.submit(caller, request, call=call)).job

    def _hold_until(self) -> int:
        return self.clock.now() + int(HOLD_SECONDS * 1000)

    async def _renew(self, call_id: str) -> None:
        while True:
            await self.clock.sleep(HOLD_SECONDS / 3)
            try:
                await self.calls.hold(call_id, until=self._hold_until())
            except LedgerUnavailable:
                log.warning("the hold of a call on its jobs could not be renewed; it is tried again")

    async def _release(self, call_id: str) -> None:
        try:
            await self.calls.hold(call_id, until=self.clock.now())
        except LedgerUnavailable:
            log.warning("the jobs of a call that was cut off are released when its hold ends")

    # --- the rules ---

    async def _check(self, caller: Caller, route: Route) -> None:
        request, errors = route.request, [FieldError(*error) for error in route.errors]
        missing = await self.uploads.missing(caller, request.reference_images)
        if missing:
            errors.append(FieldError("reference_images", f"{missing[0][:60]!r} is not an uploaded reference image"))
        if request.webhook_url is not None and (reason := check_url(request.webhook_url, self.webhooks_allowed)):
            errors.append(FieldError("webhook_url", reason))
        if errors:
            raise invalid(errors)
        await self._check_policy(caller, request.prompt)
        await self.admission.check_job()

    async def _check_policy(self, caller: Caller, prompt: str) -> None:
        if self.policy is None:
            return
        try:
            reason = await self.policy.refusal(prompt)
        except PolicyFailed:
            raise Refusal("internal", "the server's content policy failed") from None
        if reason is not None:
            log.info("the content policy refused a prompt", extra={"key_id": caller.key.id})
            raise Refusal("content_policy", reason, field="prompt")

    async def _write(
        self, caller: Caller, route: Route, idempotency: Idempotency | None, call: Call | None
    ) -> Submitted:
        request = route.request
        caps, now = self.limits.caps(caller.key), self.clock.now()
        try:
            job, new = await self.jobs.submit(
                f"ext_{secrets.token_hex(16)}",
                caller.session_id,
                request.with_seed(),
                route.engine,
                now=now,
                priority=request.priority,
                idempotency=idempotency,
                caps=caps,
                key_id=caller.key.id,
                call=call,
            )
        except TooManyJobs as full:
            detail = f"{caps.active} jobs of this key are queued or running, its limit"
            quota = Quota("concurrent", caps.active)
            raise Refusal("concurrent_limit", detail, quota=quota, job_id=full.job_id) from None
        except QueueFull:
            detail = f"{caps.queued} jobs of this session are queued, its limit"
            raise Refusal("queue_full", detail, quota=Quota("queued", caps.queued)) from None
        except DailyLimit as limit:
            seconds = (limit.until - now) // 1000 + 1
            detail = f"this key may submit {caps.daily} jobs a day"
            quota = Quota("day", caps.daily, DAY_SECONDS, seconds)
            raise Refusal("rate_limited", detail, quota=quota, retry_after=seconds) from None
        if new:
            self.on_accepted(caller.key.id)
        if new and self.log_prompts:
            log.info("job %s: accepted", job.id, extra={"key_id": caller.key.id, "prompt": request.prompt})
        return Submitted(job, new)
