"""Jobs on ComfyUI through a whole server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fake_comfyui import GENERATIONS, FakeComfyUI
from fake_comfyui.execution import NodeFailure
from fake_comfyui.workflows import with_upscaler
from support import ServerProcess, cli, finish, server, submit, until
from umrgen.image_files import verify

QUICK = ("poll_interval=0.1", "health_interval=0.1", "lost_after=0.5")


def options(fake: FakeComfyUI, *more: str) -> list[str]:
    """Return the arguments of `umrgen serve` for this ComfyUI."""
    values = [f"url={fake.url}", *QUICK, *more]
    return ["--engine", "comfyui", *(part for value in values for part in ("--engine-option", value))]


@pytest.fixture
def newest() -> Iterator[FakeComfyUI]:
    with FakeComfyUI("0.38") as running:
        yield running


def running(http: httpx2.Client, job_id: str) -> dict[str, Any]:
    """Wait until a job is running; return it."""

    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = http.get(f"/api/v1/status/{job_id}").json()
        return job if job["state"] == "running" else None

    found: dict[str, Any] = until(look)
    return found


def test_a_job_fails_is_cancelled_and_is_drawn(state: Path, newest: FakeComfyUI) -> None:
    with server(state, *options(newest)) as serving, serving.http() as http:
        newest.execution.failures["VAEDecode"] = NodeFailure("OSError", "no file '/root/ComfyUI/models/x'")
        failed = finish(http, submit(http))
        assert (failed["state"], failed["error_code"]) == ("failed", "engine_failed")
        assert failed["error"] == "ComfyUI: node 11 (VAEDecode): no file …"
        newest.execution.failures["VAEDecode"] = NodeFailure("torch.OutOfMemoryError", "Allocation on device")
        assert finish(http, submit(http))["error_code"] == "out_of_memory"
        newest.execution.failures.clear()

        newest.execution.pause = "step 2"
        job_id = submit(http, steps=4)
        newest.wait_paused()
        assert until(lambda: http.get(f"/api/v1/status/{job_id}").json()["progress"]["step"]) == 1
        assert http.post(f"/api/v1/cancel/{job_id}").json()["error_code"] == "cancelled"
        until(lambda: newest.execution.interrupted)
        newest.resume()

        done = finish(http, submit(http, "one more", width=640))
        assert done["state"] == "completed"
        assert verify(http.get(done["image_url"]).content).width == 640
        assert "/root" not in json.dumps([failed, done])
        assert "Traceback" not in serving.log()


def test_the_features_of_the_workflow_are_those_of_the_server(state: Path, newest: FakeComfyUI, tmp_path: Path) -> None:
    workflow = tmp_path / "workflow.json"
    workflow.write_text(json.dumps(with_upscaler()))
    with server(state, *options(newest, f"workflow={workflow}")) as serving, serving.http() as http:
        refused = http.post("/api/v1/generate", json={"prompt": "a boat", "reference_images": ["ref_x"]})
        assert "reference images" in refused.text
        wrong = http.post("/api/v1/generate", json={"prompt": "a boat", "model": "other"})
        assert "sd_xl_base_1.0.safetensors" in wrong.text
        done = finish(http, submit(http, negative="rain", cfg=5, model="SDXL/dreamshaper.safetensors"))
        assert done["state"] == "completed"
        image = done["results"]["images"][0]
        assert (image["width"], image["height"]) == (1024, 1024)
    assert newest.execution.accepted[0].graph["7"]["inputs"]["text"] == "rain"


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "contained"), [("full", True), ("none", False)])
def test_the_prompt_in_comfyuis_files_follows_the_setting(
    state: Path, newest: FakeComfyUI, setting: str, contained: bool
) -> None:
    with server(state, *options(newest), "--provenance-prompt", setting) as serving, serving.http() as http:
        done = finish(http, submit(http, "a very rare lighthouse"))
        assert (b"a very rare lighthouse" in http.get(done["image_url"]).content) is contained
    (written,) = newest.execution.files.values()
    assert b"a very rare lighthouse" in written


@pytest.mark.slow
def test_engine_check_draws_each_time(newest: FakeComfyUI) -> None:
    """Its prompts have different ids; a prompt with a known id would not be drawn again."""
    for count in (1, 2):
        checked = cli("engine", "check", *options(newest))
        assert checked.returncode == 0, checked.stderr
        assert len(newest.prompts) == count
        assert "prompt = 7.text, seed = 10.seed" in checked.stdout + checked.stderr


@pytest.mark.slow
@pytest.mark.parametrize("generation", GENERATIONS)
def test_after_sigkill_the_running_prompt_is_found_again(state: Path, generation: str) -> None:
    """One prompt, one image: the second server waits for the prompt of the first."""
    with FakeComfyUI(generation, pause="step 2") as fake:
        first = ServerProcess(state, *options(fake)).start()
        with first.http() as http:
            job_id = submit(http, steps=4)
            fake.wait_paused()
            running(http, job_id)
        first.kill()
        with server(state, *options(fake)) as second, second.http(Authorization=f"Bearer {first.key}") as http:
            until(lambda: f"job {job_id}: attempt 2" in second.log())
            fake.resume()
            job = finish(http, job_id)
            assert (job["state"], job["attempt"]) == ("completed", 2)
        assert len(fake.prompts) == len(fake.execution.executed) == 1


@pytest.mark.slow
@pytest.mark.parametrize("generation", GENERATIONS)
def test_after_a_restart_of_comfyui_the_job_is_drawn(state: Path, generation: str) -> None:
    with FakeComfyUI(generation, pause="step 2") as fake:
        with server(state, *options(fake)) as serving, serving.http() as http:
            job_id = submit(http, steps=4)
            fake.wait_paused()
            fake.execution.pause = ""
            fake.restart()
            job = finish(http, job_id)
            assert (job["state"], job["attempt"]) == ("completed", 2)
        assert len(set(fake.prompts)) == len(fake.prompts) == 2


@pytest.mark.slow
def test_a_server_that_starts_before_comfyui_waits_for_it(state: Path) -> None:
    fake = FakeComfyUI()
    serving = ServerProcess(state, *options(fake))
    serving.launch()
    try:
        with serving.http() as http:
            until(lambda: http.post("/api/v1/generate", json={"prompt": "a boat"}).status_code == 503)
            refused = http.post("/api/v1/generate", json={"prompt": "a boat"}).json()
            assert refused["code"] == "engine_unavailable"
            assert "ComfyUI does not respond" in refused["detail"]
            with fake:
                until(lambda: http.get("/readyz").status_code == 200)
                assert finish(http, submit(http))["state"] == "completed"
    finally:
        serving.stop()


def test_a_wrong_option_is_refused_before_the_start(state: Path) -> None:
    arguments = ("--engine", "comfyui", "--engine-option", "url=http://me:secret@comfy/?x=1")
    refused = cli("serve", "--state", str(state), "--port", "0", *arguments)
    assert refused.returncode == 2
    assert "url must be such as http://127.0.0.1:8188; got 'http://comfy/?x=1'" in refused.stderr
    assert "secret" not in refused.stderr


def test_a_workflow_of_the_editor_is_refused_with_the_remedy(state: Path, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text('{"nodes": [], "links": []}')
    arguments = ("--engine", "comfyui", "--engine-option", f"workflow={tmp_path / 'w.json'}")
    refused = cli("serve", "--state", str(state), "--port", "0", *arguments)
    assert refused.returncode == 2
    assert "choose Workflow, Export (API)" in refused.stderr
