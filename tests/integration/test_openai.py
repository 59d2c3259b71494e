"""OpenAI's images API, called by OpenAI's own client."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from support import ServerProcess, cli, server, until
from umrgen.image_files import sniff, verify

SMALL: dict[str, Any] = {"size": "512x512", "extra_body": {"steps": 1}}


def client(server: ServerProcess, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, **options)


@pytest.fixture
def sdk(shared_server: ServerProcess) -> Iterator[openai.OpenAI]:
    with client(shared_server) as sdk:
        yield sdk


def jobs(server: ServerProcess, prompt: str) -> list[dict[str, Any]]:
    """Return the jobs with this prompt, newest first."""
    with server.http() as http:
        listed = http.get("/api/v1/jobs", params={"limit": 100}).json()["jobs"]
    return [job for job in listed if job["prompt"] == prompt]


def image_of(answer: Any, number: int = 0) -> bytes:
    return base64.b64decode(answer.data[number].b64_json)


def test_an_image_is_generated(sdk: openai.OpenAI) -> None:
    answer = sdk.images.generate(model="gpt-image-1", prompt="a lighthouse", **SMALL)
    facts = verify(image_of(answer))
    assert (facts.media_type, facts.width, facts.height) == ("image/png", 512, 512)
    assert answer.data is not None
    assert answer.data[0].url is None
    assert answer.usage is not None
    assert answer.usage.total_tokens == 0
    assert (answer.size, answer.output_format, answer.background) == ("512x512", "png", "opaque")


def test_several_images_of_one_seed_differ(sdk: openai.OpenAI) -> None:
    body = {"steps": 1, "seed": 7, "width": 512, "height": 640, "negative_prompt": "fog", "unknown": {"x": 1}}
    answer = sdk.images.generate(model="any", prompt="a boat", n=3, extra_body=body)
    assert len({image_of(answer, number) for number in range(3)}) == 3
    assert [image.seed for image in answer.data or ()] == [7, 8, 9]  # type: ignore[attr-defined]
    assert verify(image_of(answer)).height == 640


@pytest.mark.parametrize(("kind", "media_type"), [("jpeg", "image/jpeg"), ("webp", "image/webp")])
def test_other_file_types_keep_the_mark_of_their_origin(sdk: openai.OpenAI, kind: Any, media_type: str) -> None:
    answer = sdk.images.generate(model="any", prompt="a boat", output_format=kind, output_compression=60, **SMALL)
    data = image_of(answer)
    assert sniff(data) == media_type
    assert b"digitalsourcetype/algorithmicMedia" in data
    assert answer.output_format == kind
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (512, 512)


def test_a_url_is_sent_instead_of_the_bytes_when_it_is_asked_for(sdk: openai.OpenAI) -> None:
    answer = sdk.images.generate(model="any", prompt="a boat", response_format="url", **SMALL)
    assert answer.data is not None
    assert answer.data[0].b64_json is None
    assert answer.data[0].url is not None
    verify(httpx2.get(answer.data[0].url).content)


def test_a_stream_has_partial_images(slow_server: ServerProcess) -> None:
    with client(slow_server) as sdk:
        stream = sdk.images.generate(
            model="any", prompt="a boat", size="512x512", stream=True, partial_images=2, extra_body={"steps": 4}
        )
        events = list(stream)
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:-1]] == [0, 1]
    assert all(sniff(base64.b64decode(event.b64_json)) == "image/jpeg" for event in events[:-1])
    verify(base64.b64decode(events[-1].b64_json))
    assert events[-1].usage.total_tokens == 0


def test_an_edit_with_two_images(sdk: openai.OpenAI, shared_server: ServerProcess) -> None:
    drawn = image_of(sdk.images.generate(model="any", prompt="a red boat", **SMALL))
    prompt = "a boat like these"
    with shared_server.http() as http:
        before = http.get("/api/v1/upload-reference").json()["references"]
    for images in (drawn, [("/home/somebody/a.png", drawn), ("b.gif", jpeg())]):
        answer = sdk.images.edit(model="any", image=images, prompt=prompt, n=1, size="512x512", extra_body={"steps": 1})
        assert verify(image_of(answer)).width == 512
    requests = [job["request"]["reference_images"] for job in jobs(shared_server, prompt)]
    assert [len(names) for names in requests] == [2, 1]
    with shared_server.http() as http:  # they were for these calls only
        until(lambda: http.get("/api/v1/upload-reference").json()["references"] == before)


def jpeg() -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (64, 64), "blue").save(encoded, "JPEG")
    return encoded.getvalue()


def test_an_edit_streams(sdk: openai.OpenAI) -> None:
    stream = sdk.images.edit(model="any", image=jpeg(), prompt="a boat", size="512x512", stream=True)
    assert [event.type for event in stream][-1] == "image_edit.completed"


def test_an_invalid_edit_names_the_field(sdk: openai.OpenAI) -> None:
    for options, field in (
        ({"image": jpeg(), "mask": jpeg()}, "mask"),
        ({"image": [jpeg()] * 11}, "image"),
        ({"image": b"no image"}, "file"),
        ({"image": jpeg(), "size": "1x1"}, "width"),
    ):
        with pytest.raises(openai.APIStatusError) as refused:
            sdk.images.edit(model="any", prompt="a boat", **options)  # type: ignore[call-overload]
        assert refused.value.body["param"] == field  # type: ignore[index]
        assert refused.value.status_code in (400, 415)


@pytest.mark.parametrize(
    ("options", "field", "text"),
    [
        ({"prompt": "a boat", "size": "256x256"}, "width", "512"),
        ({"prompt": "a boat", "size": "large"}, "size", "auto or WIDTHxHEIGHT"),
        ({"prompt": "a boat", "n": 11}, "n", "10"),
        ({"prompt": "a boat", "output_format": "gif"}, "output_format", "gif"),
        ({"prompt": "a boat", "background": "transparent"}, "background", "transparent"),
        ({"prompt": " "}, "prompt", "visible"),
        ({"prompt": "a boat", "extra_body": {"steps": 1000}}, "steps", "50"),
    ],
)
def test_an_invalid_request_names_the_field(sdk: openai.OpenAI, options: Any, field: str, text: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.images.generate(model="any", **options)
    assert refused.value.param == field
    assert refused.value.code == "invalid_request"
    assert text in refused.value.message
    assert "send it again" in refused.value.message
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_nulls_and_texts_of_numbers_are_taken(shared_server: ServerProcess) -> None:
    body = {"model": None, "prompt": "a boat", "n": "1", "size": "512x512", "steps": "1", "seed": None, "quality": None}
    with shared_server.http() as http:
        answer = http.post("/v1/images/generations", json=body, timeout=60)
    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 1


def test_a_wrong_key_is_an_authentication_error(shared_server: ServerProcess) -> None:
    with openai.OpenAI(base_url=f"{shared_server.url}/v1", api_key="umr_wrong") as sdk:
        with pytest.raises(openai.AuthenticationError):
            sdk.images.generate(model="any", prompt="a boat")
        with pytest.raises(openai.AuthenticationError):
            sdk.models.list()


def test_models(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["procedural"]
    assert sdk.models.retrieve("gpt-image-1").id == "gpt-image-1"
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.create(model="any", messages=[])


def test_a_call_that_is_cut_off_and_repeated_draws_once(slow_server: ServerProcess) -> None:
    """The client's time limit of 1.5 s is shorter than the job; it repeats the call by itself."""
    prompt = "a boat that is cut off"
    with client(slow_server, timeout=1.5, max_retries=9) as sdk:
        answer = sdk.images.generate(model="any", prompt=prompt, size="512x512", extra_body={"steps": 6})
    verify(image_of(answer))
    assert len(jobs(slow_server, prompt)) == 1
    with client(slow_server) as sdk:  # the response was sent: an equal request is a new one
        sdk.images.generate(model="any", prompt=prompt, size="512x512", extra_body={"steps": 6})
    assert len(jobs(slow_server, prompt)) == 2


