"""AUTOMATIC1111's API, called by `webuiapi`, and with the bodies that chat front-ends send."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import webuiapi
from PIL import Image

from support import UNLIMITED, ServerProcess, cli, server, until
from umrgen.image_files import verify

PATH = "/sdapi/v1"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server(tmp_path_factory.mktemp("a1111") / "state", *UNLIMITED, "--a1111", "on") as running:
        yield running


def client(server: ServerProcess) -> webuiapi.WebUIApi:
    api = webuiapi.WebUIApi(baseurl=f"{server.url}{PATH}")
    api.set_auth("any", server.key)
    return api


@pytest.fixture
def http(running: ServerProcess) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=running.url + PATH, auth=("any", running.key), timeout=60) as http:
        yield http


def jobs(server: ServerProcess, prompt: str) -> list[dict[str, Any]]:
    with server.http() as http:
        return [job for job in http.get("/api/v1/jobs?limit=200").json()["jobs"] if job["prompt"] == prompt]


def test_webuiapi_draws_images_of_following_seeds(running: ServerProcess) -> None:
    api = client(running)
    result = api.txt2img(
        prompt="a boat", negative_prompt="fog", seed=7, steps=1, width=512, height=640, batch_size=2, cfg_scale=7
    )
    assert [image.size for image in result.images] == [(512, 640)] * 2
    assert result.info["all_seeds"] == [7, 8]
    assert {job["request"]["negative"] for job in jobs(running, "a boat")} == {"fog"}


def test_webuiapi_draws_from_an_image(running: ServerProcess) -> None:
    result = client(running).img2img(prompt="a red boat", images=[Image.new("RGB", (64, 64), "red")], steps=1)
    assert result.image.size == (512, 512)
    (job,) = jobs(running, "a red boat")
    assert len(job["request"]["reference_images"]) == 1


def test_webuiapi_reads_the_lists(running: ServerProcess) -> None:
    api = client(running)
    assert api.get_options()["sd_model_checkpoint"] == "procedural"
    assert [model["title"] for model in api.get_sd_models()] == ["procedural"]
    assert [sampler["name"] for sampler in api.get_samplers()] == ["Euler"]
    assert api.get_upscalers()[0]["name"] == "None"
    assert api.get_progress()["state"]["job_count"] == 0
    api.set_options({"sd_model_checkpoint": "procedural"})


@pytest.mark.parametrize("name", ["schedulers", "sd-vae", "latent-upscale-modes", "loras"])
def test_further_lists(http: httpx2.Client, name: str) -> None:
    assert isinstance(http.get(name).json(), list)


def test_the_body_of_open_webui(http: httpx2.Client) -> None:
    body = {"prompt": "a lake", "batch_size": 1, "width": 512, "height": 512, "steps": 2, "negative_prompt": "people"}
    answer = http.post("txt2img", json=body).json()
    verify(base64.b64decode(answer["images"][0]))
    assert json.loads(answer["info"])["steps"] == 2


def test_the_body_of_sillytavern(http: httpx2.Client) -> None:
    body = {
        "prompt": "a castle",
        "negative_prompt": "",
        "sampler_name": "Euler",
        "scheduler": "automatic",
        "steps": 2,
        "cfg_scale": 7,
        "width": 512,
        "height": 512,
        "restore_faces": False,
        "enable_hr": False,
        "hr_upscaler": "None",
        "hr_scale": 1,
        "denoising_strength": 0.7,
        "hr_second_pass_steps": 0,
        "seed": -1,
        "override_settings": {"CLIP_stop_at_last_layers": 1},
        "override_settings_restore_afterwards": True,
        "save_images": True,
        "send_images": True,
        "do_not_save_grid": False,
        "do_not_save_samples": False,
    }
    verify(base64.b64decode(http.post("txt2img", json=body).json()["images"][0]))


def test_an_image_as_a_data_url(http: httpx2.Client) -> None:
    encoded = io.BytesIO()
    Image.new("RGB", (64, 64), "blue").save(encoded, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    assert http.post("img2img", json={"prompt": "a boat", "steps": 1, "init_images": [url]}).status_code == 200


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"prompt": "a boat", "batch_size": 11}, "batch_size must be 1 to 10; got 11"),
        ({"prompt": "a boat", "batch_size": 5, "n_iter": 5}, "got 25"),
        ({"prompt": "a boat", "width": 100}, "width must be 512 to 2048; got 100"),
        ({"prompt": "a boat", "init_images": ["###"]}, "base64"),
        ({"prompt": "a boat", "init_images": "x"}, "list"),
        ({}, "prompt is required"),
    ],
)
def test_an_error_has_its_remedy(http: httpx2.Client, body: dict[str, Any], text: str) -> None:
    answer = http.post("txt2img", json=body)
    assert answer.status_code == 400
    assert text in answer.json()["detail"]
    assert "again" in answer.json()["detail"]


def test_the_key_is_the_password(running: ServerProcess) -> None:
    for auth in (("any", "umr_wrong"), None):
        answer = httpx2.get(f"{running.url}{PATH}/options", auth=auth)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")
    bearer = httpx2.get(f"{running.url}{PATH}/options", headers={"Authorization": f"Bearer {running.key}"})
    assert bearer.status_code == 200


def test_it_is_off_unless_it_is_switched_on(shared_server: ServerProcess) -> None:
    assert httpx2.get(f"{shared_server.url}{PATH}/options", auth=("any", shared_server.key)).status_code == 404


def test_progress_interrupt_and_cut_offs(tmp_path_factory: pytest.TempPathFactory) -> None:
    options = (*UNLIMITED, "--a1111", "on", "--step-delay", "0.4")
    with server(tmp_path_factory.mktemp("slow") / "state", *options) as running:
        other = json.loads(cli("keys", "create", "--state", str(running.state), "--json").stdout)["key"]
        mine = httpx2.Client(base_url=running.url + PATH, auth=("any", running.key), timeout=60)
        theirs = httpx2.Client(base_url=running.url + PATH, auth=("any", other), timeout=60)
        with mine, theirs:
            body = {"prompt": "a boat", "steps": 30}
            answers: list[httpx2.Response] = []
            call = threading.Thread(target=lambda: answers.append(mine.post("txt2img", json=body)))
            call.start()
            seen = until(lambda: (now := mine.get("progress").json())["state"]["sampling_step"] and now)
            assert 0 < seen["progress"] < 1
            assert seen["state"]["job_count"] == 1
            assert theirs.get("progress").json()["state"]["job_count"] == 0
            assert theirs.post("interrupt").json() == {}
            assert mine.get("progress").json()["state"]["job_count"] == 1
            assert mine.post("interrupt").json() == {}
            call.join(30)
            assert "cancelled" in answers[0].json()["detail"]
            assert mine.get("progress").json()["state"]["job_count"] == 0
            again = {"prompt": "a boat that is cut off", "steps": 5}
            with pytest.raises(httpx2.ReadTimeout):
                mine.post("txt2img", json=again, timeout=1)
            assert mine.post("txt2img", json=again).status_code == 200
        assert len(jobs(running, "a boat that is cut off")) == 1
