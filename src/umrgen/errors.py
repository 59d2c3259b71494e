"""The exceptions of the client and the server's Python interfaces, as one tree.

    UmrgenError
    ├── ApiError                an error response, or an invalid one
    │   ├── Unauthorized        401: the API key is missing or not accepted
    │   ├── Forbidden           403 on an API call
    │   ├── JobNotFound         404 on a job
    │   ├── RateLimited         429: too many requests, or the queue is full
    │   │   └── ConcurrencyLimit  429: too many jobs of this key; `job_id` is one of them
    │   ├── InvalidRequest      400, 413, 415, 422: the request is invalid
    │   │   └── ContentPolicy   400: the prompt is not allowed
    │   ├── ServerError         5xx
    │   ├── NotUmrgen           the response is not this API's (a tunnel's HTML page, an empty body, ...)
    │   └── Unsupported         the server does not support this call
    ├── ConnectionFailed        no response
    ├── JobFailed               the job ended `failed`; `code` is its `error_code`
    ├── JobStalled              `running` without a change for `stall_after` seconds
    ├── WaitTimeout             the deadline passed; the job continues (also a TimeoutError)
    ├── OutputMissing           `completed`, but the image does not exist
    ├── OutputForbidden         the server refuses the image to this client
    ├── OutputCorrupt           the downloaded file is incomplete or damaged
    └── TargetUnusable          the image cannot be saved at the chosen path

Each error has a stable `code`, `retryable`, `job_id`, and `next`: advice for the user.
The docstring of a class is its default message.
"""

from collections.abc import Mapping
from typing import Any

from umrgen.text import ERROR_CODE, JOB_ID, printable

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
    """An error occurred."""

    code = "error"
    retryable = False
    next = ""
    sent = False
    """Whether a failed submit may still have created a job."""
    request: Mapping[str, Any] | None = None
    """Of `generate_many`: the request that this error belongs to, as it was given."""

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        retryable: bool | None = None,
        job_id: str | None = None,
        next: str | None = None,
    ) -> None:
        # The one place through which each text from elsewhere passes on its way to a user.
        super().__init__(printable(message or (type(self).__doc__ or "").strip()))
        self.job_id = job_id
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable
        if next is not None:
            self.next = printable(next)

    def as_dict(self) -> dict[str, Any]:
        """Return the error as `--json` prints it."""
        return {
            "error": str(self),
            "code": self.code,
            "retryable": self.retryable,
            "job_id": self.job_id,
            "next": self.next or None,
        }


class UmrgenWarning(UserWarning):
    """A parameter that the server ignored or changed."""


