"""A transport that uses only the standard library, for commands that run before httpx2 could be imported.

Importing httpx2 takes longer than the rest of `umrgen status`, whose single request needs no connection pool.
It does not support proxies: see `is_supported`.
"""

import http.client
import os
import socket
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit

from umrgen.client.address import Server
from umrgen.client.flow import Reply, Step, TransportFailure

__all__ = ["StdlibTransport", "is_supported"]

MAX_RESPONSE = 32 * 1024 * 1024


def is_supported() -> bool:
    """Return whether no proxy is configured."""
    return not {"http_proxy", "https_proxy", "all_proxy"} & {name.lower() for name in os.environ}


class StdlibTransport:
    """Sends each step on a new connection. Never follows redirects."""

    def __init__(self, server: Server, connect_timeout: float) -> None:
        self._server = server
        self._connect_timeout = connect_timeout

    def send(self, step: Step) -> Reply:
        """Send one request; the whole response must arrive within `step.timeout`. Raises TransportFailure."""
        started = time.monotonic()
        connection = self._connection(min(step.timeout, self._connect_timeout))
        sent = False
        try:
            connection.connect()
            sent = True
            with _SocketDeadline(connection.sock, step.timeout - (time.monotonic() - started)):
                prefix = urlsplit(self._server.base_url).path
                headers = self._server.headers() | dict(step.headers)
                connection.request(step.method, prefix + step.path, body=step.body, headers=headers)
                response = connection.getresponse()
                body = response.read(MAX_RESPONSE)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise TransportFailure(reason, at=time.monotonic(), sent=sent) from error
        finally:
            connection.close()
        now = time.monotonic()
        lower = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, lower, body, at=now, elapsed=now - started, wall=time.time())

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        parts = urlsplit(self._server.base_url)
        host = parts.hostname or ""
        if parts.scheme == "https":
            import ssl

            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=context)
        return http.client.HTTPConnection(host, parts.port, timeout=timeout)


class _SocketDeadline:
    """Shuts a socket down after some seconds: its own timeout starts again with every byte."""

    def __init__(self, connected: socket.socket, seconds: float) -> None:
        self._socket = connected
        self._timer = threading.Timer(max(0.001, seconds), self._end)
        connected.settimeout(None)

    def _end(self) -> None:
        with suppress(OSError):  # the connection may just have closed
            self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> None:
        self._timer.daemon = True
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
