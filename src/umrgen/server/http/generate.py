"""`POST /api/v1/generate`: a request becomes a job, on disk before the answer."""

import hashlib
import logging
import re
import secrets

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from umrgen.jobs import Job
from umrgen.server.http import Services
from umrgen.server.http.answers import FieldError, Receipt, json_response
from umrgen.server.http.bodies import check_disk, read_body
from umrgen.server.http.problems import Problem
from umrgen.server.http.schemas import GenerateRequest, decode_object, invalid_fields, read_generate, short
from umrgen.server.ledger import DailyLimit, Idempotency, IdempotencyConflict, Key, QueueFull, TooManyJobs
from umrgen.server.limits import policy_headers
from umrgen.server.policy import PolicyFailed
from umrgen.server.tracing import span
from umrgen.server.webhooks.addresses import check_url

__all__ = ["generate"]

log = logging.getLogger(__name__)

MAX_BODY = 1 << 20
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def generate(services: Services, request: Request, key: Key) -> Response:
    with span("POST /api/v1/generate", headers=request.headers) as current:
        data = decode_object(await read_body(request, MAX_BODY))
        wanted, warnings = read_generate(data)
        idempotency = _idempotency(request, data)
        job, new = await _earlier(services, key, idempotency), False
        if job is None:
            await _check(services, key, wanted)
            job, new = await _submit(services, key, wanted, idempotency)
        current.set_attribute("umrgen.job_id", job.id)
    request.scope["state"]["job_id"] = job.id  # for the log
    if new and services.settings.log_prompts:
        log.info("job %s: accepted", job.id, extra={"key_id": key.id, "prompt": wanted.prompt})
    allowance = services.limits.allowance(key)
    headers = {} if allowance is None else allowance.headers()
    # A Location is read against the host, `status_url` against the base URL, which has the prefix already.
    headers["Location"] = f"{services.settings.prefix}/api/v1/status/{job.id}"
    return _accepted(job, new, warnings, headers)


async def _earlier(services: Services, key: Key, idempotency: Idempotency | None) -> Job | None:
    """The job that was made under this Idempotency before: it is given, whatever would be said today."""
    if idempotency is None:
        return None
    try:
        return await services.ledger.earlier(key.session_id, idempotency, now=services.clock.now())
    except IdempotencyConflict as conflict:
        raise Problem("idempotency_conflict", job_id=conflict.job_id) from None


async def _check(services: Services, key: Key, wanted: GenerateRequest) -> None:
    """Raise Problem for whatever is in the way of a new job."""
    wrong = _beyond_the_engine(services, wanted)
    missing = await services.uploads.missing(key.session_id, wanted.reference_images)
    if missing:
        wrong.append(FieldError("reference_images", f"no such reference image was uploaded: {short(missing[0])}"))
    if wanted.webhook_url is not None and (refusal := check_url(wanted.webhook_url, services.webhooks_allowed)):
        wrong.append(FieldError("webhook_url", refusal))
    if wrong:
        raise invalid_fields(wrong)
    await _check_policy(services, key, wanted.prompt)
    if services.draining:
        raise Problem("draining")
    if services.executor.trouble:
        raise Problem("engine_unavailable", services.executor.trouble)
    await check_disk(services)


async def _check_policy(services: Services, key: Key, prompt: str) -> None:
    if services.policy is None:
        return
    try:
        reason = await services.policy.refusal(prompt)
    except PolicyFailed:
        raise Problem("internal", "the server cannot say whether it may draw this") from None
    if reason is not None:
        log.info("a prompt was refused", extra={"key_id": key.id})
        raise Problem("content_policy", reason, field="prompt")


def _beyond_the_engine(services: Services, wanted: GenerateRequest) -> list[FieldError]:
    """What the engine cannot do exactly; nothing is rounded in silence."""
    info = services.executor.info
    multiple = info.size_multiple if info else 1
    features = info.features if info else ()
    wrong = [
        FieldError(side, f"must be a multiple of {multiple} with this engine")
        for side in ("width", "height")
        if getattr(wanted, side) % multiple
    ]
    if info and wanted.steps > info.max_steps:
        wrong.append(FieldError("steps", f"this engine takes {info.max_steps} at most"))
    if wanted.loras and "loras" not in features:
        wrong.append(FieldError("loras", "this engine knows no LoRAs"))
    if wanted.reference_images and info and "references" not in features:
        wrong.append(FieldError("reference_images", "this engine takes no reference images"))
    return wrong


def _idempotency(request: Request, data: dict[str, object]) -> Idempotency | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise Problem(
            "invalid_request",
            "Idempotency-Key must have 1 to 255 visible ASCII characters",
            field="Idempotency-Key",
        )
    # The same request however its JSON was spaced and ordered.
    return Idempotency(key, hashlib.sha256(msgspec.json.encode(data, order="sorted")).digest())


async def _submit(
    services: Services, key: Key, wanted: GenerateRequest, idempotency: Idempotency | None
) -> tuple[Job, bool]:
    caps = services.limits.caps(key)
    try:
        return await services.ledger.submit(
            f"ext_{secrets.token_hex(16)}",
            key.session_id,
            wanted.spec(),
            services.settings.engine,
            now=services.clock.now(),
            priority=wanted.priority,
            idempotency=idempotency,
            caps=caps,
            key_id=key.id,
        )
    except IdempotencyConflict as conflict:
        raise Problem("idempotency_conflict", job_id=conflict.job_id) from None
    except TooManyJobs as full:
        words = f"{caps.alive} of your jobs are queued or running already"
        headers = policy_headers("concurrent", caps.alive)
        raise Problem("concurrent_limit", words, headers=headers, job_id=full.job_id) from None
    except QueueFull:
        words = f"{caps.queued} of your jobs wait already"
        raise Problem("queue_full", words, headers=policy_headers("queued", caps.queued)) from None
    except DailyLimit as limit:
        seconds = (limit.until - services.clock.now()) // 1000 + 1
        words = f"this key may make {caps.daily} jobs a day"
        headers = policy_headers("day", caps.daily, 86_400, seconds)
        raise Problem("rate_limited", words, retry_after=seconds, headers=headers) from None


def _accepted(job: Job, new: bool, warnings: list[str], more: dict[str, str]) -> Response:
    """The receipt. A repeated submit gets the same one again, word for word."""
    path = f"/api/v1/status/{job.id}"
    receipt = Receipt(
        job_id=job.id,
        status_url=path,
        next=f"GET {path} until state is completed or failed, at most every 2 to 3 seconds, "
        "or with the header Prefer: wait=25.",
        warnings=warnings,
    )
    headers = {"Retry-After": "3"} | more
    if not new:
        headers["Idempotent-Replayed"] = "true"
    return json_response(receipt, 202, headers)
