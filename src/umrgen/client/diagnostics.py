"""Checks of the configuration and the server, each with a remedy. They create no job."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal
from urllib.parse import urlsplit

from umrgen.client.address import Server
from umrgen.client.failures import disk_reason
from umrgen.client.flow import Options, Reply, Step, TransportFailure, http_date
from umrgen.client.protocol import API, error_from
from umrgen.client.responses import reports_missing_job
from umrgen.client.transport import Transport
from umrgen.errors import NotUmrgen, UmrgenError
from umrgen.text import printable

__all__ = ["Check", "configured_address", "run_checks"]

Verdict = Literal["good", "bad", "note"]
MAX_SKEW = 30.0
"""Seconds of difference between the two clocks above which a note is shown."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check, and a remedy when it is bad."""

    name: str
    verdict: Verdict
    message: str
    remedy: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", printable(self.message))  # parts of it are from the server
        object.__setattr__(self, "remedy", printable(self.remedy))

    def as_dict(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        return {"check": self.name, "verdict": self.verdict, "words": self.message, "remedy": self.remedy or None}


async def run_checks(base_url: str | None, api_key: str | None, folder: Path) -> AsyncIterator[Check]:
    """Yield the result of each check; after a bad one, the checks that depend on it are omitted."""
    yield check_folder(folder)
    if not base_url:
        remedy = "export UMRGEN_BASE_URL=http://127.0.0.1:3088, or start a server with `umrgen serve`."
        yield Check("address", "bad", "no server is configured", remedy)
        return
    try:
        transport = Transport(Server(base_url, api_key), Options())
    except UmrgenError as error:
        yield Check("address", "bad", str(error), error.next)
        return
    try:
        async for check in _check_server(transport, api_key):
            yield check
    finally:
        await transport.aclose()


def check_folder(folder: Path) -> Check:
    """Check that images can be written into `folder`."""
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check(
            "folder", "bad", f"{folder} is not writable: {disk_reason(error)}", "Choose another folder with -o."
        )
    return Check("folder", "good", f"{folder} is writable")


async def _check_server(transport: Transport, api_key: str | None) -> AsyncIterator[Check]:
    """Check the connection, the API and the key, by one status call for a job that does not exist."""
    try:
        reply = await _get(transport, f"{API}/status/doctor_no_such_job")
    except TransportFailure as failure:
        remedy = _connection_remedy(transport.base_url)
        yield Check("address", "bad", f"{transport.base_url} cannot be reached: {failure}", remedy)
        return
    yield Check("address", "good", f"{transport.base_url} responds in {reply.elapsed * 1000:.0f} ms")
    api = _check_api(reply)
    yield api
    if api.verdict == "bad":
        return
    key = _check_key(reply, api_key)
    yield key
    if key.verdict == "bad":
        return
    yield _check_clock(reply)
    yield await _check_capabilities(transport)


async def _get(transport: Transport, path: str) -> Reply:
    return await transport.send(Step("GET", path, {}, None, 0.0, 15.0))


def _connection_remedy(base_url: str) -> str:
    host = urlsplit(base_url).hostname or ""
    if host in ("localhost", "127.0.0.1", "::1"):
        return "Start the server (umrgen serve), or correct the port in UMRGEN_BASE_URL."
    return "Check UMRGEN_BASE_URL, your network, and that the server and its tunnel run."


def _check_api(reply: Reply) -> Check:
    error = error_from(reply)
    if not isinstance(error, NotUmrgen):
        return Check("api", "good", "the response is JSON, as from an UMRGEN server")
    remedy = "A tunnel or proxy may have sent this page: open the address in a browser, or correct the address."
    return Check("api", "bad", str(error), remedy)


def _check_key(reply: Reply, api_key: str | None) -> Check:
    if reply.status in (401, 403):
        message = "the server does not accept this key" if api_key else "no key is configured; the server requires one"
        return Check("key", "bad", message, "Set UMRGEN_API_KEY; the operator makes a key with `umrgen keys create`.")
    if reports_missing_job(reply.status, reply.json()):
        return Check("key", "good", "the key is accepted")
    remedy = "Try again; if the error persists, contact the operator."
    return Check("key", "bad", f"the server responds with HTTP {reply.status}", remedy)


def _check_clock(reply: Reply) -> Check:
    date = http_date(reply.headers.get("date", ""))
    if date is None:
        return Check("clock", "note", "the server's responses have no valid date")
    skew = reply.wall - date
    if abs(skew) <= MAX_SKEW:
        return Check("clock", "good", "this clock and the server's agree")
    message = f"this clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server's"
    return Check("clock", "note", message, "The client does not depend on it; expiring signed URLs would.")


async def _check_capabilities(transport: Transport) -> Check:
    try:
        reply = await _get(transport, f"{API}/capabilities")
    except TransportFailure as failure:
        return Check("abilities", "bad", f"the connection was interrupted: {failure}", "Try again.")
    data = reply.json() if reply.status == 200 else None
    if data is None:
        message = "an older server: polled at intervals, without batch calls, cancel and digests; the rest works"
        return Check("abilities", "note", message)
    engine, calls = data.get("engine"), data.get("calls")
    name = engine.get("name") if isinstance(engine, dict) else None
    listed = ", ".join(str(call) for call in calls) if isinstance(calls, list) else "none"
    state = engine.get("state") if isinstance(engine, dict) else None
    shown = f"{name} ({state})" if isinstance(state, str) and state != "ready" else name
    verdict: Verdict = "note" if state == "unavailable" else "good"
    return Check("abilities", verdict, f"engine {shown}; calls: {listed}")


def configured_address() -> tuple[str | None, str | None]:
    """Return the base URL and the API key of the environment."""
    return os.environ.get("UMRGEN_BASE_URL"), os.environ.get("UMRGEN_API_KEY")
