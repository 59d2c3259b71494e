"""Errors in OpenAI's form, with the remedy in the message: its clients show nothing else."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from umrgen.server.http.problems import Problem, to_problem

__all__ = ["error_body", "error_response"]

LONGEST_RETRY = 120
"""Seconds: the SDKs ignore a longer Retry-After, and repeat the request at once."""
NOT_REPEATED = {408: 400, 409: 400}
"""The SDKs repeat a request after these statuses, whatever the reason."""


def error_body(error: Exception) -> Mapping[str, object]:
    """Return the body for an exception of a handler."""
    body = to_problem(error).body
    text = f"{body.error.rstrip('.')}. {body.next}"
    param = body.field if isinstance(body.field, str) else None
    return {"error": {"message": text, "type": _type(body.status), "param": param, "code": body.code}}


def _type(status: int) -> str:
    match status:
        case 401 | 403:
            return "authentication_error"
        case 429:
            return "rate_limit_error"
        case _:
            return "server_error" if status >= 500 else "invalid_request_error"


def error_response(error: Exception) -> Response:
    """Return the response for an exception of a handler."""
    problem = to_problem(error)
    status = NOT_REPEATED.get(problem.status, problem.status)
    return Response(msgspec.json.encode(error_body(problem)), status, _headers(problem), media_type="application/json")


def _headers(problem: Problem) -> dict[str, str]:
    headers = dict(problem.headers)
    wait = int(headers.get("Retry-After", "0"))
    if wait > LONGEST_RETRY:
        headers["Retry-After"] = str(LONGEST_RETRY)
    if not problem.body.retryable or problem.status in NOT_REPEATED or wait > LONGEST_RETRY:
        headers["x-should-retry"] = "false"
    return headers
