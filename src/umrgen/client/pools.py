"""Connection pools: one for each event loop and origin, with the proxy that the environment sets for it."""

import asyncio
import gc
import ssl
import warnings
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from umrgen.client.proxies import Proxy, proxy_for
from umrgen.errors import UmrgenError

__all__ = ["Pools"]

KEEP_ALIVE = 90.0
"""Seconds for which an idle connection is kept: longer than any polling interval, so that it is reused."""
LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEEP_ALIVE)


class Pools:
    """The connection pools of one client.

    A connection belongs to the event loop that opened it: a client that is used in a second one, also after a fork,
    gets new connections there. Raises UmrgenError when the proxy of the base URL cannot be used.
    """

    def __init__(self, base_url: str) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, dict[str, httpx2.AsyncClient]] = {}
        if proxy := proxy_for(base_url):
            _transport(base_url, proxy)

    def client(self, origin: str) -> httpx2.AsyncClient:
        """Return the pool for an origin, on the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            self._drop_closed()
        pools = self._by_loop.setdefault(loop, {})
        if origin not in pools:
            pools[origin] = _http_client(origin)
        return pools[origin]

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        for pool in self._by_loop.pop(asyncio.get_running_loop(), {}).values():
            await pool.aclose()

    def _drop_closed(self) -> None:
        """Drop the pools of closed event loops, which cannot close their connections any more."""
        closed = [loop for loop in self._by_loop if loop.is_closed()]
        if closed:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                for loop in closed:
                    del self._by_loop[loop]
                gc.collect()  # closes their sockets


def _http_client(origin: str) -> httpx2.AsyncClient:
    # With a transport, httpx2 does not read the variables for proxies itself.
    return httpx2.AsyncClient(
        transport=_transport(origin, proxy_for(origin)),
        follow_redirects=False,
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
    )


def _transport(origin: str, proxy: Proxy | None) -> httpx2.AsyncHTTPTransport:
    # Loading the root certificates into a TLS context takes longer than a whole call; plain HTTP needs none of them.
    # For plain HTTP, an empty context is used, which accepts no certificate.
    tls = None if origin.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return httpx2.AsyncHTTPTransport(verify=tls or True, limits=LIMITS, proxy=proxy.url if proxy else None)
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        if proxy is None:
            raise
        missing = isinstance(error, ImportError)
        raise UmrgenError(
            f"{proxy} cannot be used: "
            + ("support for SOCKS is not installed" if missing else "its address or scheme is not supported"),
            code="proxy_unusable",
            next=("pip install socksio, or unset" if missing else "Correct or unset") + f" {proxy.variable}.",
        ) from None
