"""Checks of the configuration and the server, each with a remedy. They create no job."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from umrgen import __version__
from umrgen.client.address import Server
from umrgen.client.config import ServerChoice
from umrgen.client.descriptions import parse_capabilities
from umrgen.client.flow import Options, Reply, Step, TransportFailure, http_date
from umrgen.client.local_checks import Check, Verdict, check_proxy, local_checks
from umrgen.client.protocol import API, error_from
from umrgen.client.proxies import is_loopback
from umrgen.client.responses import reports_missing_job
from umrgen.client.transport import Transport
from umrgen.errors import NotUmrgen, UmrgenError

__all__ = ["Check", "run_checks"]

MAX_SKEW = 30.0
"""Seconds of difference between the two clocks above which a note is shown."""


async def run_checks(choice: ServerChoice, folder: Path) -> AsyncIterator[Check]:
    """Yield the result of each check; after a bad one, the checks that depend on it are omitted."""
    for check in local_checks(folder):
        yield check
    base_url, api_key = choice.base_url, choice.key
    if not base_url:
        remedy = "Run `umrgen login`, or start a server with `umrgen serve` and set UMRGEN_BASE_URL to its address."
        yield Check("address", "bad", "no server is configured", remedy)
        return
    try:
        transport = Transport(Server(base_url, api_key), Options())
    except UmrgenError as error:
        yield Check("address", "bad", str(error), error.next)
        return
    yield check_proxy(transport.base_url)
    try:
        async for check in _check_server(transport, choice):
            yield check
    finally:
        await transport.aclose()


async def _check_server(transport: Transport, choice: ServerChoice) -> AsyncIterator[Check]:
    """Check the connection, the API and the key, by one status call for a job that does not exist."""
    try:
        reply = await _get(transport, f"{API}/status/doctor_no_such_job")
    except TransportFailure as failure:
        remedy = _connection_remedy(transport.base_url, choice.url_source)
        yield Check("address", "bad", f"{transport.base_url} cannot be reached: {failure}", remedy)
        return
    responds = f"{transport.base_url} ({choice.url_source}) responds in {reply.elapsed * 1000:.0f} ms"
    yield Check("address", "good", responds)
    api = _check_api(reply)
    yield api
    if api.verdict == "bad":
        return
    key = _check_key(reply, choice)
    yield key
    if key.verdict == "bad":
        return
    yield _check_clock(reply)
    async for check in _check_capabilities(transport):
        yield check


async def _get(transport: Transport, path: str) -> Reply:
    return await transport.send(Step("GET", path, {}, None, 0.0, 15.0))


def _connection_remedy(base_url: str, source: str) -> str:
    if is_loopback(urlsplit(base_url).hostname or ""):
        return f"Start the server (umrgen serve), or correct the port in the address ({source})."
    return f"Check the address ({source}), your network, and that the server and its tunnel run."


def _check_api(reply: Reply) -> Check:
    error = error_from(reply)
    if not isinstance(error, NotUmrgen):
        return Check("api", "good", "the response is JSON, as from an UMRGEN server")
    remedy = "A tunnel or proxy may have sent this page: open the address in a browser, or correct the address."
    return Check("api", "bad", str(error), remedy)


def _check_key(reply: Reply, choice: ServerChoice) -> Check:
    if reply.status in (401, 403):
        message = f"the server does not accept this key ({choice.key_source})"
        if not choice.key:
            message = "no key is configured; the server requires one"
        remedy = "Run `umrgen login`, or set UMRGEN_API_KEY; the operator makes a key with `umrgen keys create`."
        return Check("key", "bad", message, remedy)
    if reports_missing_job(reply.status, reply.json()):
        return Check("key", "good", f"the key is accepted ({choice.key_source})")
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


async def _check_capabilities(transport: Transport) -> AsyncIterator[Check]:
    """Yield what the server can do, and whether its version is that of this client."""
    try:
        reply = await _get(transport, f"{API}/capabilities")
    except TransportFailure as failure:
        yield Check("abilities", "bad", f"the connection was interrupted: {failure}", "Try again.")
        return
    data = reply.json() if reply.status == 200 else None
    if data is None:
        message = "an older server: polled at intervals, without batch calls, cancel and digests; the rest works"
        yield Check("abilities", "note", message)
        return
    yield _describe_engine(data)
    yield _compare_versions(parse_capabilities(data).version)


def _describe_engine(data: Mapping[str, Any]) -> Check:
    engine, calls = data.get("engine"), data.get("calls")
    name = engine.get("name") if isinstance(engine, dict) else None
    listed = ", ".join(str(call) for call in calls) if isinstance(calls, list) else "none"
    state = engine.get("state") if isinstance(engine, dict) else None
    shown = f"{name} ({state})" if isinstance(state, str) and state != "ready" else name
    verdict: Verdict = "note" if state == "unavailable" else "good"
    return Check("abilities", verdict, f"engine {shown}; calls: {listed}")


def _compare_versions(server: str | None) -> Check:
    if server == __version__:
        return Check("version", "good", f"client and server have version {server}")
    message = f"the client has version {__version__}, the server {server or 'does not state any'}"
    remedy = "They work together; a new function needs both. To update this client: pip install -U umrgen"
    return Check("version", "note", message, remedy)
