"""Error responses: RFC 9457 problem details, with the guide's `success: false` and `error`.

Their texts are sent to unauthenticated clients, so they contain no path, no key and no stack trace.
"""

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from umrgen.errors import UmrgenError
from umrgen.server.http.api.responses import ProblemAnswer, RawResponse
from umrgen.server.services.refusal import Quota, Refusal

__all__ = ["PROBLEMS", "Problem", "on_error", "quota_headers", "to_problem"]

log = logging.getLogger(__name__)

PROBLEMS: Mapping[str, tuple[int, str, str]] = {
    "invalid_request": (400, "The request is not valid", "Correct the fields named here, then send it again."),
    "content_policy": (400, "The content policy refused the prompt", "Change the prompt."),
    "key_in_url": (
        400,
        "The URL contains an API key",
        "Send it as the header Authorization: Bearer KEY. Have this key revoked: proxies log URLs.",
    ),
    "unauthorized": (401, "No valid API key", "Send the header Authorization: Bearer KEY with a key of this server."),
    "forbidden_output": (
        403,
        "The URL gives no access to this output",
        "Use the exact image_url of the job's status, with its session_id.",
    ),
    "forbidden_origin": (
        403,
        "A page of another origin may not call this server",
        "Call it from a program, or have the operator add the page's origin to allowed_origins.",
    ),
    "not_found": (404, "The path is unknown", "See the paths of the API: /api/v1/generate, /api/v1/status/{job_id}."),
    "job_not_found": (404, "No such job", "Check the job id; a job belongs to the key that made it."),
    "output_not_found": (404, "No such output", "Request the job's status for its image_url."),
    "reference_not_found": (404, "No such reference image", "Upload it again; see GET /api/v1/upload-reference."),
    "template_not_found": (404, "No such template", "See the names: GET /api/v1/templates."),
    "method_not_allowed": (405, "The path does not allow this method", "Use a method of the header Allow."),
    "request_timeout": (408, "The body arrived too slowly", "Send the request again over a faster connection."),
    "too_many_references": (
        409,
        "The key has as many reference images as it may",
        "Delete one: DELETE /api/v1/upload-reference/NAME. Or wait until the server deletes one: see its expires_at.",
    ),
    "too_many_templates": (
        409,
        "The key has as many templates as it may",
        "Delete one: DELETE /api/v1/templates/NAME.",
    ),
    "link_over": (
        410,
        "The link has expired or was used",
        "A link opens the studio once, within ten minutes. For another: `umrgen studio` on the server. Or enter a key.",
    ),
    "output_expired": (
        410,
        "The output has expired",
        "Request the job's status for a new URL, or submit the job again.",
    ),
    "too_large": (413, "The request is too large", "Send a smaller body."),
    "unsupported_media_type": (415, "The file type is not supported", "Send a PNG, JPEG or WebP image."),
    "range_not_satisfiable": (
        416,
        "The range is outside the file",
        "Request a range inside Content-Range, or the whole file.",
    ),
    "forbidden_host": (
        421,
        "The Host header names another server",
        "Use the server's address, or have the operator add the name to allowed_hosts.",
    ),
    "idempotency_conflict": (
        422,
        "The Idempotency-Key was used for another request",
        "Use a new Idempotency-Key for a new request.",
    ),
    "rate_limited": (429, "Too many requests", "Send the request again after Retry-After."),
    "concurrent_limit": (429, "Too many concurrent jobs", "Wait until the job in job_id is over."),
    "queue_full": (429, "The queue is full", "Send the request again after Retry-After."),
    "job_failed": (500, "The job failed", "Change the request, or send it again if the reason may be temporary."),
    "internal": (500, "The server failed", "Try again; if it fails again, report it to the operator."),
    "draining": (503, "The server is stopping", "Try again after Retry-After; jobs already accepted are kept."),
    "engine_unavailable": (503, "The engine is not available", "Try again after Retry-After."),
    "storage_full": (503, "The disk is nearly full", "Try again after Retry-After; jobs already accepted are drawn."),
    "storage_failed": (503, "The images cannot be read", "Try again after Retry-After; images on record are kept."),
    "ledger_unavailable": (503, "The ledger cannot be written", "Try again after Retry-After; nothing was accepted."),
}

_RETRYABLE = {code for code, (status, *_) in PROBLEMS.items() if status in (408, 429) or status >= 500} - {"job_failed"}


class Problem(Exception):
    """An error response. `error` is a sentence for people; without it, the code's title is used."""

    def __init__(
        self,
        code: str,
        error: str | None = None,
        *,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        self.code = code
        self.status, title, following = PROBLEMS[code]
        super().__init__(error or title)
        self.headers = dict(headers or {})
        if retry_after is None and self.status in (429, 503):
            retry_after = 5
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        if self.status == 401:
            self.headers["WWW-Authenticate"] = 'Bearer realm="umrgen"'
        self.body = ProblemAnswer(
            title=title,
            status=self.status,
            detail=error or title,
            error=error or title,
            code=code,
            retryable=code in _RETRYABLE,
            next=following,
            **members,
        )

    @classmethod
    def of(cls, refusal: Refusal) -> "Problem":
        """Return the problem for a service's refusal."""
        members = {"job_id": refusal.job_id, "field": refusal.field, "errors": list(refusal.errors)}
        return cls(
            refusal.code,
            refusal.detail,
            retry_after=refusal.retry_after,
            headers=quota_headers(refusal.quota) if refusal.quota else None,
            **{name: value for name, value in members.items() if value},
        )

    def with_state(self) -> "Problem":
        """Add `state`, for the status call: a loop that polls stops at `failed`, where asking again cannot help."""
        self.body = msgspec.structs.replace(
            self.body, state="unknown" if self.status == 429 or self.status >= 500 else "failed"
        )
        return self

    def response(self) -> Response:
        body = msgspec.json.encode(self.body)
        return Response(body, self.status, self.headers, media_type="application/problem+json")

    def raw_response(self) -> RawResponse:
        """Return the response for a plain ASGI handler."""
        response = self.response()
        return response.status_code, response.raw_headers, bytes(response.body)


def quota_headers(quota: Quota) -> dict[str, str]:
    """Return the fields RateLimit and RateLimit-Policy; a window and the time until it is reset in seconds."""
    window = f";w={quota.window}" if quota.window else ""
    reset = f";t={quota.reset}" if quota.reset is not None else ""
    return {
        "RateLimit-Policy": f'"{quota.name}";q={quota.limit}{window}',
        "RateLimit": f'"{quota.name}";r={quota.remaining}{reset}',
    }


def to_problem(error: Exception) -> Problem:
    """Return the problem response for an exception of a handler."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refusal):
        return Problem.of(error)
    if isinstance(error, UmrgenError) and error.code in PROBLEMS:
        log.error("%s", error)
        return Problem(error.code)
    log.error("a call failed", exc_info=error)
    return Problem("internal")


async def on_error(request: Request, error: Exception) -> Response:
    """Return the response to an exception that Starlette caught."""
    return to_problem(error).response()
