"""A transport that uses only the standard library, for commands that run before httpx2 could be imported.

Importing httpx2 takes longer than the rest of `umrgen status`, whose single request needs no connection pool.
It does not support proxies: see `is_supported`.
"""

import http.client
import socket
import threading
import time
from contextlib import closing, suppress
from typing import Self
from urllib.parse import urlsplit

from umrgen.client.address import Server
from umrgen.client.failures import failure_reason
from umrgen.client.flow import Reply, Step, TransportFailure
from umrgen.client.proxies import proxy_for
from umrgen.client.responses import decompress, read_object

__all__ = ["StdlibTransport", "is_supported"]


def is_supported(base_url: str) -> bool:
    """Return whether requests to this server need no proxy."""
    return proxy_for(base_url) is None


class StdlibTransport:
    """Sends each step on a new connection. Never follows redirects."""

    def __init__(self, server: Server, connect_timeout: float) -> None:
        self._server = server
        self._connect_timeout = connect_timeout

    def send(self, step: Step) -> Reply:
        """Send one request; the whole response must arrive within `step.timeout`. Raises TransportFailure."""
        started = time.monotonic()
        connection = self._connection(min(step.timeout, self._connect_timeout))
        sent, deadline = False, None
        try:
            connection.connect()
            sent = True
            with _SocketDeadline(connection.sock, step.timeout - (time.monotonic() - started)) as deadline:
                prefix = urlsplit(self._server.base_url).path
                headers = self._server.headers() | dict(step.headers)
                connection.request(step.method, prefix + step.path, body=step.body, headers=headers)
                with closing(connection.getresponse()) as response:  # it has a reference to the socket
                    body = _read(response, step.limit)
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = deadline is not None and deadline.passed
            reason = f"no response within {step.timeout:.1f} s" if late else failure_reason(error)
            raise TransportFailure(reason, at=time.monotonic(), sent=sent, server=self._server.base_url) from None
        finally:
            connection.close()
        data = read_object(body)
        now = time.monotonic()
        lower = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, lower, body, at=now, elapsed=now - started, wall=time.time(), data=data)

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        parts = urlsplit(self._server.base_url)
        host = parts.hostname or ""
        if parts.scheme == "https":
            import ssl

            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=context)
        return http.client.HTTPConnection(host, parts.port, timeout=timeout)


def _read(response: http.client.HTTPResponse, limit: int) -> bytes:
    """Return the body. Raises TransportFailure when it has more than `limit` bytes."""
    body = response.read(limit + 1)
    if len(body) <= limit:
        body = decompress(body, response.getheader("content-encoding", ""), limit)
    if len(body) > limit:
        raise TransportFailure(f"a response of over {limit:,} bytes", at=time.monotonic(), sent=True)
    return body


class _SocketDeadline:
    """Shuts a socket down after some seconds: its own timeout starts again with every byte."""

    def __init__(self, connected: socket.socket, seconds: float) -> None:
        self._socket = connected
        self._timer = threading.Timer(max(0.001, seconds), self._end)
        self.passed = False
        connected.settimeout(None)

    def _end(self) -> None:
        self.passed = True
        with suppress(OSError):  # the connection may just have closed
            self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
