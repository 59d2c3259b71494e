"""The API's calls under /api/v1, but for the status."""

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from umrgen import __version__
from umrgen.jobs import LIMITS, Change, Conflict, Job
from umrgen.server.http import Services, many
from umrgen.server.http.answers import json_response
from umrgen.server.http.auth import authenticate
from umrgen.server.http.bodies import read_body
from umrgen.server.http.problems import Problem
from umrgen.server.http.schemas import GenerateRequest, decode_object, read_generate
from umrgen.server.http.status import View
from umrgen.server.ledger import Idempotency, IdempotencyConflict, Key, QueueFull
from umrgen.server.webhooks.addresses import check_url

__all__ = ["routes"]

MAX_BODY = 1 << 20
_CALLS = (
    "generate",
    "status",
    "wait",
    "batch_status",
    "events",
    "cancel",
    "jobs",
    "idempotency",
    "digests",
    "webhooks",
)
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")

Handler = Callable[[Services, Request, Key], Awaitable[Response]]


def routes(services: Services) -> list[Route]:
    def keyed(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            key = await authenticate(services, dict(request.headers.raw))
            return await handler(services, request, key)

        return endpoint

    return [
        Route("/api/v1/generate", keyed(generate), methods=["POST"]),
        Route("/api/v1/status", keyed(many.statuses), methods=["POST"]),
        Route("/api/v1/jobs", keyed(many.jobs), methods=["GET"]),
        Route("/api/v1/cancel/{job_id}", keyed(cancel), methods=["POST"]),
        Route("/api/v1/capabilities", keyed(capabilities), methods=["GET"]),
        Route("/api/{rest:path}", keyed(nothing), methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
    ]


async def nothing(services: Services, request: Request, key: Key) -> Response:
    raise Problem("not_found")


async def cancel(services: Services, request: Request, key: Key) -> Response:
    """End the job; a job that is over already stays as it is, and is the answer."""
    view = await View.of(services, request.path_params["job_id"], key.session_id)
    with suppress(Conflict):
        await services.ledger.change(
            view.job.id,
            Change.CANCEL,
            now=services.clock.now(),
            error="the job was cancelled",
            error_code="cancelled",
        )
    view = await View.of(services, view.job.id, key.session_id)
    return json_response(view.wire())


async def capabilities(services: Services, request: Request, key: Key) -> Response:
    """What this server can do, for those who would rather ask than try."""
    info = services.executor.info
    return json_response(
        {
            "success": True,
            "version": __version__,
            "engine": {
                "name": services.settings.engine,
                "kind": info.kind if info else None,
                "version": info.version if info else None,
                "features": list(info.features) if info else [],
            },
            "sizes": {
                "min": LIMITS.side_min,
                "max": LIMITS.side_max,
                "default": LIMITS.side_default,
                "multiple_of": info.size_multiple if info else 1,
            },
            "steps": {
                "max": min(LIMITS.steps_max, info.max_steps if info else LIMITS.steps_max),
                "default": LIMITS.steps_default,
            },
            "prompt_chars": LIMITS.prompt_chars,
            "calls": _CALLS,
            "max_wait": int(services.settings.max_wait),
            "batch_max": many.MAX_JOBS,
            "limits": {
                "queued": services.settings.session_queued or None,
                "running": services.settings.session_running or None,
            },
        }
    )


async def generate(services: Services, request: Request, key: Key) -> Response:
    data = decode_object(await read_body(request, MAX_BODY))
    wanted, warnings = read_generate(data)
    check_can(services, wanted)
    idempotency = _idempotency(request, data)
    if services.draining:
        raise Problem("draining")
    if services.executor.trouble:
        raise Problem("engine_unavailable", services.executor.trouble)
    job, new = await _submit(services, key, wanted, idempotency)
    return _accepted(job, new, warnings)


def check_can(services: Services, wanted: GenerateRequest) -> None:
    """Raise Problem for what this server cannot do exactly; nothing is rounded in silence."""
    info = services.executor.info
    multiple = info.size_multiple if info else 1
    wrong = [
        {"field": side, "error": f"must be a multiple of {multiple} with this engine"}
        for side in ("width", "height")
        if getattr(wanted, side) % multiple
    ]
    if info and wanted.steps > info.max_steps:
        wrong.append({"field": "steps", "error": f"this engine takes {info.max_steps} at most"})
    if wanted.loras and not (info and "loras" in info.features):
        wrong.append({"field": "loras", "error": "this engine knows no LoRAs"})
    if wanted.reference_images:
        wrong.append({"field": "reference_images", "error": "no such reference image was uploaded"})
    if wanted.webhook_url is not None and (refusal := check_url(wanted.webhook_url, services.webhooks_allowed)):
        wrong.append({"field": "webhook_url", "error": refusal})
    if wrong:
        words = "; ".join(f"{item['field']}: {item['error']}" for item in wrong)
        raise Problem("invalid_request", words, field=wrong[0]["field"], errors=wrong)


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
    try:
        return await services.ledger.submit(
            f"ext_{secrets.token_hex(16)}",
            key.session_id,
            wanted.spec(),
            services.settings.engine,
            now=services.clock.now(),
            priority=wanted.priority,
            idempotency=idempotency,
            queued_cap=services.settings.session_queued,
            key_id=key.id,
        )
    except IdempotencyConflict as conflict:
        raise Problem("idempotency_conflict", job_id=conflict.job_id) from None
    except QueueFull:
        words = f"{services.settings.session_queued} of your jobs wait already"
        raise Problem("queue_full", words) from None


def _accepted(job: Job, new: bool, warnings: list[str]) -> Response:
    """The receipt. A repeated submit gets the same one again, word for word."""
    path = f"/api/v1/status/{job.id}"
    receipt = {
        "success": True,
        "job_id": job.id,
        "state": "queued",
        "message": "Job accepted.",
        "status_url": path,
        "retry_after_ms": 3000,
        "next": f"GET {path} until state is completed or failed, at most every 2 to 3 seconds, "
        "or with the header Prefer: wait=25.",
        "warnings": warnings,
    }
    headers = {"Location": path, "Retry-After": "3"}
    if not new:
        headers["Idempotent-Replayed"] = "true"
    return json_response(receipt, 202, headers)
