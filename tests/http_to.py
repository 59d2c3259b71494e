"""Plain HTTP to a FaultServer, without the client of this package."""

import socket
import ssl
from typing import Any

import httpx2

from support import until
from umrgen.testing import FaultServer, ServerJob

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""A context for clients that use no TLS: the default one takes longer to construct than a test."""


def http_to(server: FaultServer, **headers: str) -> httpx2.Client:
    """Return a client that sends the server's key."""
    return httpx2.Client(
        base_url=server.url, headers={"Authorization": f"Bearer {server.key}"} | headers, timeout=10, verify=NO_TLS
    )


def submit(http: httpx2.Client, **fields: Any) -> str:
    """Submit a job; return its id."""
    response = http.post("/api/v1/generate", json={"prompt": "a lighthouse"} | fields)
    assert response.status_code == 202, response.text
    job_id: str = response.json()["job_id"]
    return job_id


def status(http: httpx2.Client, job_id: str, **headers: str) -> httpx2.Response:
    """Request the status of a job."""
    return http.get(f"/api/v1/status/{job_id}", headers=headers)


def finish(server: FaultServer, http: httpx2.Client) -> ServerJob:
    """Submit a job; return it when it has ended."""
    submit(http)
    return until(lambda: server.jobs[-1].state.over and server.jobs[-1])


def get(server: FaultServer, path: str, *, close: bool = True) -> bytes:
    """Return the bytes of a request."""
    ending = "Connection: close\r\n" if close else ""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key}\r\n{ending}\r\n".encode()


def exchange_bytes(server: FaultServer, data: bytes) -> bytes:
    """Send these bytes; return the received bytes up to the end of the connection. Raises ConnectionResetError."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(data)
        received = b""
        while part := sock.recv(65536):
            received += part
        return received
