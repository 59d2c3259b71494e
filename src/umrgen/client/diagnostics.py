"""Finding out what is wrong: one check after the other, each with a remedy. Starts no job."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal
from urllib.parse import urlsplit

from umrgen.client.address import Server
from umrgen.client.flow import Options, Reply, Step, TransportFailure
from umrgen.client.protocol import API, failure_of
from umrgen.client.transport import Transport
from umrgen.errors import UmrgenError

__all__ = ["Check", "examine"]

Verdict = Literal["good", "bad", "note"]
MAX_SKEW = 30.0
"""Seconds by which the two clocks may differ before it is worth saying."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding, and what to do about it if it is bad."""

    name: str
    verdict: Verdict
    words: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"check": self.name, "verdict": self.verdict, "words": self.words, "remedy": self.remedy or None}


async def examine(base_url: str | None, api_key: str | None, folder: Path) -> AsyncIterator[Check]:
    """Each check as it is done; those that cannot be made after a bad one are left out."""
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
        async for check in _server(transport, api_key):
            yield check
    finally:
        await transport.aclose()


def check_folder(folder: Path) -> Check:
    """Whether images can be written here."""
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check(
            "folder", "bad", f"{folder} cannot be written: {error.strerror or error}", "Choose another place with -o."
        )
    return Check("folder", "good", f"images can be written into {folder}")


async def _server(transport: Transport, api_key: str | None) -> AsyncIterator[Check]:
    """One look at a job that cannot be there tells reachability, the kind of answer, and the key."""
    try:
        reply = await _get(transport, f"{API}/status/doctor_no_such_job")
    except TransportFailure as failure:
        yield Check("address", "bad", f"{transport.base_url} cannot be reached: {failure}", _reach(transport.base_url))
        return
    yield Check("address", "good", f"{transport.base_url} answers in {reply.elapsed * 1000:.0f} ms")
    speaks = _speaks(reply)
    yield speaks
    if speaks.verdict == "bad":
        return
    key = _key(reply, api_key)
    yield key
    if key.verdict == "bad":
        return
    yield _clock(reply)
    yield await _abilities(transport)


async def _get(transport: Transport, path: str) -> Reply:
    return await transport.send(Step("GET", path, {}, None, 0.0, 15.0))


def _reach(base_url: str) -> str:
    host = urlsplit(base_url).hostname or ""
    if host in ("localhost", "127.0.0.1", "::1"):
        return "Start the server (umrgen serve), or correct the port in UMRGEN_BASE_URL."
    return "Check UMRGEN_BASE_URL, your network, and that the server and its tunnel run."


def _speaks(reply: Reply) -> Check:
    if reply.json() is not None:
        return Check("api", "good", "it speaks JSON, as an UMRGEN server does")
    error = failure_of(reply)
    remedy = "A tunnel's or proxy's page stands in the way: open the address in a browser once, or correct the address."
    return Check("api", "bad", str(error), remedy)


def _key(reply: Reply, api_key: str | None) -> Check:
    if reply.status in (401, 403):
        words = "the server does not accept this key" if api_key else "no key is configured, and the server wants one"
        return Check("key", "bad", words, "Set UMRGEN_API_KEY; the operator makes a key with `umrgen keys create`.")
    if reply.status == 404:
        return Check("key", "good", "the key is accepted")
    remedy = "Try again; if it stays so, tell the operator."
    return Check("key", "bad", f"the server answers with HTTP {reply.status}", remedy)


def _clock(reply: Reply) -> Check:
    try:
        skew = reply.wall - parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
    except (TypeError, ValueError):
        return Check("clock", "note", "the server does not say what time it is there")
    if abs(skew) <= MAX_SKEW:
        return Check("clock", "good", "this clock and the server's agree")
    words = f"this clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server's"
    return Check("clock", "note", words, "Nothing depends on it here; signed URLs that expire would.")


async def _abilities(transport: Transport) -> Check:
    try:
        reply = await _get(transport, f"{API}/capabilities")
    except TransportFailure as failure:
        return Check("abilities", "bad", f"the connection broke: {failure}", "Try again.")
    data = reply.json() if reply.status == 200 else None
    if data is None:
        words = "an older server: it is asked again and again, and has no batch, cancel or digests; all else works"
        return Check("abilities", "note", words)
    engine, calls = data.get("engine"), data.get("calls")
    name = engine.get("name") if isinstance(engine, dict) else None
    listed = ", ".join(str(call) for call in calls) if isinstance(calls, list) else "nothing named"
    return Check("abilities", "good", f"engine {name}; it can: {listed}")


def configured() -> tuple[str | None, str | None]:
    """The server and key of the environment."""
    return os.environ.get("UMRGEN_BASE_URL"), os.environ.get("UMRGEN_API_KEY")
