"""`POST /api/v1/generate`: decode the request, submit it, encode the receipt."""

import hashlib
import re
from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from umrgen.server.http import Services
from umrgen.server.http.api.responses import Receipt, json_response
from umrgen.server.http.api.schemas import decode_generate, read_object
from umrgen.server.http.problems import Problem, quota_headers
from umrgen.server.services.caller import Caller
from umrgen.server.services.submissions import Idempotency, Submitted
from umrgen.server.tracing import span

__all__ = ["generate", "receipt_response"]

MAX_BODY = 256 << 10
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def generate(services: Services, request: Request, caller: Caller) -> Response:
    with span("POST /api/v1/generate", headers=request.headers) as current:
        data = await read_object(request, MAX_BODY)
        generation, warnings = decode_generate(data, services.state.default_steps)
        submitted = await services.submissions.submit(caller, generation, _idempotency(request, data))
        job = submitted.job
        current.set_attribute("umrgen.job_id", job.id)
    request.scope["state"]["job_id"] = job.id  # for the log
    quota = services.limits.quota(caller.key)
    headers = {} if quota is None else quota_headers(quota)
    # A Location is relative to the host, `status_url` to the base URL, which has the prefix already.
    headers["Location"] = f"{services.settings.prefix}/api/v1/status/{job.id}"
    return receipt_response(submitted, warnings, headers)


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
    # Independent of the order and spacing of the JSON text.
    return Idempotency(key, hashlib.sha256(msgspec.json.encode(data, order="sorted")).digest())


def receipt_response(submitted: Submitted, warnings: list[str], more: Mapping[str, str]) -> Response:
    """Return the response for an accepted submit; a repeated submit gets an equal one."""
    path = f"/api/v1/status/{submitted.job.id}"
    receipt = Receipt(
        job_id=submitted.job.id,
        status_url=path,
        next=f"GET {path} until state is completed or failed, at most every 2 to 3 seconds, "
        "or with the header Prefer: wait=25.",
        warnings=warnings,
    )
    headers = {"Retry-After": "3"} | dict(more)
    if not submitted.new:
        headers["Idempotent-Replayed"] = "true"
    return json_response(receipt, 202, headers)
