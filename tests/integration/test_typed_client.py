"""The Python client as people type it."""

import inspect
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support import SMALL, ServerProcess
from umrgen import AsyncClient, Client, Event, InvalidRequest, UmrgenWarning
from umrgen.server.png import encode_png
from umrgen.testing import FaultServer

PNG = encode_png(np.zeros((32, 32, 3), np.uint8))


@pytest.fixture
def client(shared_server: ServerProcess) -> Any:
    with Client(shared_server.url, shared_server.key) as client:
        yield client


@pytest.mark.parametrize(
    ("wrong", "right"), [("widht", "width"), ("step", "steps"), ("reference", "references"), ("heigth", "height")]
)
def test_a_misspelt_parameter_is_a_type_error_with_the_nearest_name(client: Client, wrong: str, right: str) -> None:
    for call in (client.generate, client.submit):
        with pytest.raises(TypeError, match=f"{call.__name__}.*{wrong}.*did you mean '{right}'"):
            call("a boat", **{wrong: 512})
    with pytest.raises(TypeError, match=wrong):
        next(iter(client.generate_many([{"prompt": "a boat", wrong: 1}], [None])))


def test_both_clients_have_the_same_methods_and_parameters() -> None:
    def public(kind: type) -> dict[str, list[tuple[str, Any, Any]]]:
        return {
            name: [
                (parameter.name, parameter.default, str(parameter.kind))
                for parameter in inspect.signature(method).parameters.values()
            ]
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") and name not in ("close", "aclose")
        }

    assert public(Client) == public(AsyncClient)


def test_references_are_uploaded(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "reference.png"
    path.write_bytes(PNG)
    picture = Image.new("RGB", (40, 40), "red")
    image = client.generate("a boat", tmp_path / "boat.png", references=[path, str(path), PNG, picture], **SMALL)
    (job,) = (job for job in client.jobs(limit=5)["jobs"] if job["job_id"] == image.job_id)
    names = job["request"]["reference_images"]
    assert len(names) == 4
    assert len(set(names)) == 2, "three of them are the same image"
    with pytest.raises(InvalidRequest, match=r"none\.png"):
        client.generate("a boat", tmp_path / "x.png", references=["none.png"], **SMALL)
    with pytest.raises(TypeError, match="int"):
        client.generate("a boat", tmp_path / "x.png", references=[5], **SMALL)  # type: ignore[list-item]


def test_an_image_has_its_data_and_size(client: Client, tmp_path: Path) -> None:
    image = client.generate("a boat", tmp_path / "boat.png", **SMALL)
    assert image.data == (tmp_path / "boat.png").read_bytes()
    assert len(image.data) == image.bytes
    assert image.size == (512, 512)
    assert image._repr_png_() == image.data
    assert image._repr_jpeg_() is None
    with Image.open(io.BytesIO(image.data)) as opened:
        assert opened.size == image.size


def test_a_call_has_its_own_events(shared_server: ServerProcess, tmp_path: Path) -> None:
    everything: list[Event] = []
    mine: list[Event] = []
    with Client(shared_server.url, shared_server.key, on_event=everything.append) as client:
        first = client.generate("a boat", tmp_path / "a.png", on_event=mine.append, **SMALL)
        client.generate("another boat", tmp_path / "b.png", **SMALL)
    assert {event.job_id for event in mine} == {first.job_id}
    assert len(everything) > len(mine) > 0


def test_what_a_server_does_not_honour_is_a_warning(tmp_path: Path) -> None:
    with (
        FaultServer("legacy", job_seconds=0) as old,
        Client(old.url, old.key) as client,
        pytest.warns(UmrgenWarning, match="webhook"),
    ):
        client.submit("a boat", webhook_url="https://receiver.example/hook")
    with FaultServer("modern", job_seconds=0) as new, Client(new.url, new.key) as client, warnings.catch_warnings():
        warnings.simplefilter("error")
        client.submit("a boat", width=512)
