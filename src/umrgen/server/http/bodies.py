"""Reading a request's body without ever holding more of it than is allowed, or waiting for it for ever."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from umrgen.server.http.problems import Problem

__all__ = ["read_body"]

LINGER_BYTES = 256 << 20
GRACE_SECONDS = 10.0
SLOWEST = 16 << 10
"""Bytes a second that a body must come at, after the grace."""


async def read_body(request: Request, limit: int) -> bytes:
    """The body, at most `limit` bytes of it. Raises Problem `too_large` or `request_timeout`.

    What is too large is still taken off the wire for a while and thrown away: a caller that is
    busy sending would otherwise see a reset connection in place of the answer.
    """
    announced = request.headers.get("content-length", "")
    fits = not (announced.isdigit() and int(announced) > limit)
    body = bytearray()
    loop = asyncio.get_running_loop()
    until, taken, earned = loop.time() + GRACE_SECONDS, 0, 0
    try:
        async with asyncio.timeout_at(until) as patience:
            async for chunk in request.stream():
                taken += len(chunk)
                fits = fits and taken <= limit
                if fits:
                    body += chunk
                    if taken // SLOWEST > earned:  # by whole seconds: most bodies need no further timer
                        earned = taken // SLOWEST
                        patience.reschedule(until + earned)
                elif taken > LINGER_BYTES:
                    break
    except TimeoutError:
        if fits:
            raise Problem("request_timeout", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise Problem("request_timeout", "the body did not come to its end") from None  # for the log
    if not fits:
        raise Problem("too_large", f"the body may have {limit} bytes at most", headers={"Connection": "close"})
    return bytes(body)
