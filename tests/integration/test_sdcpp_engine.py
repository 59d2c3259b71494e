"""The engine of stable-diffusion.cpp against a fake sd-server."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fake_sd_server import CAPABILITIES, FakeSdServer
from support import draw_task, finish, server, submit, until
from umrgen.image_files import verify
from umrgen.server.domain.request import Lora
from umrgen.server.engines import EngineCrashed, EngineFailure, OutOfMemory, Phase, load_engine
from umrgen.server.engines.sdcpp import answers

TASK = draw_task("a lighthouse", steps=4)


class Reports:
    """Implements `Report`: records steps and phases."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.phases: list[Phase] = []

    def __call__(self, step: int, total: int, preview: Callable[[], Any] | None = None, /) -> None:
        self.steps.append((step, total))

    def together(self, images: int, /) -> None: ...

    def phase(self, phase: Phase, /) -> None:
        self.phases.append(phase)


@pytest.fixture
def fake() -> Iterator[FakeSdServer]:
    with FakeSdServer() as running:
        yield running


@asynccontextmanager
async def engine_with(**options: Any) -> AsyncIterator[Any]:
    engine = load_engine("sdcpp", {"poll_interval": 0.02} | options)
    try:
        await engine.load(lambda: None)
        yield engine
    finally:
        await engine.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def program(tmp_path: Path) -> str:
    """A program that behaves like sd-server."""
    path = tmp_path / "sd-server"
    script = Path(__file__).parents[1] / "fake_sd_server.py"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return str(tmp_path / "model.gguf")


async def test_an_image_is_drawn_with_every_parameter(fake: FakeSdServer) -> None:
    changes = {"cfg": 2.5, "loras": (Lora("ink", 0.5),)}
    task = replace(TASK, request=msgspec.structs.replace(TASK.request, **changes), references=(b"\xff\xd8\xffx",))
    reports = Reports()
    async with engine_with(url=fake.url) as engine:
        assert set(engine.info.features) == {"references", "negative", "loras", "cfg"}
        assert (engine.info.default_steps, engine.info.default_cfg, engine.info.loras) == (8, 4.0, ("ink",))
        (image,) = await engine.draw(task, reports)
        await engine.draw(replace(TASK, job_id="ext_2"), Reports())
    assert verify(image.data).width == 512
    assert reports.steps == [(step, 4) for step in range(1, 5)]
    first, second = fake.requests
    assert (first["prompt"], first["seed"], first["sample_params"]["sample_steps"]) == ("a lighthouse", 3, 4)
    assert first["lora"] == [{"path": "style/ink.safetensors", "multiplier": 0.5}]
    assert (first["ref_images"], second["ref_images"]) == (["/9j/eA=="], [])
    scales = [request["sample_params"]["guidance"]["txt_cfg"] for request in fake.requests]
    assert scales == [2.5, 4.0]


async def test_a_full_queue_is_waited_for(fake: FakeSdServer) -> None:
    fake.full = 3
    async with engine_with(url=fake.url) as engine:
        assert await engine.draw(TASK, Reports())
    assert len(fake.requests) == 1


async def test_a_cancelled_job_that_waits_is_cancelled_there(fake: FakeSdServer) -> None:
    fake.hold = "queued"
    async with engine_with(url=fake.url) as engine:
        running = asyncio.create_task(engine.draw(TASK, Reports()))
        await asyncio.to_thread(fake.reached.wait, 20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (fake.cancels, fake.jobs["job_1"]["status"]) == (["job_1"], "cancelled")
        fake.release()
        assert await engine.draw(replace(TASK, job_id="ext_2"), Reports())


async def test_the_end_of_a_cancelled_job_that_is_drawn_is_awaited(fake: FakeSdServer) -> None:
    fake.hold = "generating"
    async with engine_with(url=fake.url) as engine:
        running = asyncio.create_task(engine.draw(TASK, Reports()))
        await asyncio.to_thread(fake.reached.wait, 20)
        running.cancel()
        await asyncio.to_thread(until, lambda: fake.cancels)
        assert not running.done()
        fake.release()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert fake.jobs["job_1"]["status"] == "completed"


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ("refuse", EngineFailure, "sd-server refuses the request: invalid generation parameters in …"),
        ("fail", EngineFailure, "sd-server: generate_image returned no results; its log may have the reason"),
        ("path", EngineFailure, "sd-server: cannot open …; its log may have the reason"),
        ("oom", OutOfMemory, "sd-server has too little memory; lower width and height (512 x 512)"),
        ("many", EngineFailure, "sd-server returned 9 images; a job may have 1 to 8"),
    ],
)
async def test_an_error_has_no_path(fake: FakeSdServer, prompt: str, error: type[Exception], message: str) -> None:
    async with engine_with(url=fake.url) as engine:
        with pytest.raises(error) as failure:
            await engine.draw(draw_task(prompt), Reports())
        assert str(failure.value) == message
        assert await engine.draw(TASK, Reports())


async def test_a_job_that_the_server_lost_is_a_crash(fake: FakeSdServer) -> None:
    fake.hold = "queued"
    async with engine_with(url=fake.url) as engine:
        running = asyncio.create_task(engine.draw(TASK, Reports()))
        await asyncio.to_thread(fake.reached.wait, 20)
        fake.jobs.clear()
        with pytest.raises(EngineCrashed, match="it was restarted"):
            await running
    fake.release()


