"""Interpreting responses, and calls that are safe to repeat."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from umrgen.client.flow import (
    CallContext,
    Flow,
    Reply,
    RetryBudget,
    TransportFailure,
    retry_after,
    seconds_to_next_minute,
)
from umrgen.client.responses import MAX_BODY
from umrgen.errors import (
    ApiError,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    JobNotFound,
    NotUmrgen,
    RateLimited,
    UmrgenError,
    Unsupported,
    WaitTimeout,
    api_error,
)
from umrgen.text import printable

__all__ = [
    "API",
    "RetryPolicy",
    "call",
    "call_if_supported",
    "error_from",
    "is_html",
    "is_missing_endpoint",
    "is_transient",
    "rate_limit_delay",
    "unreachable_message",
]

API = "/api/v1"
LIMITED_INTERVAL = 10.0
"""Seconds between tries on a server whose rate limit was not reset at the start of a minute."""


# --- interpreting responses -------------------------------------------------------------------------


def error_from(reply: Reply, *, job_id: str | None = None) -> ApiError:
    """Return the exception for an unexpected response: by its status code first, then by its body."""
    data = reply.json()
    if 300 <= reply.status < 400:
        return _redirected(reply, job_id)
    error = api_error(reply.status, data, job_id=job_id)
    if reply.status < 400 or (data is None and _is_from_gateway(reply, error)):
        message = f"expected JSON, got {_describe(reply)} (HTTP {reply.status})"
        return NotUmrgen(message, status=reply.status, job_id=job_id)
    return error


def _is_from_gateway(reply: Reply, error: ApiError) -> bool:
    """Return whether an error without JSON has a status by which an UMRGEN server always sends JSON."""
    page = isinstance(error, Forbidden) and is_html(reply)
    return page or isinstance(error, NotUmrgen) or (isinstance(error, InvalidRequest) and reply.status != 413)


def _redirected(reply: Reply, job_id: str | None) -> NotUmrgen:
    return NotUmrgen(
        f"the server redirects to {_target_of(reply)} (HTTP {reply.status}); the API key was not sent there",
        status=reply.status,
        job_id=job_id,
        next="If that is the right server, set UMRGEN_BASE_URL to its address.",
    )


def _target_of(reply: Reply) -> str:
    try:
        target = urlsplit(reply.headers.get("location", ""))
        return f"{target.scheme}://{target.hostname}" if target.hostname else "another address"
    except ValueError:
        return "another address"


def is_html(reply: Reply) -> bool:
    """Return whether the body is an HTML page."""
    return reply.body.lstrip()[:1] == b"<" or "html" in reply.headers.get("content-type", "")


def _describe(reply: Reply) -> str:
    if not reply.body:
        return "an empty response"
    if is_html(reply):
        return "an HTML page"
    return f"the text {printable(reply.body[:200].decode('utf-8', 'replace'), 60)!r}"


def is_transient(reply: Reply) -> bool:
    """Return whether a retry of the same request may succeed."""
    return (reply.status >= 500 and reply.status != 501) or reply.status in (408, 425)


# --- retries ----------------------------------------------------------------------------------------


class RetryPolicy:
    """Decides whether a failed call is retried, and after how long; remembers the last error for a timeout."""

    def __init__(
        self,
        context: CallContext,
        retries: RetryBudget,
        job_id: str | None,
        *,
        answered: bool = False,
        advice: str | None = None,
    ) -> None:
        """`answered`: whether the server has sent a valid response about this job. `advice`: for ConnectionFailed."""
        self._context = context
        self._retries = retries
        self._limited = RetryBudget(context, float("inf"))
        self._job_id = job_id
        self._advice = advice
        self._answered = answered
        self._garbage = 0
        self._last_error: UmrgenError | None = None

    def reset(self) -> None:
        """Start the budgets again after a valid response."""
        self._answered, self._garbage, self._last_error = True, 0, None
        self._retries.reset()
        self._limited.reset()

    def timeout_error(self, timeout: WaitTimeout) -> UmrgenError:
        """Return the error for a deadline that has passed: it may say that the job continues if the server did."""
        return timeout if self._answered or self._last_error is None else self._last_error

    def delay_after_failure(self, failure: TransportFailure) -> float:
        """Return the delay before the retry of a request without a response. Raises ConnectionFailed."""
        self._context.observe(failure.at)
        error = ConnectionFailed(unreachable_message(failure), job_id=self._job_id, next=self._advice)
        return self._delay(self._retries, error)

    def delay_after_error(self, reply: Reply, *, seen: bool = False) -> float:
        """Return the delay before the retry after an error response, or an invalid one. Raises any permanent error.

        With `seen`, the server itself had another response before, so that none of a gateway's is permanent.
        """
        error = error_from(reply, job_id=self._job_id)
        if isinstance(error, RateLimited):
            return self._delay(self._limited, error, rate_limit_delay(self._context, reply, self._limited))
        if is_transient(reply):
            return self._delay(self._retries, error, retry_after(reply))
        options = self._context.options
        if not seen and not (reply.status == 200 and self._garbage < options.garbage_tries):
            raise error
        self._garbage += 1  # a gateway's page or error, or a truncated response
        return max(self._delay(self._retries, error, retry_after(reply)), options.running_interval)

    def _delay(self, budget: RetryBudget, error: UmrgenError, requested: float | None = None) -> float:
        self._last_error = error
        return budget.next_delay(error, requested, job_id=self._job_id)


# --- flows ------------------------------------------------------------------------------------------


def call(
    context: CallContext,
    method: str,
    path: str,
    *,
    body: Any = None,
    content_type: str = "application/json",
    long_poll: int = 0,
    limit: int = MAX_BODY,
    retries: RetryBudget | None = None,
    delay: float = 0.0,
    job_id: str | None = None,
    answered: bool = False,
    seen: bool = False,
) -> "Flow[tuple[Reply, Mapping[str, Any]]]":
    """Send a request that is safe to repeat; return its response and the JSON object in it.

    Retries while the server is unreachable or failing, within `retries` (`submit_patience` by default), and while it
    responds with 429, until the deadline. With `seen`, the server has responded to this call before: any other error
    response may be a gateway's, and is retried within `retries` too. `answered`: the server has responded about the
    job. Raises ConnectionFailed, WaitTimeout and the errors of other responses.
    """
    retries = retries or RetryBudget(context, context.options.submit_patience)
    policy = RetryPolicy(context, retries, job_id, answered=answered or seen)
    headers = {"Content-Type": content_type} if body is not None else {}
    headers |= {"Prefer": f"wait={long_poll}"} if long_poll else {}
    while True:
        try:
            step = context.step(
                method, path, delay=delay, headers=headers, body=body, long_poll=long_poll, limit=limit, job_id=job_id
            )
        except WaitTimeout as timeout:
            raise policy.timeout_error(timeout) from None
        try:
            reply = yield step
        except TransportFailure as failure:
            delay = policy.delay_after_failure(failure)
            continue
        context.observe(reply.at)
        data = reply.json()
        if 200 <= reply.status < 300 and data is not None:
            retries.reset()
            return reply, data
        delay = policy.delay_after_error(reply, seen=seen)


def call_if_supported(
    context: CallContext,
    method: str,
    path: str,
    *,
    body: Any = None,
    limit: int = MAX_BODY,
    job_id: str | None = None,
    unsupported: str | None = None,
    instead: str | None = None,
) -> "Flow[Mapping[str, Any]]":
    """Send a request that older servers do not support. Raises Unsupported there.

    Its message is `unsupported`, and its advice `instead`.
    """
    try:
        _, data = yield from call(context, method, path, body=body, limit=limit, job_id=job_id)
    except ApiError as error:
        if is_missing_endpoint(error):
            message = unsupported or f"this server does not support {path.removeprefix(API)}"
            raise Unsupported(message, status=error.status, job_id=job_id, next=instead) from None
        raise
    return data


def is_missing_endpoint(error: ApiError) -> bool:
    """Return whether the server does not know the path itself, rather than the job or the image that the path names."""
    names_thing = isinstance(error, JobNotFound) or (error.coded and error.code.endswith("_not_found"))
    return (error.status == 404 and not names_thing) or error.status in (405, 501)


def rate_limit_delay(context: CallContext, reply: Reply, limited: RetryBudget) -> float:
    """Return the delay after a 429: its `Retry-After`, or else the time until the server's limit may be reset.

    Without a `Retry-After`, all calls of this client pause until then, and its request budget applies from now on.
    """
    requested = retry_after(reply)
    if requested is not None:
        return requested
    delay = seconds_to_next_minute(reply)
    if limited.failures:
        delay = min(delay, LIMITED_INTERVAL)  # this server's minute is not the clock's
    context.budget.pause(context.now + delay)
    return delay


def unreachable_message(failure: TransportFailure) -> str:
    """Return the message of ConnectionFailed for a request without a response."""
    return f"the server{f' {failure.server}' * bool(failure.server)} cannot be reached: {failure}"
