"""Refused requests and limits on parameters, through the ASGI application without a socket."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from umrgen.server.application import Application
from umrgen.server.engines import EngineInfo
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
    assert (await caller.get("/api/v1/jobs")).status_code == 200, "calls that only read are still answered"


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


LIMITED = EngineInfo(
    "limited",
    "model",
    "1",
    size_multiple=64,
    min_steps=2,
    max_steps=8,
    features=("loras",),
    min_side=640,
    max_side=1024,
    models=("base",),
    loras=("ink",),
)


@pytest.mark.parametrize(
    ("changes", "field", "text"),
    [
        ({"width": 700}, "width", "must be a multiple of 64 with this engine; got 700"),
        ({"height": 512}, "height", "must be 640 to 1024 with this engine; got 512"),
        ({"width": 2048}, "width", "must be 640 to 1024 with this engine; got 2048"),
        ({"steps": 9}, "steps", "must be 2 to 8 with this engine; got 9"),
        ({"steps": 1}, "steps", "must be 2 to 8 with this engine; got 1"),
        ({"loras": [{"name": "oil"}]}, "loras", "has no LoRA 'oil'; it has ink"),
        ({"model": "other"}, "model", "has no model 'other'; it has base"),
        ({"negative": "fog"}, "negative", "does not support negative prompts"),
        ({"cfg": 3.5}, "cfg", "does not support a guidance scale"),
        ({"reference_images": ["a.png"]}, "reference_images", "does not support reference images"),
    ],
)
async def test_parameters_beyond_the_limits_of_the_engine_are_refused(
    application: Application, caller: httpx2.AsyncClient, changes: dict[str, object], field: str, text: str
) -> None:
    executor: Any = application.executor
    await executor.ready()  # else the engine replaces the information when it is loaded
    executor._executor.info = LIMITED
    fits = {"prompt": "a boat", "width": 640, "height": 1024, "steps": 8, "loras": [{"name": "ink"}], "model": "base"}
    assert (await caller.post("/api/v1/generate", json=fits)).status_code == 202
    refused = await caller.post("/api/v1/generate", json=fits | changes)
    assert refused.status_code == 400
    error = refused.json()["errors"][0]
    assert (error["field"], text in error["error"]) == (field, True)


async def test_capabilities_report_the_limits_of_the_engine(
    application: Application, caller: httpx2.AsyncClient
) -> None:
    executor: Any = application.executor
    await executor.ready()  # else the engine replaces the information when it is loaded
    executor._executor.info = LIMITED
    can = (await caller.get("/api/v1/capabilities")).json()
    assert (can["engine"]["models"], can["engine"]["loras"]) == (["base"], ["ink"])
    assert (can["sizes"]["min"], can["sizes"]["max"], can["sizes"]["multiple_of"]) == (640, 1024, 64)
    assert (can["steps"]["min"], can["steps"]["max"]) == (2, 8)
