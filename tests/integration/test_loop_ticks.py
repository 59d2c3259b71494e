"""The work of the event loop between two of its iterations, for the worst legal body of each call.

Work is counted, not timed: function calls on the loop's thread, and bytes that are parsed or encoded there.
"""

import asyncio
import base64
import gc
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pydantic_core
import pytest
import pytest_asyncio
from python_multipart import FormParser
from worst_bodies import WorstCall, worst_calls

from umrgen.server.application import Application
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.http import a1111
from umrgen.server.services.api_keys import NewKey
from umrgen.server.settings import Settings

CALLS = worst_calls()
PART = 64 << 10
"""Bytes of a body in one message."""
MOST_CALLS = 10_000
"""Function calls between two iterations of the loop: some milliseconds."""
MOST_BYTES = 512 << 10
"""Bytes parsed between two iterations of the loop: some milliseconds."""
ENCODED = 0.125
"""What encoding a byte costs, in parsed bytes."""


class Work:
    """Counts the work between two iterations of the running loop."""

    def __init__(self) -> None:
        self.most_calls = self.most_bytes = 0
        self._calls = self._bytes = 0
        self._thread = threading.get_ident()
        self._counts = False

    def start(self) -> None:
        self._counts = True
        asyncio.get_running_loop().call_soon(self._tick)
        sys.setprofile(self._profile)

    def stop(self) -> None:
        self._counts = False
        sys.setprofile(None)
        self._note()

    def _note(self) -> None:
        self.most_calls, self.most_bytes = max(self.most_calls, self._calls), max(self.most_bytes, self._bytes)
        self._calls = self._bytes = 0

    def _tick(self) -> None:
        self._note()
        if self._counts:
            asyncio.get_running_loop().call_soon(self._tick)

    def _profile(self, frame: Any, event: str, argument: Any) -> None:
        self._calls += event in ("call", "c_call")

    def counted(self, function: Callable[..., Any], of: int = 0, share: float = 1.0) -> Callable[..., Any]:
        """Return `function`; a share of the bytes of its argument `of`, or of its result, is counted."""

        def counting(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if threading.get_ident() == self._thread:
                handled = args[of]
                size = len(handled if isinstance(handled, bytes | bytearray | str) else result or b"")
                self._bytes += round(size * share)
            return result

        return counting


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def application(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Any, str]]:
    """A server whose queue has 200 jobs with the longest prompts, and no engine."""
    state = tmp_path_factory.mktemp("state")
    limits: dict[str, Any] = {"rate": 0, "session_queued": 0, "daily": 0, "concurrent": 0}
    application = Application(Settings(state=state, a1111=True, mcp=True, **limits))
    await application.open()
    chores = [asyncio.create_task(application._mcp.serve())] if application._mcp else []
    secret, _ = await application.keys.create(NewKey("worst"))
    caller = await application.services.authentication.accept(secret, "192.0.2.1")
    request = GenerationRequest("é" * 2000, negative="é" * 2000, seed=1)
    for _ in range(200):
        await application.services.submissions.submit(caller, request, None)
    yield application.app(), secret
    for chore in chores:
        chore.cancel()
    await application.close()


async def send(app: Any, secret: str, call: WorstCall) -> int:
    """Send a request as an HTTP server does, in parts; return the status of the response."""
    path, _, query = call.path.partition("?")
    headers = {"host": "127.0.0.1", "authorization": f"Bearer {secret}", "content-length": str(len(call.body))}
    encoded = [(name.encode(), value.encode()) for name, value in (headers | dict(call.headers)).items()]
    scope = {"type": "http", "method": call.method, "path": path, "raw_path": path.encode(), "headers": encoded}
    scope |= {"query_string": query.encode(), "client": ("192.0.2.1", 1), "server": ("127.0.0.1", 80)}
    scope |= {"http_version": "1.1", "scheme": "http", "asgi": {"version": "3.0"}, "root_path": ""}
    parts = [call.body[start : start + PART] for start in range(0, len(call.body), PART)] or [b""]
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        if not parts:
            await asyncio.Event().wait()
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def respond(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async with asyncio.timeout(60):
        await app(scope, receive, respond)
    return statuses[0]


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("call", CALLS, ids=[call.name for call in CALLS])
async def test_the_work_between_two_iterations_of_the_loop_is_bounded(
    application: tuple[Any, str], monkeypatch: pytest.MonkeyPatch, call: WorstCall
) -> None:
    await send(*application, call)  # loads modules on first use
    work = Work()
    monkeypatch.setattr(msgspec.json, "decode", work.counted(msgspec.json.decode))
    monkeypatch.setattr(msgspec.json, "encode", work.counted(msgspec.json.encode, share=ENCODED))
    monkeypatch.setattr(pydantic_core, "from_json", work.counted(pydantic_core.from_json))
    monkeypatch.setattr(json, "loads", work.counted(json.loads))
    monkeypatch.setattr(base64, "b64decode", work.counted(base64.b64decode))
    monkeypatch.setattr(a1111, "b64decode", work.counted(a1111.b64decode))
    monkeypatch.setattr(FormParser, "write", work.counted(FormParser.write, of=1))
    gc.collect()
    work.start()
    try:
        status = await send(*application, call)
    finally:
        work.stop()
    assert 200 <= status < 500
    assert work.most_calls <= MOST_CALLS
    assert work.most_bytes <= MOST_BYTES
