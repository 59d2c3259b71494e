"""A request parameter is declared in three places, and carried whole between them."""

import json
import re
from pathlib import Path
from typing import get_type_hints

import msgspec

from support import server
from umrgen import Client, Options
from umrgen.client.options import CallOptions, LoraOption, RequestOptions
from umrgen.server.domain.request import GenerationRequest, Lora

ROOT = Path(__file__).parents[2]
JAVASCRIPT = ROOT / "js" / "src" / "client.js"
WHERE = "docs/extending.md, 'A request parameter', lists the three places"


def javascript_fields() -> set[str]:
    """Return the fields of the JavaScript client's type of a request, in snake case."""
    typedef = re.search(
        r"@typedef \{object\} (?:Picture|GenerationParameters)\n(.*?)\*/", JAVASCRIPT.read_text(), re.DOTALL
    )
    assert typedef
    names = re.findall(r"@property \{.*\} \[(\w+)\]", typedef[1])
    return {re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name) for name in names}


def test_the_three_declarations_have_the_same_parameters() -> None:
    server_side = {field.name for field in msgspec.structs.fields(GenerationRequest)} - {"prompt"}
    assert set(get_type_hints(RequestOptions)) == server_side, WHERE
    assert javascript_fields() - {"references"} == server_side, WHERE  # they become reference_images
    assert set(get_type_hints(LoraOption)) == {field.name for field in msgspec.structs.fields(Lora)}


def test_every_option_of_a_call_is_typed() -> None:
    assert get_type_hints(CallOptions) == get_type_hints(Options)


def test_every_parameter_reaches_the_engine_and_comes_back(state: Path, tmp_path: Path) -> None:
    arguments = ("--engine", "fake_engines:RecordingEngine", "--engine-option", f"folder={tmp_path}")
    with (
        server(state, *arguments, PYTHONPATH=str(ROOT / "tests")) as running,
        Client(running.url, running.key) as client,
    ):
        image = tmp_path / "reference.png"
        client.generate("one", image, width=512, height=512, steps=1)
        request: RequestOptions = {
            "seed": 11,
            "negative": "fog",
            "width": 640,
            "height": 512,
            "steps": 3,
            "cfg": 3.5,
            "model": "large",
            "loras": [{"name": "ink", "strength": 0.5}],
            "reference_images": [client.upload(image)],
            "priority": 4,
            "webhook_url": "https://receiver.invalid/hook",
        }
        assert set(request) == set(get_type_hints(RequestOptions)), "this test sends every parameter"
        client.submit("one", **request).wait()
        expected = {"prompt": "one", **request}
        assert json.loads((tmp_path / "request.json").read_bytes()) == expected
        assert (tmp_path / "references").read_text() == "1"
        with running.http() as http:
            assert http.get("/api/v1/jobs?limit=1").json()["jobs"][0]["request"] == expected
