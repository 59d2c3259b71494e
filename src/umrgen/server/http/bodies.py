"""Reading a request's body without ever holding more of it than is allowed."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from umrgen.server.http.problems import Problem

__all__ = ["read_body"]

LINGER_BYTES = 256 << 20
LINGER_SECONDS = 10.0


async def read_body(request: Request, limit: int) -> bytes:
    """The body, at most `limit` bytes of it. Raises Problem `too_large`.

    What is too large is still taken off the wire for a while and thrown away: a caller that is
    busy sending would otherwise see a reset connection in place of the answer.
    """
    announced = request.headers.get("content-length", "")
    fits = not (announced.isdigit() and int(announced) > limit)
    body = bytearray()
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            taken = 0
            async for chunk in request.stream():
                taken += len(chunk)
                fits = fits and taken <= limit
                if fits:
                    body += chunk
                elif taken > LINGER_BYTES:
                    break
    except (TimeoutError, ClientDisconnect):
        fits = False
    if not fits:
        raise Problem("too_large", f"the body may have {limit} bytes at most", headers={"Connection": "close"})
    return bytes(body)
