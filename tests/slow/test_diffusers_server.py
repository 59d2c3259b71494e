"""The diffusers engine behind `umrgen serve`, with tiny random pipelines of the real classes."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from support import UNLIMITED, ServerProcess, cli, finish, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("diffusers") is None, reason="diffusers is not installed: make torch"),
    pytest.mark.filterwarnings("default"),  # warnings of the libraries
    pytest.mark.timeout(300),
]

TESTS = str(Path(__file__).parents[1])
NAMES = ("klein", "z_image", "sd", "sdxl")
READY = 120.0
"""Seconds; importing torch and diffusers takes most of them on a loaded machine."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny_pipelines

    made = tmp_path_factory.mktemp("pipelines")
    for name in NAMES:
        tiny_pipelines.save(name, made / name)
    (made / "loras").mkdir()
    tiny_pipelines.save_lora(made / "loras" / "a.safetensors", made / "klein", 1)
    tiny_pipelines.save_lora(made / "loras" / "b.safetensors", made / "klein", 2)
    tiny_pipelines.save_lora(made / "loras" / "wrong.safetensors", made / "klein", 3, extra=3)
    tiny_pipelines.save_foreign_lora(made / "loras" / "foreign.safetensors")
    return made


@pytest.fixture(scope="module")
def running(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server whose engine has all four models; a request chooses."""
    models = {name: str(folder / name) for name in NAMES}
    options = (f"models={json.dumps(models)}", f"loras={folder / 'loras'}", "max_batch=4")
    arguments = [argument for option in options for argument in ("--engine-option", option)]
    engine = ("--engine", "diffusers_that_fail:FailingDiffusersEngine")
    started = ServerProcess(
        tmp_path_factory.mktemp("server"), *UNLIMITED, *engine, *arguments, PYTHONPATH=TESTS, OMP_NUM_THREADS="1"
    )
    started.launch()
    try:
        until(lambda: httpx2.get(f"{started.url}/readyz").status_code == 200, READY)
        yield started
    finally:
        started.stop()


@pytest.fixture
def http(running: ServerProcess) -> Iterator[httpx2.Client]:
    with running.http() as client:
        yield client


def submit(http: httpx2.Client, prompt: str = "a lighthouse", **fields: Any) -> str:
    body = {"prompt": prompt, "seed": 5, "width": 512, "height": 512, "steps": 2} | fields
    response = http.post("/api/v1/generate", json={name: value for name, value in body.items() if value is not None})
    assert response.status_code == 202, response.text
    return str(response.json()["job_id"])


def pixels(http: httpx2.Client, job: str) -> Any:
    done = finish(http, job)
    assert done["state"] == "completed", done
    with Image.open(BytesIO(http.get(done["results"]["images"][0]["url"]).content)) as image:
        return np.asarray(image).astype(int)


def draw(http: httpx2.Client, prompt: str = "a lighthouse", **fields: Any) -> Any:
    return pixels(http, submit(http, prompt, **fields))


def facts(http: httpx2.Client, job: str) -> dict[str, Any]:
    """Return the provenance in the image of a job."""
    done = finish(http, job)
    with Image.open(BytesIO(http.get(done["results"]["images"][0]["url"]).content)) as image:
        found: dict[str, Any] = json.loads(image.info["umrgen"])
        return found


@pytest.mark.parametrize("model", NAMES)
def test_each_model_draws_alike_again_alone_and_together(http: httpx2.Client, model: str) -> None:
    first = draw(http, model=model)
    assert (draw(http, model=model) == first).all()
    prompts = [f"a ship number {number}" for number in range(4)]
    alone = [draw(http, prompt, model=model) for prompt in prompts]
    before = submit(http, "a long one", model=model, steps=6)
    jobs = [submit(http, prompt, model=model) for prompt in prompts]
    together = [pixels(http, job) for job in jobs]
    assert [int(abs(one - other).max()) <= 1 for one, other in zip(alone, together, strict=True)] == [True] * 4
    assert finish(http, before)["state"] == "completed"


def test_a_request_without_steps_has_those_of_the_family(http: httpx2.Client) -> None:
    found = facts(http, submit(http, steps=None))
    assert (found["steps"], found["cfg"], found["model"]) == (4, 1.0, "klein")
    assert found["engine"] == "diffusers"
    assert facts(http, submit(http, model="sdxl"))["cfg"] == 5.0


def test_loras_are_applied_by_name_and_nothing_is_left_over(http: httpx2.Client) -> None:
    plain = draw(http)
    for names in (["a"], ["a", "b"]):
        drawn = draw(http, loras=[{"name": name, "strength": 4.0} for name in names])
        assert (drawn != plain).any()
        assert (draw(http) == plain).all()
    for name, reason in (("wrong", "'wrong' does not fit"), ("foreign", "'foreign' is of another model")):
        failed = finish(http, submit(http, loras=[{"name": name}]))
        assert failed["error_code"] == "engine_failed"
        assert reason in failed["error"]
    assert (draw(http) == plain).all()


def test_out_of_memory_and_nan_end_one_job(http: httpx2.Client) -> None:
    plain = draw(http)
    before = submit(http, "a long one", steps=9)
    jobs = [submit(http, prompt) for prompt in ("a lighthouse", "nan", "a lighthouse")]
    large = submit(http, "too large")
    after = submit(http)
    failed = finish(http, jobs[1])
    assert (failed["error_code"], "NaN" in failed["error"]) == ("engine_failed", True)
    refused = finish(http, large)
    assert (refused["error_code"], "lower width and height" in refused["error"]) == ("out_of_memory", True)
    for job in (jobs[0], jobs[2], after):
        assert int(abs(pixels(http, job) - plain).max()) <= 1
    assert finish(http, before)["state"] == "completed"


def test_a_cancelled_job_ends_and_the_others_continue(http: httpx2.Client) -> None:
    jobs = [submit(http, f"a ship {number}", steps=12) for number in range(5)]
    assert http.post(f"/api/v1/cancel/{jobs[2]}").json()["error_code"] == "cancelled"
    states = [finish(http, job)["state"] for job in jobs]
    assert states == ["completed", "completed", "failed", "completed", "completed"]


def test_a_job_whose_engine_was_killed_is_drawn_alike(running: ServerProcess, http: httpx2.Client) -> None:
    expected = draw(http, steps=12)
    job = submit(http, steps=12)
    until(lambda: http.get(f"/api/v1/status/{job}").json()["state"] == "running")
    (pid,) = running.engine_pids()
    os.kill(pid, signal.SIGKILL)
    assert (pixels(http, job) == expected).all()
    assert finish(http, job)["attempt"] == 2


@pytest.mark.parametrize(("field", "value"), [("model", "unlisted"), ("loras", [{"name": "unlisted"}]), ("width", 520)])
def test_a_request_that_no_model_can_draw_is_refused(http: httpx2.Client, field: str, value: Any) -> None:
    refused = http.post("/api/v1/generate", json={"prompt": "a ship", field: value})
    assert refused.status_code == 400
    assert field in refused.text


@pytest.mark.parametrize("kind", ["pickle", "code", "unknown"])
def test_a_model_that_is_not_allowed_is_refused_at_the_start(folder: Path, tmp_path: Path, kind: str) -> None:
    import tiny_pipelines
    import torch

    model = shutil.copytree(folder / "sd", tmp_path / "model")
    if kind == "pickle":
        (weights,) = (model / "vae").glob("*.safetensors")
        weights.unlink()
        torch.save({}, model / "vae" / "diffusion_pytorch_model.bin")
    elif kind == "code":
        tiny_pipelines.with_entry(model, "unet", ["my_unet", "MyUnet"])
    else:
        tiny_pipelines.with_entry(model, "_class_name", "WanPipeline")
    arguments = ("--engine", "diffusers", "--engine-option", f"model={model}")
    refused = cli("serve", "--state", str(tmp_path / "state"), "--port", "0", *arguments)
    assert refused.returncode == 2
    reasons = {"pickle": "only as .bin", "code": "contains code of its own (unet)", "unknown": "is a WanPipeline"}
    assert reasons[kind] in refused.stderr
    assert "Traceback" not in refused.stderr
