"""The name of a model chooses the engine."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from umrgen.server.comfyui_hint import is_there
from umrgen.server.model_choice import UnknownModel, choose
from umrgen.server.settings import BadSettings, Settings


@pytest.mark.parametrize(
    ("model", "engine", "option"),
    [
        ("procedural", "procedural", ""),
        ("http://127.0.0.1:8188", "comfyui", "url"),
        ("owner/some-model.v2", "diffusers", "model"),
        ("weights/model.safetensors", "diffusers", "model"),
        ("~/weights/model-q4.gguf", "sdcpp", "model"),
    ],
)
def test_the_engine_follows_from_the_form_of_the_name(model: str, engine: str, option: str) -> None:
    choice = choose(model)
    assert (choice.engine, choice.option) == (engine, option)
    assert choice.reason


def test_a_folder_needs_an_index(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"a diffusers folder has a model_index\.json"):
        choose(str(tmp_path))
    (tmp_path / "model_index.json").write_text("{}")
    assert choose(str(tmp_path)).engine == "diffusers"


@pytest.mark.parametrize("model", ["", "a model", "owner/name/more", "-x"])
def test_the_error_for_another_name_lists_the_forms(model: str) -> None:
    with pytest.raises(UnknownModel) as unknown:
        choose(model)
    assert "model_index.json" in str(unknown.value) or "not there" in str(unknown.value)
    assert "hub name" in str(unknown.value.next)


def test_the_model_is_an_option_of_the_engine() -> None:
    settings = Settings.load({"model": "http://127.0.0.1:8188", "engine_option": ("workflow=flux",)}, {})
    assert (settings.engine, settings.options_of_engine) == (
        "comfyui",
        {"url": "http://127.0.0.1:8188", "workflow": "flux"},
    )


def test_an_explicit_engine_is_kept() -> None:
    settings = Settings.load({"model": "owner/name", "engine": "mine:Engine"}, {})
    assert (settings.engine, settings.options_of_engine) == ("mine:Engine", {"model": "owner/name"})


def test_the_error_for_an_unknown_model_is_one_of_the_settings() -> None:
    with pytest.raises(BadSettings, match="model: 'nothing' is not there"):
        Settings.load({}, {"UMRGEN_MODEL": "nothing"})


@pytest.fixture(params=[{"system": {"comfyui_version": "0.38.0"}}, {"system": []}, [], None])
def answer(request: pytest.FixtureRequest) -> Iterator[tuple[str, object]]:
    """A server on loopback that gives this answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(request.param).encode())

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", request.param
        server.shutdown()
        thread.join()


def test_a_comfyui_is_recognized_by_its_answer(answer: tuple[str, object]) -> None:
    url, value = answer
    assert is_there(url) == (value == {"system": {"comfyui_version": "0.38.0"}})


def test_no_answer_is_no_comfyui() -> None:
    assert not is_there("http://127.0.0.1:1")
