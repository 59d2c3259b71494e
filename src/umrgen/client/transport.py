"""The HTTP transport with a connection pool (for `umrgen status`, see `stdlib_transport`).

The API key is sent to the base URL's origin only. Redirects are not followed, and cookies are not stored.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx2

from umrgen.client.address import Server
from umrgen.client.failures import failure_reason
from umrgen.client.flow import Options, Reply, Step, TransportFailure
from umrgen.client.pools import KEEP_ALIVE, Pools
from umrgen.client.proxies import proxy_for
from umrgen.client.responses import decompress, read_object
from umrgen.clock import Clock, SystemClock

__all__ = ["KEEP_ALIVE", "Stream", "Transport"]


class Stream:
    """A response whose body is read in chunks."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body's bytes as they arrive, without decoding."""
        return self._response.aiter_raw()


class _RequestTrace:
    """Follows one request through httpx2's `trace` extension.

    `begun` is true once any byte of the request may have been sent. A connection whose TLS handshake was cancelled,
    which httpx2 does not close, is closed here.
    """

    def __init__(self, base_url: str) -> None:
        self.begun = False
        self._base_url = base_url
        self._close: Callable[[], Awaitable[None]] | None = None

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Handle an event of httpx2."""
        if event.endswith("send_request_headers.started"):
            self.begun = True
        elif event.endswith("connect_tcp.complete"):
            self._close = info["return_value"].aclose
        elif event.endswith("start_tls.failed") and self._close is not None:
            await self._close()

    def failure(self, reason: str, now: float) -> TransportFailure:
        """Return the failure of the request."""
        return TransportFailure(reason, at=now, sent=self.begun, server=self._base_url)


class Transport:
    """Sends steps to one server with one key."""

    def __init__(self, server: Server, options: Options, clock: Clock | None = None) -> None:
        self.base_url = server.base_url
        self.clock = clock or SystemClock()
        self._connect_timeout = options.connect_timeout
        self._pools = Pools(self.base_url)
        self._headers = server.headers()
        self.key_mark = server.key_mark

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pools.aclose()

    def _timeouts(self, begin: float, seconds: float) -> httpx2.Timeout:
        # Below the whole timeout, so that a connection timeout is reported as such.
        return httpx2.Timeout(seconds, connect=min(0.9 * begin, self._connect_timeout))

    async def send(self, step: Step) -> Reply:
        """Send one request; the whole response must arrive within `step.timeout`. Raises TransportFailure."""
        started = self.clock.monotonic()
        trace = _RequestTrace(self.base_url)
        try:
            async with asyncio.timeout(step.timeout), self._response(step, trace) as response:
                body = await _read(response, step.limit, trace, self.clock)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise trace.failure(_reason(error, trace, self.base_url), self.clock.monotonic()) from None
        except TimeoutError:
            raise trace.failure(f"no response within {step.timeout:.1f} s", self.clock.monotonic()) from None
        data = read_object(body)
        now = self.clock.monotonic()
        headers = {name.lower(): value for name, value in response.headers.items()}
        wall = self.clock.now() / 1000
        return Reply(response.status_code, headers, body, at=now, elapsed=now - started, wall=wall, data=data)

    def _response(self, step: Step, trace: "_RequestTrace") -> AbstractAsyncContextManager[httpx2.Response]:
        return self._pools.client(_origin(self.base_url)).stream(
            step.method,
            self.base_url + step.path,
            headers=self._headers | dict(step.headers),
            content=step.body,
            timeout=self._timeouts(step.timeout, step.timeout),
            extensions={"trace": trace.trace},
        )

    @asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], *, with_key: bool, begin: float, timeout: float
    ) -> AsyncIterator[Stream]:
        """Send a GET request whose response body is read in chunks. Raises TransportFailure.

        The response must begin within `begin` seconds, and be complete within `timeout` seconds.
        """
        client = self._pools.client(_origin(url))
        sent = self._headers | dict(headers) if with_key else dict(headers)
        trace = _RequestTrace(self.base_url)
        try:
            request = client.build_request(
                "GET", url, headers=sent, timeout=self._timeouts(min(begin, timeout), timeout)
            )
            request.extensions |= {"trace": trace.trace}
            if request.url.raw_path != (target := _target(url)):
                request.extensions |= {"target": target}
            async with asyncio.timeout(timeout):
                async with asyncio.timeout(min(begin, timeout)):
                    response = await client.send(request, stream=True)
                try:
                    yield Stream(response)
                finally:
                    await response.aclose()
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise trace.failure(_reason(error, trace, url), self.clock.monotonic()) from None
        except TimeoutError:
            raise trace.failure("no full response in time", self.clock.monotonic()) from None


async def _read(response: httpx2.Response, limit: int, trace: _RequestTrace, clock: Clock) -> bytes:
    """Return the body. Raises TransportFailure when it has more than `limit` bytes."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            break
    else:
        decoded = decompress(bytes(body), response.headers.get("content-encoding", ""), limit)
        if len(decoded) <= limit:
            return decoded
    raise trace.failure(f"a response of over {limit:,} bytes", clock.monotonic())


def _reason(error: Exception, trace: _RequestTrace, url: str) -> str:
    """Return why a request failed; with the proxy, when the connection could not be opened."""
    reason = failure_reason(error)
    refused = isinstance(error, httpx2.ProxyError)
    proxy = proxy_for(url) if refused or not trace.begun else None
    return f"{reason} ({proxy})" if proxy else reason


def _origin(url: str) -> str:
    """Return the scheme, host and port of a URL."""
    return "/".join(url.split("/", 3)[:3])


def _target(url: str) -> bytes:
    """Return the request target exactly as in `url`; only bytes that are invalid in a request line are quoted."""
    parts = url.split("/", 3)
    path = "/" + (parts[3] if len(parts) > 3 else "")
    path = path.partition("#")[0]
    return b"".join(bytes([b]) if 0x21 <= b <= 0x7E else b"%%%02X" % b for b in path.encode())
