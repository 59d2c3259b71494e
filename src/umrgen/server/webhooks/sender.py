"""One POST to one receiver, within bounds of time and size, to nowhere but where it was sent."""

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import aclosing

import httpcore2

from umrgen.server.webhooks.address_policy import Allow, BadURL, checked_target
from umrgen.server.webhooks.delivery_result import Answer, PermanentFailure, TransientFailure
from umrgen.server.webhooks.pinned import PinnedBackend, Resolve, resolve

__all__ = ["HttpSender"]

CONNECT_SECONDS = 4.0
"""For each address of a receiver: the second has its turn too before all is over."""


class HttpSender:
    """Sends webhooks. Connections are not kept: the next message is a while away, and is checked anew."""

    def __init__(self, allow: Allow, *, seconds: float, answer_bytes: int, resolve: Resolve = resolve) -> None:
        self._allow = allow
        self._seconds = seconds
        self._answer_bytes = answer_bytes
        self._backend = PinnedBackend(allow, resolve)
        self._opened: httpcore2.AsyncConnectionPool | None = None

    async def _pool(self) -> httpcore2.AsyncConnectionPool:
        if self._opened is None:
            # Reading the system's certificates takes long enough to be felt by others.
            context = await asyncio.to_thread(httpcore2.default_ssl_context)
            self._opened = self._opened or httpcore2.AsyncConnectionPool(
                context, max_connections=None, max_keepalive_connections=0, network_backend=self._backend
            )
        return self._opened

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The receiver's answer, whatever it is. Raises Undelivered when there was none, Hopeless when `url` may
        not be called."""
        try:
            target = checked_target(url, self._allow)
        except BadURL as bad:
            raise PermanentFailure(f"the address {bad}") from None
        address = httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        extensions = {"timeout": {"connect": CONNECT_SECONDS}}
        answer: Answer | None = None
        try:
            async with (
                asyncio.timeout(self._seconds),
                (await self._pool()).stream(
                    "POST",
                    address,
                    headers=[("Host", target.authority), *headers.items()],
                    content=body,
                    extensions=extensions,
                ) as response,
            ):
                answer = Answer(response.status, _header(response, b"retry-after"))
                await self._hear_out(response)
        except (TransientFailure, PermanentFailure):
            raise
        except Exception as error:
            # What comes after the status line does not matter any more.
            if answer is None:
                raise TransientFailure(self._words(error)) from error
        assert answer is not None
        return answer

    async def _hear_out(self, response: httpcore2.Response) -> None:
        """Take some of the answer's body, so that a receiver that is writing it does not see a broken pipe."""
        taken = 0
        async with aclosing(response.aiter_stream()) as chunks:
            async for chunk in chunks:
                taken += len(chunk)
                if taken >= self._answer_bytes:
                    return

    def _words(self, error: Exception) -> str:
        match error:
            case TimeoutError():
                return f"the receiver did not answer within {self._seconds:g} s"
            case httpcore2.ConnectError(args=(ssl.SSLCertVerificationError() as refused,)):
                return f"the receiver's certificate is not accepted: {refused.verify_message}"
            case httpcore2.ConnectError(args=(ssl.SSLError(),)):
                return "the receiver speaks no TLS that this server accepts"
            case httpcore2.ConnectError() | httpcore2.ConnectTimeout():
                return "the receiver cannot be connected to"
            case httpcore2.RemoteProtocolError():
                return "the receiver did not answer in HTTP, or hung up before it did"
            case httpcore2.NetworkError():
                return "the connection to the receiver broke"
            case _:
                return "the message could not be sent"

    async def aclose(self) -> None:
        if self._opened is not None:
            await self._opened.aclose()


def _header(response: httpcore2.Response, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), None)