def test_a_stream_that_is_cut_off_leaves_its_job(slow_server: ServerProcess) -> None:
    prompt = "a boat whose stream is cut off"
    options: Any = {"model": "any", "prompt": prompt, "size": "512x512", "extra_body": {"steps": 6}}
    with client(slow_server) as sdk:
        stream = sdk.images.generate(stream=True, partial_images=1, **options)
        next(iter(stream))
        stream.close()
    with client(slow_server) as sdk:
        sdk.images.generate(**options)
    assert len(jobs(slow_server, prompt)) == 1


def test_a_failed_job_is_an_error_that_is_not_repeated(slow_server: ServerProcess) -> None:
    prompt = "a boat that is cancelled"
    failures: list[openai.APIStatusError] = []

    def call() -> None:
        with client(slow_server) as sdk, suppress(openai.APIStatusError):
            try:
                sdk.images.generate(model="any", prompt=prompt, extra_body={"steps": 50})
            except openai.APIStatusError as error:
                failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    (job,) = until(lambda: jobs(slow_server, prompt))
    with slow_server.http() as http:
        http.post(f"/api/v1/cancel/{job['job_id']}")
    thread.join(60)
    assert len(jobs(slow_server, prompt)) == 1
    assert "cancelled" in failures[0].message
    assert failures[0].response.headers["x-should-retry"] == "false"


def test_a_limit_names_its_remedy(shared_server: ServerProcess) -> None:
    made = cli("keys", "create", "--daily", "1", "--state", str(shared_server.state), "--json")
    with openai.OpenAI(base_url=f"{shared_server.url}/v1", api_key=json.loads(made.stdout)["key"]) as sdk:
        sdk.images.generate(model="any", prompt="a boat", **SMALL)
        with pytest.raises(openai.RateLimitError, match="1 jobs a day") as refused:
            sdk.images.generate(model="any", prompt="a boat", **SMALL)
    assert int(refused.value.response.headers["retry-after"]) <= 120
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_a_model_that_the_server_has_is_chosen_by_its_name(state: Path, tmp_path: Path) -> None:
    options = ("--engine", "fake_engines:RecordingEngine", "--engine-option", f"folder={tmp_path}")
    with server(state, *options, PYTHONPATH=str(Path(__file__).parents[1])) as running, client(running) as sdk:
        assert [model.id for model in sdk.models.list()] == ["base", "large"]
        for model, drawn in (("large", "large"), ("gpt-image-1", None)):
            sdk.images.generate(model=model, prompt="a boat", size="512x512", extra_body={"steps": 1, "cfg": 2.5})
            request = json.loads((tmp_path / "request.json").read_bytes())
            assert (request["model"], request["cfg"]) == (drawn, 2.5)
