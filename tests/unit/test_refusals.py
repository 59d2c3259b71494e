"""What a server refuses, and where it bounds what a caller asks for; the app without a socket."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from umrgen.server.application import Application
from umrgen.server.http.api.status import requested_wait
from umrgen.server.services.api_keys import NewKey
from umrgen.server.services.caller import Caller
from umrgen.server.settings import Settings


@pytest.fixture
async def application(tmp_path: Path) -> AsyncIterator[Application]:
    application = Application(Settings(state=tmp_path / "state"))
    await application.open()
    yield application
    await application.close()


@pytest.fixture
async def caller(application: Application) -> AsyncIterator[httpx2.AsyncClient]:
    secret, _ = await application.keys.create(NewKey("test"))
    transport = httpx2.ASGITransport(application.app())
    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as http:
        yield http


async def test_a_server_that_drains_accepts_no_job(application: Application, caller: httpx2.AsyncClient) -> None:
    assert (await caller.post("/api/v1/generate", json={"prompt": "a boat"})).status_code == 202
    await application.drain(0)
    refused = await caller.post("/api/v1/generate", json={"prompt": "a boat"})
    assert (refused.status_code, refused.json()["code"]) == (503, "draining")
    assert "retry-after" in refused.headers
    assert (await caller.get("/api/v1/jobs")).status_code == 200, "what only reads is still answered"


@pytest.mark.parametrize(("headers", "query"), [({b"prefer": b"wait=300"}, b""), ({}, b"wait=300")])
async def test_a_long_poll_is_no_longer_than_the_server_allows(
    application: Application, headers: dict[bytes, bytes], query: bytes
) -> None:
    caller = Caller((await application.keys.create(NewKey("test")))[1])
    preferred = requested_wait(headers, query)
    assert preferred == 300
    assert application.services.job_waits.allowed_wait(caller, preferred) == Settings().max_wait


async def test_a_call_names_a_thousand_jobs_at_most(caller: httpx2.AsyncClient) -> None:
    ids = [f"ext_{number}" for number in range(1001)]
    for job_ids, status in ((ids[:1000], 200), (ids, 400), ([], 400)):
        assert (await caller.post("/api/v1/status", json={"job_ids": job_ids})).status_code == status
