"""One POST to one receiver, with limits of time and size, and without redirects."""

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import aclosing

import httpcore2

from umrgen.server.running_time import RunningTimeout
from umrgen.server.webhooks.address_policy import Allow, BadURL, checked_target
from umrgen.server.webhooks.delivery_result import PermanentFailure, ReceiverResponse, TransientFailure
from umrgen.server.webhooks.pinned import PinnedBackend, Resolve, resolve

__all__ = ["HttpSender"]

CONNECT_SECONDS = 4.0
"""Timeout for each address of a receiver, so that a second one can be tried within the whole timeout."""


class HttpSender:
    """Sends webhooks. Connections are not kept alive, so that the address of each message is checked."""

    def __init__(self, allow: Allow, *, seconds: float, response_bytes: int, resolve: Resolve = resolve) -> None:
        self._allow = allow
        self._seconds = seconds
        self._response_bytes = response_bytes
        self._backend = PinnedBackend(allow, resolve)
        self._opened: httpcore2.AsyncConnectionPool | None = None

    async def _pool(self) -> httpcore2.AsyncConnectionPool:
        if self._opened is None:
            # Reading the system's certificates takes long enough to block the event loop noticeably.
            context = await asyncio.to_thread(httpcore2.default_ssl_context)
            self._opened = self._opened or httpcore2.AsyncConnectionPool(
                context, max_connections=None, max_keepalive_connections=0, network_backend=self._backend
            )
        return self._opened

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> ReceiverResponse:
        """Return the receiver's response, whatever its status. Raises TransientFailure when there was none, and
        PermanentFailure when `url` is not allowed."""
        try:
            target = checked_target(url, self._allow)
        except BadURL as bad:
            raise PermanentFailure(f"the URL {bad}") from None
        address = httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        extensions = {"timeout": {"connect": CONNECT_SECONDS}}
        answer: ReceiverResponse | None = None
        try:
            async with (
                RunningTimeout(self._seconds),
                (await self._pool()).stream(
                    "POST",
                    address,
                    headers=[("Host", target.authority), *headers.items()],
                    content=body,
                    extensions=extensions,
                ) as response,
            ):
                answer = ReceiverResponse(response.status, _header(response, b"retry-after"))
                await self._read_body(response)
        except (TransientFailure, PermanentFailure):
            raise
        except Exception as error:
            # A failure after the status line does not change the result.
            if answer is None:
                raise TransientFailure(self._describe(error)) from error
        assert answer is not None
        return answer

    async def _read_body(self, response: httpcore2.Response) -> None:
        """Read the start of the body, so that a receiver that is writing it does not see a broken pipe."""
        taken = 0
        async with aclosing(response.aiter_stream()) as chunks:
            async for chunk in chunks:
                taken += len(chunk)
                if taken >= self._response_bytes:
                    return

    def _describe(self, error: Exception) -> str:
        match error:
            case TimeoutError():
                return f"the receiver did not respond within {self._seconds:g} s"
            case httpcore2.ConnectError(args=(ssl.SSLCertVerificationError() as refused,)):
                return f"the receiver's certificate is not accepted: {refused.verify_message}"
            case httpcore2.ConnectError(args=(ssl.SSLError(),)):
                return "the receiver offers no TLS version that this server accepts"
            case httpcore2.ConnectError() | httpcore2.ConnectTimeout():
                return "the connection to the receiver failed"
            case httpcore2.RemoteProtocolError():
                return "the receiver did not respond in HTTP, or closed the connection first"
            case httpcore2.NetworkError():
                return "the connection to the receiver was lost"
            case _:
                return "the message could not be sent"

    async def aclose(self) -> None:
        if self._opened is not None:
            await self._opened.aclose()


def _header(response: httpcore2.Response, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), None)
