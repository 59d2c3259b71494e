"""Submission of jobs: checks whether a request is allowed, and makes it a durable job."""

import logging
import secrets
from dataclasses import dataclass

from umrgen.clock import Clock
from umrgen.server.domain.job import Job
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.executors import Executor
from umrgen.server.ledger import DailyLimit, Idempotency, IdempotencyConflict, JobStore, QueueFull, TooManyJobs
from umrgen.server.services.admission import Admission
from umrgen.server.services.caller import Caller
from umrgen.server.services.content_policy import PolicyFailed, PromptPolicy
from umrgen.server.services.limits import RateLimits
from umrgen.server.services.refusal import FieldError, Quota, Refusal, invalid
from umrgen.server.services.uploads import Uploads
from umrgen.server.webhooks.address_policy import Allow, check_url

__all__ = ["Idempotency", "Submissions", "Submitted"]

log = logging.getLogger(__name__)

DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job of a submission; not `new` when an earlier submission with the same idempotency key made it."""

    job: Job
    new: bool


@dataclass(frozen=True, slots=True)
class Submissions:
    """Accepts jobs, for all transports. Every rule about submissions is here."""

    jobs: JobStore
    clock: Clock
    admission: Admission
    executor: Executor
    uploads: Uploads
    limits: RateLimits
    policy: PromptPolicy | None
    webhooks_allowed: Allow
    engine: str
    """The name of the engine, for the job's record."""
    log_prompts: bool = False

    async def submit(
        self, caller: Caller, request: GenerationRequest, idempotency: Idempotency | None = None
    ) -> Submitted:
        """Create a job, which is durable when this returns. Raises Refusal and LedgerUnavailable.

        An equal request with the same idempotency key returns the earlier job, without checking the rules again.
        """
        try:
            if idempotency is not None:
                earlier = await self.jobs.earlier(caller.session_id, idempotency, now=self.clock.now())
                if earlier is not None:
                    return Submitted(earlier, new=False)
            await self._check(caller, request)
            return await self._write(caller, request, idempotency)
        except IdempotencyConflict as conflict:
            raise Refusal("idempotency_conflict", job_id=conflict.job_id) from None

    async def _check(self, caller: Caller, request: GenerationRequest) -> None:
        errors = _unsupported(self.executor, request)
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

    async def _write(self, caller: Caller, request: GenerationRequest, idempotency: Idempotency | None) -> Submitted:
        caps, now = self.limits.caps(caller.key), self.clock.now()
        try:
            job, new = await self.jobs.submit(
                f"ext_{secrets.token_hex(16)}",
                caller.session_id,
                request.with_seed(),
                self.engine,
                now=now,
                priority=request.priority,
                idempotency=idempotency,
                caps=caps,
                key_id=caller.key.id,
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
        if new and self.log_prompts:
            log.info("job %s: accepted", job.id, extra={"key_id": caller.key.id, "prompt": request.prompt})
        return Submitted(job, new)


def _unsupported(executor: Executor, request: GenerationRequest) -> list[FieldError]:
    """Return the parameters that the engine does not support exactly: the server rounds and drops no value."""
    info = executor.info
    if info is None:
        return [FieldError("loras", "this engine does not support LoRAs")] if request.loras else []
    errors = []
    for field, side in (("width", request.width), ("height", request.height)):
        if side % info.size_multiple:
            errors.append(FieldError(field, f"must be a multiple of {info.size_multiple} with this engine; got {side}"))
        if not info.min_side <= side <= info.max_side:
            errors.append(FieldError(field, f"must be {info.min_side} to {info.max_side} with this engine; got {side}"))
    if request.steps > info.max_steps:
        errors.append(FieldError("steps", f"must be {info.max_steps} or less with this engine; got {request.steps}"))
    if request.loras and "loras" not in info.features:
        errors.append(FieldError("loras", "this engine does not support LoRAs"))
    elif info.loras and (unknown := [lora.name for lora in request.loras if lora.name not in info.loras]):
        errors.append(FieldError("loras", f"this engine has no LoRA {unknown[0]!r}"))
    if request.reference_images and "references" not in info.features:
        errors.append(FieldError("reference_images", "this engine does not support reference images"))
    return errors
