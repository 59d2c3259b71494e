"""`umrgen.server.asgi:create_app` under the lifespan protocol of ASGI, without an HTTP server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.types import ASGIApp

from support import SMALL
from umrgen.server.asgi import create_app
from umrgen.server.settings import BadSettings, Settings

KEY = "umr_a-key-of-the-settings"


class Lifespan:
    """The ASGI server's side of the lifespan protocol."""

    def __init__(self, app: ASGIApp) -> None:
        self._sent_to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._received: asyncio.Queue[Any] = asyncio.Queue()
        self.task = asyncio.ensure_future(
            app({"type": "lifespan", "asgi": {"version": "3.0"}}, self._sent_to_app.get, self._received.put)
        )

    async def request(self, phase: str) -> dict[str, Any]:
        """Send `lifespan.<phase>` and return the application's reply."""
        await self._sent_to_app.put({"type": f"lifespan.{phase}"})
        reply: dict[str, Any] = await self._received.get()
        return reply


@asynccontextmanager
async def client_of(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """Run the application between startup and shutdown, with a client in front of it."""
    app = create_app(settings)
    lifespan = Lifespan(app)
    assert (await lifespan.request("startup"))["type"] == "lifespan.startup.complete"
    http = httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app),
        base_url="http://127.0.0.1",
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=70,
    )
    try:
        async with http:
            yield http
    finally:
        assert (await lifespan.request("shutdown"))["type"] == "lifespan.shutdown.complete"
        await lifespan.task


async def test_it_serves_requests_and_runs_jobs(state: Path) -> None:
    async with client_of(Settings(state=state, api_key=KEY)) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok", "server": "umrgen"}
        submitted = await client.post("/api/v1/generate", json={"prompt": "a lighthouse"} | SMALL)
        assert submitted.status_code == 202, submitted.text
        path = f"/api/v1/status/{submitted.json()['job_id']}"
        job = (await client.get(path, headers={"Prefer": "wait=60"})).json()
        assert job["state"] == "completed"
        assert (await client.get(job["image_url"])).content.startswith(b"\x89PNG")


async def test_shutdown_releases_the_state_folder(state: Path) -> None:
    async with client_of(Settings(state=state, api_key=KEY)):
        second = Lifespan(create_app(Settings(state=state, api_key=KEY)))
        assert (await second.request("startup"))["type"] == "lifespan.startup.failed"
        with pytest.raises(BadSettings, match="another server"):
            await second.task
    async with client_of(Settings(state=state, api_key=KEY)) as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_startup_fails_without_an_api_key(state: Path) -> None:
    lifespan = Lifespan(create_app(Settings(state=state)))
    reply = await lifespan.request("startup")
    assert reply["type"] == "lifespan.startup.failed"
    assert "API key" in reply["message"]
    with pytest.raises(BadSettings):
        await lifespan.task


async def test_a_request_before_startup_fails(state: Path) -> None:
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(create_app(Settings(state=state))), base_url="http://127.0.0.1"
    ) as client:
        with pytest.raises(RuntimeError, match="lifespan"):
            await client.get("/healthz")