@pytest.mark.parametrize("path", ["/sdcpp/v1/img_gen", "/sdcpp/v1/jobs", "/sdcpp/v1/capabilities"])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"id": "../x"}', b'{"status": "other"}'])
async def test_a_response_of_another_kind_is_a_crash(fake: FakeSdServer, path: str, body: bytes) -> None:
    fake.broken[path] = body
    with pytest.raises(EngineCrashed, match="is not as expected"):
        async with engine_with(url=fake.url) as engine:
            await engine.draw(TASK, Reports())


async def test_without_a_server_the_engine_cannot_be_loaded() -> None:
    with FakeSdServer() as ended:
        url = ended.url
    with pytest.raises(EngineCrashed, match="sd-server does not respond"):
        async with engine_with(url=url):
            pass


class TestProcess:
    """The server is a process that the engine starts."""

    async def test_the_process_is_started_unloaded_and_ended(self, program: str, model: str) -> None:
        async with engine_with(model=model, binary=program) as engine:
            assert await engine.draw(TASK, Reports())
            await engine.unload()
            assert engine._process is None
            assert await engine.draw(replace(TASK, job_id="ext_2"), Reports())
            process = engine._process
        assert process.code is not None

    async def test_a_process_that_crashed_is_started_again(self, program: str, model: str) -> None:
        async with engine_with(model=model, binary=program) as engine:
            with pytest.raises(EngineCrashed):
                await engine.draw(draw_task("crash"), Reports())
            await engine._process._process.wait()
            await engine.load(lambda: None)
            assert await engine.draw(TASK, Reports())

    @pytest.mark.skipif(sys.platform != "linux", reason="a signal of Linux")
    async def test_the_program_ends_with_the_process_that_watches_it(self, program: str, model: str) -> None:
        async with engine_with(model=model, binary=program) as engine:
            (child,) = children(engine._process._process.pid)
            engine._process._process.kill()
            await asyncio.to_thread(until, lambda: not Path(f"/proc/{child}").exists())

    async def test_a_model_that_cannot_be_loaded_is_reported(self, program: str, tmp_path: Path) -> None:
        (tmp_path / "broken.gguf").touch()
        with pytest.raises(EngineFailure, match="sd-server ended with code 7 while it loaded the model"):
            async with engine_with(model=str(tmp_path / "broken.gguf"), binary=program):
                pass

    async def test_a_missing_program_is_reported(self, model: str) -> None:
        with pytest.raises(EngineFailure, match="there is no program 'no-such-program'; install stable-diffusion"):
            async with engine_with(model=model, binary="no-such-program"):
                pass

    @pytest.mark.slow
    def test_the_process_ends_with_a_killed_server(self, state: Path, program: str, model: str) -> None:
        options = ("--engine", "sdcpp", "--engine-option", f"model={model}", "--engine-option", f"binary={program}")
        with server(state, *options) as running, running.http() as http:
            assert finish(http, submit(http))["state"] == "completed"
            (tether,) = running.engine_pids()
            (child,) = children(tether)
            os.kill(running.process.pid, signal.SIGKILL)
            running.ended()
            for pid in (tether, child):
                until(lambda pid=pid: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://a", "model": "x"}, "give url for a server that runs already, or model to start one, not both"),
        ({"model": "/nowhere/x.gguf"}, "there is no file 'x.gguf' for the option model"),
        ({"capacity": 0}, "capacity must be 1 to 64; got 0"),
        ({"timeout": "soon"}, "timeout must be a number of seconds above 0; got 'soon'"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineFailure) as failure:
        load_engine("sdcpp", options)
    assert message in str(failure.value)


def test_a_diffusion_model_with_its_own_parts_is_named_as_one(model: str) -> None:
    alone = load_engine("sdcpp", {"model": model})
    parts = load_engine("sdcpp", {"model": model, "arguments": "--vae ae.safetensors --llm q.gguf"})
    assert alone._arguments[:2] == ["--model", model]
    assert parts._arguments[:4] == ["--diffusion-model", model, "--vae", "ae.safetensors"]


def test_no_loras_are_searched_without_a_folder_of_them(model: str) -> None:
    """sd-server would search its working directory, and each model file there would be offered to callers."""
    without = load_engine("sdcpp", {"model": model, "arguments": "--vae-tiling"})
    given = load_engine("sdcpp", {"model": model, "arguments": "--lora-model-dir loras"})
    assert without._arguments == ["--model", model, "--vae-tiling", "--lora-model-dir", ""]
    assert given._arguments == ["--model", model, "--lora-model-dir", "loras"]


def test_without_guidance_a_negative_prompt_is_not_supported() -> None:
    content = json.loads(json.dumps(CAPABILITIES))
    content["defaults_by_mode"]["img_gen"]["sample_params"]["guidance"]["txt_cfg"] = 1.0
    from umrgen.server.engines.sdcpp.engine import _describe

    assert "negative" not in _describe(answers.capabilities(json.dumps(content).encode())).features
