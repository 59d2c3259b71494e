"""What an answer means, and calls that may simply be made again."""

from typing import Any
from urllib.parse import urlsplit

from umrgen.client.flow import CallContext, Flow, Reply, RetryBudget, TransportFailure, retry_after
from umrgen.errors import ApiError, ConnectionFailed, JobNotFound, NotUmrgen, RateLimited, Unsupported, api_error

__all__ = ["API", "ask", "call", "failure_of", "lacks_call", "limited_delay", "transient", "unreachable"]

API = "/api/v1"


# --- reading answers --------------------------------------------------------------------------------


def failure_of(reply: Reply, *, job_id: str | None = None) -> ApiError:
    """The exception for an answer that is not what was asked for: status code first, words second."""
    data = reply.json()
    if 300 <= reply.status < 400:
        return _redirected(reply, job_id)
    if reply.status < 400 or (data is None and reply.status in (403, 404) and _is_html(reply)):
        words = f"{_describe(reply)} came where JSON was due (HTTP {reply.status})"
        return NotUmrgen(words, status=reply.status, job_id=job_id)
    return api_error(reply.status, data, job_id=job_id)


def _redirected(reply: Reply, job_id: str | None) -> NotUmrgen:
    target = urlsplit(reply.headers.get("location", ""))
    where = f"{target.scheme}://{target.hostname}" if target.hostname else "elsewhere"
    return NotUmrgen(
        f"the server redirects to {where} (HTTP {reply.status}); the key was not sent there",
        status=reply.status,
        job_id=job_id,
        next="If that is the right server, set UMRGEN_BASE_URL to it.",
    )


def _is_html(reply: Reply) -> bool:
    return reply.body.lstrip()[:1] == b"<" or "html" in reply.headers.get("content-type", "")


def _describe(reply: Reply) -> str:
    if not reply.body:
        return "an empty answer"
    return "an HTML page" if _is_html(reply) else "something unreadable"


def transient(reply: Reply) -> bool:
    return (reply.status >= 500 and reply.status != 501) or reply.status in (408, 425)


# --- flows ------------------------------------------------------------------------------------------


def call(
    run: CallContext,
    method: str,
    path: str,
    *,
    body: Any = None,
    content_type: str = "application/json",
    hold: int = 0,
    patience: RetryBudget | None = None,
    delay: float = 0.0,
    job_id: str | None = None,
) -> "Flow[tuple[Reply, dict[str, Any]]]":
    """One call that may be repeated without harm: its answer and the JSON object in it.

    Tried again while the server is away, within `patience` (`submit_patience` when not given), and
    while it says that it is asked too often. Raises ConnectionFailed, WaitTimeout and what it refuses.
    """
    patience = patience or RetryBudget(run, run.options.submit_patience)
    limited = RetryBudget(run, float("inf"))
    headers = {"Content-Type": content_type} if body is not None else {}
    headers |= {"Prefer": f"wait={hold}"} if hold else {}
    garbage = 0
    while True:
        try:
            reply = yield run.step(method, path, delay=delay, headers=headers, body=body, held=hold, job_id=job_id)
        except TransportFailure as failure:
            run.now = failure.at
            delay = patience.bear(ConnectionFailed(unreachable(failure), job_id=job_id), job_id=job_id)
            continue
        run.now = reply.at
        data = reply.json()
        if 200 <= reply.status < 300 and data is not None:
            patience.good()
            return reply, data
        error = failure_of(reply, job_id=job_id)
        if isinstance(error, RateLimited):
            delay = limited.bear(error, limited_delay(run, reply, limited), job_id=job_id)
        elif transient(reply):
            delay = patience.bear(error, retry_after(reply), job_id=job_id)
        elif reply.status == 200 and garbage < run.options.garbage_tries:
            garbage += 1  # a tunnel's page or a cut-off answer
            delay = max(patience.bear(error, job_id=job_id), run.options.running_interval)
        else:
            raise error


def ask(run: CallContext, method: str, path: str, *, job_id: str | None = None) -> "Flow[dict[str, Any]]":
    """A call that older servers do not have. Raises Unsupported there."""
    try:
        _, data = yield from call(run, method, path, job_id=job_id)
    except ApiError as error:
        if lacks_call(error):
            raise Unsupported(f"this server has no {path.removeprefix(API)}", status=error.status) from None
        raise
    return data


def lacks_call(error: ApiError) -> bool:
    """Whether an answer means that the path itself is unknown, not what it names."""
    names_a_job = isinstance(error, JobNotFound) and error.coded
    return (error.status == 404 and not names_a_job) or error.status in (405, 501)


def limited_delay(run: CallContext, reply: Reply, limited: RetryBudget) -> float:
    """After a 429: what the server asks for; if it names no time, enough for its window to move on.

    From then on the client keeps to a budget of its own.
    """
    asked = retry_after(reply)
    if asked is not None:
        return asked
    run.budget.limited = True
    return min(run.options.longest_delay, 2 * run.options.queued_interval * 2.0 ** min(limited.failures, 10))


def unreachable(failure: TransportFailure) -> str:
    return f"the server cannot be reached: {failure}"
