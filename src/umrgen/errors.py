"""Everything that can go wrong, as one tree.

    UmrgenError
    ├── ApiError                the server answered, and the answer is a refusal or makes no sense
    │   ├── Unauthorized        401: the key is missing or not accepted
    │   ├── Forbidden           403 on an API call
    │   ├── JobNotFound         404 on a job
    │   ├── RateLimited         429: asked too often, or the queue is full
    │   │   └── ConcurrencyLimit  429: another job is in the way; `job_id` says which
    │   ├── InvalidRequest      400, 413, 415, 422: the request itself must change
    │   │   └── ContentPolicy   400: the prompt was refused
    │   ├── ServerError         5xx
    │   ├── NotUmrgen           the answer is not this API's (a tunnel's HTML page, an empty body, ...)
    │   └── Unsupported         this server has no such call
    ├── ConnectionFailed        no answer at all
    ├── JobFailed               the job ended `failed`; `code` is its `error_code`
    ├── JobStalled              `running`, and nothing has changed for `stall_after` seconds
    ├── WaitTimeout             the deadline passed; the job is still alive (also a TimeoutError)
    ├── OutputMissing           `completed`, but there is no image to be had
    ├── OutputForbidden         the image is there, and this client may not have it
    ├── OutputCorrupt           what was downloaded is not the whole, true image
    └── TargetUnusable          the file cannot be written where it should go

Each carries `code` (a stable word), `retryable`, `job_id` and `next`: what to do now, in words.
A class's docstring is its default message.
"""

from collections.abc import Mapping
from typing import Any

__all__ = [
    "ApiError",
    "ConcurrencyLimit",
    "ConnectionFailed",
    "ContentPolicy",
    "Forbidden",
    "InvalidRequest",
    "JobFailed",
    "JobNotFound",
    "JobStalled",
    "NotUmrgen",
    "OutputCorrupt",
    "OutputForbidden",
    "OutputMissing",
    "RateLimited",
    "ServerError",
    "TargetUnusable",
    "UmrgenError",
    "Unauthorized",
    "Unsupported",
    "WaitTimeout",
    "api_error",
]


class UmrgenError(Exception):
    """Something went wrong."""

    code = "error"
    retryable = False
    next = ""
    sent = False
    """Whether a submit may have arrived all the same."""

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        retryable: bool | None = None,
        job_id: str | None = None,
        next: str | None = None,
    ) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.job_id = job_id
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable
        if next is not None:
            self.next = next

    def as_dict(self) -> dict[str, Any]:
        """The error as the CLI's `--json` prints it."""
        return {
            "error": str(self),
            "code": self.code,
            "retryable": self.retryable,
            "job_id": self.job_id,
            "next": self.next or None,
        }


