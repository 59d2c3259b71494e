"""Reading a request's body, with a limit on its size and on the time that it takes."""

from starlette.requests import ClientDisconnect, Request

from umrgen.server.http.problems import Problem
from umrgen.server.running_time import RunningTimeout

__all__ = ["read_body"]

LINGER_BYTES = 256 << 20
"""Bytes of a body above the limit that are read and discarded."""
GRACE_SECONDS = 10.0
SLOWEST = 16 << 10
"""The lowest transfer rate of a body after the grace period, in bytes per second."""


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body, of at most `limit` bytes. Raises Problem `too_large` or `request_timeout`.

    A body above the limit is read and discarded, up to LINGER_BYTES: a client that still sends would otherwise see a
    reset connection instead of the response.
    """
    announced = request.headers.get("content-length", "")
    fits = not (announced.isdigit() and int(announced) > limit)
    body = bytearray()
    taken, earned = 0, 0
    try:
        async with RunningTimeout(GRACE_SECONDS) as deadline:
            async for chunk in request.stream():
                taken += len(chunk)
                fits = fits and taken <= limit
                if fits:
                    body += chunk
                    deadline.extend(taken // SLOWEST - earned)
                    earned = taken // SLOWEST
                elif taken > LINGER_BYTES:
                    break
    except TimeoutError:
        if fits:
            raise Problem("request_timeout", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise Problem("request_timeout", "the client disconnected before the end of the body") from None  # for the log
    if not fits:
        raise Problem("too_large", f"the body must have {limit} bytes or fewer", headers={"Connection": "close"})
    return bytes(body)
