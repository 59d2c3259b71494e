"""HTTP calls of engines behind a network, with a deadline and a largest size for each response.

Connections are direct: proxies of the environment are ignored, and redirects are not followed.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import httpx2

from umrgen.server.engines import EngineCrashed

__all__ = ["RemoteHttp", "ResponseLost", "ServerUnreachable"]

log = logging.getLogger(__name__)

Parsed = TypeVar("Parsed")
LARGEST_RESPONSE = 64 << 20
"""Bytes, of responses other than images."""
CONNECT_TIMEOUT = 5.0
"""Seconds."""


class ServerUnreachable(EngineCrashed):
    """No connection could be opened: the request was not sent."""


class ResponseLost(EngineCrashed):
    """The request was sent, perhaps, and no complete response arrived."""


class RemoteHttp:
    """The connections to one server."""

    def __init__(self, url: str, timeout: float, program: str) -> None:
        """`url` is the base URL, `timeout` the deadline of a call in seconds, `program` the server's name in errors."""
        self._timeout = timeout
        self._program = program
        limits = httpx2.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
        self._http = httpx2.AsyncClient(
            base_url=url, timeout=limits, trust_env=False, headers={"Accept-Encoding": "identity"}
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        limit: int | None = None,
        patience: int = 1,
        **arguments: Any,
    ) -> tuple[int, bytes]:
        """Return the status and the body of a response.

        `content` is JSON; `limit` the largest body (None: `LARGEST_RESPONSE`); `patience` multiplies the deadline.
        Raises ServerUnreachable and ResponseLost.
        """
        headers = {"Content-Type": "application/json"} if content is not None else {}
        try:
            async with (
                asyncio.timeout(self._timeout * patience),
                self._http.stream(method, path, content=content, headers=headers, **arguments) as response,
            ):
                return response.status_code, await self._read(response, limit or LARGEST_RESPONSE)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            raise ServerUnreachable(f"{self._program} does not respond") from None
        except (httpx2.HTTPError, TimeoutError) as error:
            raise ResponseLost(f"the connection to {self._program} failed: {type(error).__name__}") from None

    async def _read(self, response: httpx2.Response, limit: int) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ResponseLost(f"a response of {self._program} is compressed, although that was not requested")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > limit:
                raise ResponseLost(f"a response of {self._program} is larger than {limit} bytes")
        return bytes(body)

    def parse(self, parser: Callable[[bytes], Parsed], body: bytes) -> Parsed:
        """Return the parsed body. Raises ResponseLost for one that the parser refuses, or that is nested too deeply."""
        try:
            return parser(body)
        except (ValueError, RecursionError) as error:
            log.warning("a response of %s is not as expected: %s", self._program, type(error).__name__)
            raise ResponseLost(f"a response of {self._program} is not as expected: is it {self._program}?") from None