class ApiError(UmrgenError):
    """The server refused the request."""

    code = "api_error"

    def __init__(self, message: str | None = None, *, status: int | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.status = status
        self.coded = False
        """Whether the server itself named the code, as newer ones do."""


class Unauthorized(ApiError):
    """The server does not accept this API key."""

    code = "unauthorized"
    next = "Set UMRGEN_API_KEY to a key of this server; its operator makes one with `umrgen keys create`."


class Forbidden(ApiError):
    """The server understood the call and forbids it to this key."""

    code = "forbidden"
    next = "Ask the server's operator what this key may do."


class JobNotFound(ApiError):
    """The server knows no such job."""

    code = "job_not_found"
    next = "Check the id and the server; a job belongs to the key that made it."


class RateLimited(ApiError):
    """The server is asked too often."""

    code = "rate_limited"
    retryable = True
    next = "Wait, then try again; ask less often or raise the key's limit."


class ConcurrencyLimit(RateLimited):
    """The server runs no further job for this key now."""

    code = "concurrent_limit"
    next = "Wait for the job in `job_id` to end, or submit with wait_for_slot (--wait-for-slot)."


class InvalidRequest(ApiError):
    """The server does not take this request as it is."""

    code = "invalid_request"
    next = "Correct what the message names, then send it again."


class ContentPolicy(InvalidRequest):
    """The server's content policy refuses this prompt."""

    code = "content_policy"
    next = "Say it in other words."


class ServerError(ApiError):
    """The server failed to answer."""

    code = "server_error"
    retryable = True
    next = "Try again later; the job itself, if there is one, is not lost by this."


class NotUmrgen(ApiError):
    """What answered is not an UMRGEN server."""

    code = "not_umrgen"
    next = "Check UMRGEN_BASE_URL (`umrgen doctor` tells more); a tunnel may answer in the server's place."


class Unsupported(ApiError):
    """This server has no such call."""

    code = "unsupported"
    next = "Use a newer server for this, or do without it."


class ConnectionFailed(UmrgenError):
    """The server cannot be reached."""

    code = "connection_failed"
    retryable = True
    next = "Check UMRGEN_BASE_URL and that the server runs, then try again."


class JobFailed(UmrgenError):
    """The job failed."""

    code = "job_failed"
    next = "Read the message; submit again if it may go better."


class JobStalled(UmrgenError):
    """The job is running, and nothing has changed for a long time."""

    code = "job_stalled"
    retryable = True
    next = "Wait on, or cancel it."


class WaitTimeout(UmrgenError, TimeoutError):
    """Waited long enough; the job is still alive."""

    code = "wait_timeout"
    retryable = True


class OutputMissing(UmrgenError):
    """The job is completed, and there is no image."""

    code = "output_missing"
    next = "The server failed to save the file; submit again."


class OutputForbidden(UmrgenError):
    """The server does not give this image to this client."""

    code = "output_forbidden"
    next = "Use the image_url exactly as the status gave it, with its session_id."


class OutputCorrupt(UmrgenError):
    """What was downloaded is not the whole image."""

    code = "output_corrupt"
    retryable = True
    next = "Fetch it again."


class TargetUnusable(UmrgenError):
    """The image cannot be saved there."""

    code = "target_unusable"


_BY_CODE: dict[str, type[ApiError]] = {
    "unauthorized": Unauthorized,
    "job_not_found": JobNotFound,
    "concurrent_limit": ConcurrencyLimit,
    "content_policy": ContentPolicy,
}


def _class_for(status: int, code: str) -> type[ApiError]:
    if code in _BY_CODE:
        return _BY_CODE[code]
    match status:
        case 401:
            return Unauthorized
        case 403:
            return Forbidden
        case 404:
            return JobNotFound
        case 405 | 501:
            return Unsupported
        case 429:
            return RateLimited
        case _ if status >= 500 or status in (408, 425):
            return ServerError
        case _ if status >= 400:
            return InvalidRequest
    return NotUmrgen


def api_error(status: int, data: Mapping[str, Any] | None, *, job_id: str | None = None) -> ApiError:
    """The exception for an answer: the status code decides first, the body's words second.

    `data` is the decoded JSON object, or None when the body held none. Old servers put their code
    into `error` (`CONCURRENT_LIMIT`), newer ones into `code`.
    """
    data = data or {}
    words = data.get("error") or data.get("detail") or data.get("message")
    words = words if isinstance(words, str) else None
    code = data.get("code")
    if not isinstance(code, str):
        code = "concurrent_limit" if words == "CONCURRENT_LIMIT" else ""
    kind = _class_for(status, code)
    told_job = data.get("job_id")
    told_next = None if kind.next else data.get("next")  # ours names our own variables and commands
    error = kind(
        f"{words} (HTTP {status})" if words else f"{(kind.__doc__ or '').strip()} (HTTP {status})",
        status=status,
        code=code or None,
        job_id=told_job if isinstance(told_job, str) else job_id,
        next=told_next if isinstance(told_next, str) else None,
    )
    error.coded = bool(code)
    return error
