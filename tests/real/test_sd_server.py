"""The engine of stable-diffusion.cpp with a real sd-server on the CPU; CONTRIBUTING.md has the command.

`UMRGEN_TEST_SD_SERVER` names the program, `UMRGEN_TEST_SD_MODEL` a model file. `make check` has none.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from real.reports import Reports
from support import draw_task
from umrgen.image_files import verify
from umrgen.provenance import mark
from umrgen.server.domain.request import Lora
from umrgen.server.engines import EngineCrashed, EngineFailure, load_engine
from umrgen.server.engines.provenance import record_of

PROGRAM, MODEL = os.environ.get("UMRGEN_TEST_SD_SERVER", ""), os.environ.get("UMRGEN_TEST_SD_MODEL", "")
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (PROGRAM and MODEL), reason="UMRGEN_TEST_SD_SERVER and _MODEL name no program and model"),
]
TASK = draw_task("a lighthouse", width=64, height=64, steps=1)
LONG = draw_task("a lighthouse", width=64, height=64, steps=4)


@asynccontextmanager
async def engine_with(**options: Any) -> AsyncIterator[Any]:
    engine = load_engine("sdcpp", {"model": MODEL, "binary": PROGRAM} | options)
    try:
        await engine.load(lambda: None)
        yield engine
    finally:
        await engine.close()


async def job_with(engine: Any, number: int, status: str) -> str:
    """Wait until this job of the test, counted from 1, has the status; return its id."""
    while True:
        if len(JOBS) >= number and (await engine._client.job(JOBS[number - 1])).status == status:
            return JOBS[number - 1]
        await asyncio.sleep(0.05)


JOBS: list[str] = []
"""The ids of the jobs that were submitted."""


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    from umrgen.server.engines.sdcpp.transport import SdClient

    JOBS.clear()
    submit = SdClient.submit

    async def record(self: SdClient, request: Any) -> str:
        JOBS.append(await submit(self, request))
        return JOBS[-1]

    monkeypatch.setattr(SdClient, "submit", record)


async def test_the_capabilities_and_an_image() -> None:
    reports = Reports()
    async with engine_with() as engine:
        assert engine.info.revision == Path(MODEL).stem
        assert "loras" not in engine.info.features
        (image,) = await engine.draw(TASK, reports)
        (again,) = await engine.draw(replace(TASK, job_id="ext_2"), Reports())
        await engine.unload()
        assert engine._process is None
        (loaded,) = await engine.draw(replace(TASK, job_id="ext_3"), Reports())
    facts = verify(image.data)
    assert (facts.media_type, facts.width, facts.height) == ("image/png", 64, 64)
    assert image.data == again.data == loaded.data
    assert reports.steps == [(1, 1)]


async def test_the_prompt_that_it_writes_into_the_image_follows_the_setting() -> None:
    async with engine_with() as engine:
        (image,) = await engine.draw(TASK, Reports())
        info = engine.info
    assert b"a lighthouse" in image.data
    assert b"a lighthouse" in mark(image.data, record_of(TASK, info))
    assert b"a lighthouse" not in mark(image.data, record_of(replace(TASK, with_prompt=False), info))


async def test_a_job_that_waits_is_cancelled_and_one_that_is_drawn_ends() -> None:
    async with engine_with(capacity=2) as engine:
        first = asyncio.create_task(engine.draw(LONG, Reports()))
        drawn = await job_with(engine, 1, "generating")
        second = asyncio.create_task(engine.draw(replace(LONG, job_id="ext_2"), Reports()))
        waiting = await job_with(engine, 2, "queued")
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert (await engine._client.job(waiting)).status == "cancelled"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert (await engine._client.job(drawn)).status == "completed"


async def test_a_full_queue_is_waited_for() -> None:
    """Its queue has 64 places."""
    from umrgen.server.engines.sdcpp.engine import _request
    from umrgen.server.engines.sdcpp.transport import SdQueueFull

    async with engine_with() as engine:
        request = _request(LONG, engine._capabilities)
        with pytest.raises(SdQueueFull):
            for _ in range(66):
                await engine._client.submit(request)
        running = asyncio.create_task(engine.draw(replace(LONG, job_id="ext_2"), Reports()))
        for job_id in JOBS[1:]:
            await engine._client.cancel(job_id)
        assert verify((await running)[0].data).width == 64


async def test_loras_are_those_of_a_folder(tmp_path: Path) -> None:
    """sd-server draws without a LoRA whose file it cannot read, and only its log says so."""
    (tmp_path / "ink.safetensors").write_bytes(b"")
    async with engine_with(arguments=["--lora-model-dir", str(tmp_path)]) as engine:
        assert engine.info.loras == ("ink",)
        task = replace(TASK, request=msgspec.structs.replace(TASK.request, loras=(Lora("ink", 1.0),)))
        assert await engine.draw(task, Reports())


async def test_reference_images_and_a_broken_one() -> None:
    async with engine_with() as engine:
        (image,) = await engine.draw(TASK, Reports())
        (drawn,) = await engine.draw(replace(TASK, job_id="ext_2", references=(image.data,)), Reports())
        assert verify(drawn.data).width == 64
        with pytest.raises(EngineFailure, match="sd-server refuses the request: invalid generation parameters"):
            await engine.draw(replace(TASK, job_id="ext_3", references=(b"\xff\xd8\xffx",)), Reports())


async def test_the_process_is_killed_while_a_job_is_drawn() -> None:
    async with engine_with() as engine:
        running = asyncio.create_task(engine.draw(LONG, Reports()))
        await job_with(engine, 1, "generating")
        tether = engine._process._process.pid
        (child,) = Path(f"/proc/{tether}/task/{tether}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        with pytest.raises(EngineCrashed):
            await running
        await engine.load(lambda: None)
        assert await engine.draw(TASK, Reports())


async def test_a_model_that_cannot_be_loaded_is_reported(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"not a model")
    with pytest.raises(EngineFailure, match=r"sd-server ended with code -?\d+ while it loaded the model"):
        async with engine_with(model=str(tmp_path / "broken.safetensors")):
            pass
