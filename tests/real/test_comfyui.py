"""The ComfyUI engine against a real ComfyUI on the CPU; CONTRIBUTING.md has the command. `make check` has no ComfyUI.

The size of the latent image is the workflow's own, 64 x 64, so that a step takes a second on a CPU.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fake_comfyui.workflows import sdxl
from real.comfyui import RealComfyUI
from real.reports import Reports
from support import ServerProcess, cli, draw_task, finish, server, submit, until
from umrgen.image_files import verify
from umrgen.server.engines import DrawTask, EncodedImage, EngineCrashed, EngineFailure, Phase, load_engine
from umrgen.server.engines.comfyui.prompts import prompt_uuid

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif("UMRGEN_TEST_COMFYUI" not in os.environ, reason="UMRGEN_TEST_COMFYUI names no ComfyUI"),
]
QUICK = {"poll_interval": 0.5, "health_interval": 0.5, "lost_after": 5.0}


@pytest.fixture(scope="module")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealComfyUI]:
    with RealComfyUI(tmp_path_factory.mktemp("comfyui") / "log") as running:
        yield running


@pytest.fixture
def job_id(request: pytest.FixtureRequest) -> str:
    """Return an id that no other run has used: ComfyUI would find its prompt again."""
    return f"ext_{os.getpid()}_{request.node.name}"


def workflow(comfy: RealComfyUI, **nodes: Any) -> dict[str, Any]:
    graph = sdxl()
    graph["4"]["inputs"]["ckpt_name"] = comfy.checkpoint()
    graph["5"]["inputs"] |= {"width": 64, "height": 64}
    graph["3"]["inputs"]["steps"] = 4
    return graph | nodes


def files(folder: Path, graph: dict[str, Any]) -> dict[str, str]:
    """Write a workflow and its bindings, and return the options of the engine that name them."""
    (folder / "workflow.json").write_text(json.dumps(graph))
    (folder / "bindings.toml").write_text("width = false\nheight = false\n")
    return {"workflow": str(folder / "workflow.json"), "bindings": str(folder / "bindings.toml")}


@asynccontextmanager
async def engine_on(comfy: RealComfyUI, folder: Path, graph: dict[str, Any], **options: Any) -> AsyncIterator[Any]:
    engine = load_engine("comfyui", QUICK | {"url": comfy.url} | files(folder, graph) | options)
    try:
        await engine.load(lambda: None)
        yield engine
    finally:
        await engine.close()


def task_of(job_id: str, **fields: Any) -> DrawTask:
    return draw_task(f"a lighthouse, {job_id}", job_id=job_id, **{"steps": 4, "seed": 5} | fields)


def sizes(images: list[EncodedImage]) -> list[tuple[int | None, int | None]]:
    return [(facts.width, facts.height) for facts in (verify(image.data) for image in images)]


def ended(comfy: RealComfyUI, prompt_id: str) -> Any:
    """Return the messages of a prompt that has ended, by their types."""
    entry = until(lambda: comfy.entry(prompt_id), 60)
    return dict(entry["status"]["messages"])


async def test_an_image_with_its_steps_and_previews(comfy: RealComfyUI, tmp_path: Path, job_id: str) -> None:
    reports = Reports()
    async with engine_on(comfy, tmp_path, workflow(comfy), poll_interval=60) as engine:
        assert engine.info.version == comfy.version
        images = await engine.draw(task_of(job_id), reports)
    assert sizes(images) == [(64, 64)]
    assert reports.steps == [(step, 4) for step in range(1, 5)]
    assert {Phase.LOADING, Phase.ENCODING} <= set(reports.phases)
    assert len(reports.previews) >= 3  # in 0.3.31, each arrives after the message of its step
    assert all(verify(preview.data).media_type == "image/jpeg" for preview in reports.previews)
    assert comfy.entry(prompt_uuid(job_id, 0))


async def test_a_drawn_prompt_is_found_again(comfy: RealComfyUI, tmp_path: Path, job_id: str) -> None:
    async with engine_on(comfy, tmp_path, workflow(comfy)) as engine:
        first = await engine.draw(task_of(job_id), Reports())
    before = set(comfy.history())
    async with engine_on(comfy, tmp_path, workflow(comfy)) as engine:
        again = await engine.draw(task_of(job_id), Reports())
    assert [image.data for image in again] == [image.data for image in first]
    assert set(comfy.history()) == before


async def test_the_same_request_again_is_cached(comfy: RealComfyUI, tmp_path: Path, job_id: str) -> None:
    async with engine_on(comfy, tmp_path, workflow(comfy)) as engine:
        (first,) = await engine.draw(task_of(job_id), Reports())
        reports = Reports()
        (again,) = await engine.draw(replace(task_of(job_id), job_id=f"{job_id}_2"), reports)
        assert again.data == first.data
        assert reports.steps == [(step, 4) for step in range(1, 5)]
        for entry in comfy.entry(prompt_uuid(job_id, 0))["outputs"]["9"]["images"]:
            comfy.output(f"{entry['subfolder']}/{entry['filename']}").unlink()
        (third,) = await engine.draw(replace(task_of(job_id), job_id=f"{job_id}_3"), Reports())
    assert verify(third.data).width == 64


async def test_a_job_cancelled_while_it_is_drawn_stops(comfy: RealComfyUI, tmp_path: Path, job_id: str) -> None:
    reports = Reports()
    async with engine_on(comfy, tmp_path, workflow(comfy)) as engine:
        running = asyncio.create_task(engine.draw(task_of(job_id, steps=50), reports))
        await reports.stepped.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled()
        assert comfy.running() == []
    assert "execution_interrupted" in ended(comfy, prompt_uuid(job_id, 0))


async def test_a_waiting_job_is_cancelled_and_the_running_one_goes_on(
    comfy: RealComfyUI, tmp_path: Path, job_id: str
) -> None:
    reports = Reports()
    async with engine_on(comfy, tmp_path, workflow(comfy), url=f"{comfy.url}*2") as engine:
        running = asyncio.create_task(engine.draw(task_of(job_id, steps=12), reports))
        await reports.stepped.wait()
        waiting = asyncio.create_task(engine.draw(task_of(f"{job_id}_2"), Reports()))
        await asyncio.to_thread(until, lambda: comfy.pending() == [prompt_uuid(f"{job_id}_2", 0)])
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert comfy.pending() == []
        assert sizes(await running) == [(64, 64)]
    assert not comfy.entry(prompt_uuid(f"{job_id}_2", 0))


async def test_a_prompt_of_a_killed_server_is_found_and_followed(
    comfy: RealComfyUI, tmp_path: Path, job_id: str
) -> None:
    prompt_id = prompt_uuid(job_id, 0)
    graph = workflow(comfy)
    graph["3"]["inputs"] |= {"seed": 77, "steps": 12}
    body = {"prompt": graph, "prompt_id": prompt_id, "client_id": prompt_id}
    comfy.http.post("/prompt", json=body).raise_for_status()
    until(lambda: comfy.running() == [prompt_id])
    reports = Reports()
    before = len(comfy.history())
    async with engine_on(comfy, tmp_path, workflow(comfy)) as engine:
        assert sizes(await engine.draw(task_of(job_id, steps=12), reports)) == [(64, 64)]
    assert reports.steps == [(step, 12) for step in range(1, 13)]
    assert len(comfy.history()) == before + 1


async def test_a_job_interrupted_in_comfyui_fails(comfy: RealComfyUI, tmp_path: Path, job_id: str) -> None:
    reports = Reports()
    async with engine_on(comfy, tmp_path, workflow(comfy)) as engine:
        running = asyncio.create_task(engine.draw(task_of(job_id, steps=50), reports))
        await reports.stepped.wait()
        comfy.http.post("/interrupt", json={})
        with pytest.raises(EngineFailure, match="the prompt was interrupted in ComfyUI"):
            await running


async def test_a_restart_of_comfyui_while_a_job_is_drawn(comfy: RealComfyUI, tmp_path: Path, job_id: str) -> None:
    reports = Reports()
    async with engine_on(comfy, tmp_path, workflow(comfy)) as engine:
        running = asyncio.create_task(engine.draw(task_of(job_id, steps=50), reports))
        await reports.stepped.wait()
        comfy.stop(signal.SIGKILL)
        comfy.launch()
        await asyncio.to_thread(comfy.wait)
        with pytest.raises(EngineCrashed):
            await running
        await asyncio.to_thread(until, lambda: engine.capacity == 1)
        assert sizes(await engine.draw(task_of(job_id), Reports())) == [(64, 64)]
    assert len(comfy.history()) == 1
    assert comfy.entry(prompt_uuid(job_id, 1))


async def test_two_images_an_upscaler_and_a_text(comfy: RealComfyUI, tmp_path: Path, job_id: str) -> None:
    graph = workflow(comfy)
    graph["5"]["inputs"]["batch_size"] = 2
    graph["10"] = {
        "class_type": "ImageScaleBy",
        "inputs": {"image": ["8", 0], "upscale_method": "bicubic", "scale_by": 2.0},
    }
    graph["9"]["inputs"]["images"] = ["10", 0]
    graph["11"] = {"class_type": "PreviewAny", "inputs": {"source": ["4", 0]}}
    graph["12"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    async with engine_on(comfy, tmp_path, graph) as engine:
        images = await engine.draw(task_of(job_id), Reports())
    assert sizes(images) == [(128, 128)] * 2
    assert images[0].data != images[1].data


async def test_only_a_preview_node_has_images(comfy: RealComfyUI, tmp_path: Path, job_id: str) -> None:
    graph = workflow(comfy)
    graph["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    async with engine_on(comfy, tmp_path, graph) as engine:
        assert sizes(await engine.draw(task_of(job_id), Reports())) == [(64, 64)]


async def test_reference_images_are_uploaded(comfy: RealComfyUI, tmp_path: Path, job_id: str) -> None:
    graph = workflow(comfy)
    async with engine_on(comfy, tmp_path, graph) as engine:
        (reference,) = await engine.draw(task_of(job_id), Reports())
    graph["12"] = {"class_type": "LoadImage", "inputs": {"image": "not there.png"}}
    graph["13"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["12", 0], "vae": ["4", 2]}}
    graph["3"]["inputs"]["latent_image"] = ["13", 0]
    async with engine_on(comfy, tmp_path, graph) as engine:
        assert "references" in engine.info.features
        task = replace(task_of(f"{job_id}_2"), references=(reference.data,))
        assert sizes(await engine.draw(task, Reports())) == [(64, 64)]


async def test_a_node_that_fails(comfy: RealComfyUI, tmp_path: Path, job_id: str) -> None:
    graph = workflow(comfy)
    graph["9"]["inputs"]["filename_prefix"] = "../outside"
    async with engine_on(comfy, tmp_path, graph) as engine:
        with pytest.raises(EngineFailure, match=r"ComfyUI: node 9 \(SaveImage\): ") as failed:
            await engine.draw(task_of(job_id), Reports())
    assert os.environ["UMRGEN_TEST_COMFYUI"] not in str(failed.value)


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        ("4", {"ckpt_name": "not there.safetensors"}, r"node 4 .*ckpt_name is 'not there.safetensors'"),
        ("3", {"sampler_name": "no such sampler"}, r"node 3 .*sampler_name is 'no such sampler'"),
    ],
)
async def test_a_workflow_whose_file_is_missing(
    comfy: RealComfyUI, tmp_path: Path, node: str, inputs: dict[str, str], message: str
) -> None:
    graph = workflow(comfy)
    graph[node]["inputs"] |= inputs
    with pytest.raises(EngineFailure, match=message):
        async with engine_on(comfy, tmp_path, graph):
            pass


async def test_a_node_that_is_not_installed(comfy: RealComfyUI, tmp_path: Path) -> None:
    graph = workflow(comfy, **{"20": {"class_type": "NoSuchNode", "inputs": {}}})
    with pytest.raises(EngineFailure, match=r"node 20 \(NoSuchNode\): ComfyUI has no such node"):
        async with engine_on(comfy, tmp_path, graph):
            pass


async def test_a_node_that_costs_money_is_refused(comfy: RealComfyUI, tmp_path: Path) -> None:
    classes = comfy.get("/object_info")
    name = next(name for name, info in classes.items() if info.get("api_node"))
    graph = workflow(comfy, **{"20": {"class_type": name, "inputs": {}}})
    with pytest.raises(EngineFailure, match=rf"node 20 \({name}\): this node calls a service that costs money"):
        async with engine_on(comfy, tmp_path, graph):
            pass


async def test_a_workflow_of_which_a_part_is_invalid(comfy: RealComfyUI, tmp_path: Path, job_id: str) -> None:
    """ComfyUI accepts it, and would run the valid part."""
    graph = workflow(comfy)
    graph["20"] = {"class_type": "EmptyImage", "inputs": {"width": 0, "height": 64, "batch_size": 1, "color": 0}}
    graph["21"] = {"class_type": "SaveImage", "inputs": {"images": ["20", 0], "filename_prefix": "part"}}
    async with engine_on(comfy, tmp_path, graph) as engine:
        with pytest.raises(EngineFailure, match=r"refuses a part of the workflow: node 20 \(EmptyImage\)"):
            await engine.draw(task_of(job_id), Reports())
    assert comfy.running() == comfy.pending() == []


async def test_the_models_are_unloaded_and_loaded_again(comfy: RealComfyUI, tmp_path: Path, job_id: str) -> None:
    async with engine_on(comfy, tmp_path, workflow(comfy)) as engine:
        await engine.draw(task_of(job_id), Reports())
        await engine.unload()
        assert sizes(await engine.draw(task_of(f"{job_id}_2"), Reports())) == [(64, 64)]


class TestServed:
    """Jobs through a whole server."""

    @pytest.fixture
    def arguments(self, comfy: RealComfyUI, tmp_path: Path) -> list[str]:
        values = {"url": comfy.url} | QUICK | files(tmp_path, workflow(comfy))
        return ["--engine", "comfyui", *(f"--engine-option={name}={value}" for name, value in values.items())]

    def test_after_sigkill_the_running_prompt_is_found_again(
        self, comfy: RealComfyUI, state: Path, arguments: list[str]
    ) -> None:
        before = len(comfy.history())
        first = ServerProcess(state, *arguments).start()
        with first.http() as http:
            job_id = submit(http, steps=20, seed=os.getpid())
            until(lambda: step_of(http, job_id), 120)
        first.kill()
        with server(state, *arguments) as second, second.http(Authorization=f"Bearer {first.key}") as http:
            job = finish(http, job_id)
            assert (job["state"], job["attempt"]) == ("completed", 2)
            assert verify(http.get(job["image_url"]).content).width == 64
        assert len(comfy.history()) == before + 1

    def test_a_job_is_cancelled_and_the_engine_released(
        self, comfy: RealComfyUI, state: Path, arguments: list[str]
    ) -> None:
        with server(state, *arguments) as serving, serving.http() as http:
            job_id = submit(http, steps=50, seed=os.getpid() + 1)
            until(lambda: step_of(http, job_id), 120)
            assert http.post(f"/api/v1/cancel/{job_id}").json()["error_code"] == "cancelled"
            until(lambda: not comfy.running(), 120)
            released = cli("engine", "release", "--state", str(state))
            assert released.returncode == 0, released.stderr
            assert finish(http, submit(http, seed=os.getpid() + 2))["state"] == "completed"

    def test_after_a_restart_of_comfyui_the_job_is_drawn(
        self, comfy: RealComfyUI, state: Path, arguments: list[str]
    ) -> None:
        with server(state, *arguments) as serving, serving.http() as http:
            job_id = submit(http, steps=20, seed=os.getpid() + 3)
            until(lambda: step_of(http, job_id), 120)
            comfy.stop(signal.SIGKILL)
            comfy.start()
            job = finish(http, job_id)
            assert (job["state"], job["attempt"]) == ("completed", 2)

    def test_engine_check_states_the_version_and_the_bindings(self, comfy: RealComfyUI, arguments: list[str]) -> None:
        checked = cli("engine", "check", *arguments)
        assert checked.returncode == 0, checked.stderr
        assert f"ComfyUI {comfy.version}, workflow workflow.json" in checked.stdout
        assert "bound: prompt = 6.text, negative = 7.text, seed = 3.seed" in checked.stdout


def step_of(http: httpx2.Client, job_id: str) -> Any:
    return (http.get(f"/api/v1/status/{job_id}").json().get("progress") or {}).get("step")
