"""Interpreting responses, and calls that are safe to repeat."""

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
from umrgen.errors import ApiError, ConnectionFailed, JobNotFound, NotUmrgen, RateLimited, Unsupported, api_error

__all__ = [
    "API",
    "call",
    "call_if_supported",
    "error_from",
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
    if reply.status < 400 or (data is None and reply.status in (403, 404) and _is_html(reply)):
        message = f"expected JSON, got {_describe(reply)} (HTTP {reply.status})"
        return NotUmrgen(message, status=reply.status, job_id=job_id)
    return api_error(reply.status, data, job_id=job_id)


def _redirected(reply: Reply, job_id: str | None) -> NotUmrgen:
    target = urlsplit(reply.headers.get("location", ""))
    where = f"{target.scheme}://{target.hostname}" if target.hostname else "another address"
    return NotUmrgen(
        f"the server redirects to {where} (HTTP {reply.status}); the API key was not sent there",
        status=reply.status,
        job_id=job_id,
        next="If that is the right server, set UMRGEN_BASE_URL to its address.",
    )


def _is_html(reply: Reply) -> bool:
    return reply.body.lstrip()[:1] == b"<" or "html" in reply.headers.get("content-type", "")


def _describe(reply: Reply) -> str:
    if not reply.body:
        return "an empty response"
    return "an HTML page" if _is_html(reply) else "an unreadable response"


def is_transient(reply: Reply) -> bool:
    """Return whether a retry of the same request may succeed."""
    return (reply.status >= 500 and reply.status != 501) or reply.status in (408, 425)


# --- flows ------------------------------------------------------------------------------------------


def call(
    context: CallContext,
    method: str,
    path: str,
    *,
    body: Any = None,
    content_type: str = "application/json",
    long_poll: int = 0,
    retries: RetryBudget | None = None,
    delay: float = 0.0,
    job_id: str | None = None,
) -> "Flow[tuple[Reply, dict[str, Any]]]":
    """Send a request that is safe to repeat; return its response and the JSON object in it.

    Retries while the server is unreachable or failing, within `retries` (`submit_patience` by default), and while it
    responds with 429, until the deadline. Raises ConnectionFailed, WaitTimeout and the errors of other responses.
    """
    retries = retries or RetryBudget(context, context.options.submit_patience)
    limited = RetryBudget(context, float("inf"))
    headers = {"Content-Type": content_type} if body is not None else {}
    headers |= {"Prefer": f"wait={long_poll}"} if long_poll else {}
    garbage = 0
    while True:
        try:
            reply = yield context.step(
                method, path, delay=delay, headers=headers, body=body, long_poll=long_poll, job_id=job_id
            )
        except TransportFailure as failure:
            context.now = failure.at
            delay = retries.next_delay(ConnectionFailed(unreachable_message(failure), job_id=job_id), job_id=job_id)
            continue
        context.now = reply.at
        data = reply.json()
        if 200 <= reply.status < 300 and data is not None:
            retries.reset()
            return reply, data
        error = error_from(reply, job_id=job_id)
        if isinstance(error, RateLimited):
            delay = limited.next_delay(error, rate_limit_delay(context, reply, limited), job_id=job_id)
        elif is_transient(reply):
            delay = retries.next_delay(error, retry_after(reply), job_id=job_id)
        elif reply.status == 200 and garbage < context.options.garbage_tries:
            garbage += 1  # a tunnel's page or a truncated response
            delay = max(retries.next_delay(error, job_id=job_id), context.options.running_interval)
        else:
            raise error


def call_if_supported(
    context: CallContext, method: str, path: str, *, job_id: str | None = None
) -> "Flow[dict[str, Any]]":
    """Send a request that older servers do not support. Raises Unsupported there."""
    try:
        _, data = yield from call(context, method, path, job_id=job_id)
    except ApiError as error:
        if is_missing_endpoint(error):
            raise Unsupported(f"this server does not support {path.removeprefix(API)}", status=error.status) from None
        raise
    return data


def is_missing_endpoint(error: ApiError) -> bool:
    """Return whether the server does not know the path itself, rather than the job that the path names."""
    names_job = isinstance(error, JobNotFound) and error.coded
    return (error.status == 404 and not names_job) or error.status in (405, 501)


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
    return f"the server cannot be reached: {failure}"