class ApiError(UmrgenError):
    """The server refused the request."""

    code = "api_error"

    def __init__(
        self, message: str | None = None, *, status: int | None = None, coded: bool = False, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.status = status
        self.coded = coded
        """Whether `code` is from the response, as newer servers send it."""


class Unauthorized(ApiError):
    """The server does not accept this API key."""

    code = "unauthorized"
    next = (
        "Run `umrgen login`, or set UMRGEN_API_KEY to a key of this server; its operator makes one with "
        "`umrgen keys create`."
    )


class Forbidden(ApiError):
    """The server does not allow this call."""

    code = "forbidden"
    next = "Contact the server's operator."


class JobNotFound(ApiError):
    """The server has no such job."""

    code = "job_not_found"
    next = "Check the id and the server; a job belongs to the key that created it."


class RateLimited(ApiError):
    """Too many requests to the server."""

    code = "rate_limited"
    retryable = True
    next = "Wait, then try again; send fewer requests or raise the key's limit."


class ConcurrencyLimit(RateLimited):
    """This key has too many jobs."""

    code = "concurrent_limit"
    next = "Wait for the job in `job_id` to end, or submit with wait_for_slot (--wait-for-slot)."


class InvalidRequest(ApiError):
    """The server does not accept this request."""

    code = "invalid_request"
    next = "Correct the fields in the message, then send the request again."


class ContentPolicy(InvalidRequest):
    """The server's content policy refuses this prompt."""

    code = "content_policy"
    next = "Change the prompt."


class ServerError(ApiError):
    """The server failed to handle the request."""

    code = "server_error"
    retryable = True
    next = "Try again later; an existing job is not affected."


class NotUmrgen(ApiError):
    """The response is not from an UMRGEN server."""

    code = "not_umrgen"
    next = (
        "Check the address (UMRGEN_BASE_URL, or `umrgen login`; see `umrgen doctor`): a tunnel or proxy may have "
        "responded."
    )


class Unsupported(ApiError):
    """This server does not support this call."""

    code = "unsupported"
    next = "Use a newer version of the server."


class ConnectionFailed(UmrgenError):
    """The server cannot be reached."""

    code = "connection_failed"
    retryable = True
    next = "Check that the server is running, and its address (UMRGEN_BASE_URL, or `umrgen login`), then try again."


class JobFailed(UmrgenError):
    """The job failed."""

    code = "job_failed"
    next = "Submit the job again if a new attempt may succeed."

    def __init__(self, message: str | None = None, *, whole_reason: str | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.whole_reason = whole_reason or str(self)
        """The reason as the server reported it; the message may be a part of it."""

    def as_dict(self) -> dict[str, Any]:
        """Return the error as `--json` prints it."""
        return super().as_dict() | ({} if self.whole_reason == str(self) else {"whole_reason": self.whole_reason})


class JobStalled(UmrgenError):
    """The job is running, but has not changed for a long time."""

    code = "job_stalled"
    retryable = True
    next = "Continue to wait, or cancel the job."


class WaitTimeout(UmrgenError, TimeoutError):
    """The deadline passed; the job continues on the server."""

    code = "wait_timeout"
    retryable = True


class OutputMissing(UmrgenError):
    """The job is completed, but it has no image."""

    code = "output_missing"
    next = "The server failed to store the image; submit the job again."


class OutputForbidden(UmrgenError):
    """The server refuses this image to this client."""

    code = "output_forbidden"
    next = "Use the image_url of the status unchanged, with its session_id."


class OutputCorrupt(UmrgenError):
    """The downloaded file is not the complete image."""

    code = "output_corrupt"
    retryable = True
    next = "Download it again."


class TargetUnusable(UmrgenError):
    """The image cannot be saved at this path."""

    code = "target_unusable"


_BY_CODE: dict[str, type[ApiError]] = {
    "unauthorized": Unauthorized,
    "job_not_found": JobNotFound,
    "concurrent_limit": ConcurrencyLimit,
    "content_policy": ContentPolicy,
}
_OLDER_CODES = {"CONCURRENT_LIMIT": "concurrent_limit", "Job not found": "job_not_found"}
"""The codes of the `error` texts that older servers send instead of a `code`."""


def _class_for(status: int, code: str) -> type[ApiError]:
    if code in _BY_CODE:
        return _BY_CODE[code]
    match status:
        case 401:
            return Unauthorized
        case 403:
            return Forbidden
        case 405 | 501:
            return Unsupported
        case 429:
            return RateLimited
        case _ if status >= 500 or status in (408, 425):
            return ServerError
        case 404 if not code:
            return NotUmrgen
        case _ if status >= 400:
            return InvalidRequest
    return NotUmrgen


def api_error(status: int, data: Mapping[str, Any] | None, *, job_id: str | None = None) -> ApiError:
    """Return the exception for an error response: by its `code`, otherwise by its status.

    `data` is the decoded JSON object, or None when the body was not one. Older servers send their code
    in `error` (`CONCURRENT_LIMIT`), newer ones in `code`. A 404 without either is not from this API.
    """
    data = data or {}
    message = next((text for name in ("error", "detail", "message") if isinstance(text := data.get(name), str)), None)
    sent = data.get("code")
    coded = isinstance(sent, str) and ERROR_CODE.fullmatch(sent) is not None
    code = str(sent) if coded else _OLDER_CODES.get(message or "", "")
    kind = _class_for(status, code)
    job = data.get("job_id")
    if message == "CONCURRENT_LIMIT":
        running = f": job {job} is running" if isinstance(job, str) else ""
        message = f"this server runs one job at a time{running}"
    advice = None if kind.next else data.get("next")  # our own advice has the client's variables and commands
    error = kind(
        f"{printable(message)} (HTTP {status})" if message else f"{(kind.__doc__ or '').strip()} (HTTP {status})",
        status=status,
        code=code or None,
        job_id=job if isinstance(job, str) and JOB_ID.fullmatch(job) else job_id,
        next=advice if isinstance(advice, str) else None,
    )
    error.coded = coded
    return error
