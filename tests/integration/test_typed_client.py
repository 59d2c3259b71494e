"""The Python client as people type it."""

import doctest
import inspect
import io
import time
import warnings
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support import SMALL, ServerProcess
from umrgen import (
    AsyncClient,
    Client,
    Event,
    InvalidRequest,
    JobNotFound,
    SavedImage,
    TargetUnusable,
    UmrgenError,
    UmrgenWarning,
    Unsupported,
)
from umrgen.client import async_client, descriptions
from umrgen.client import client as client_module
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
    (job,) = (job for job in client.jobs(limit=5) if job.job_id == image.job_id)
    names = job.request["reference_images"]
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


def test_an_image_in_memory_leaves_no_file(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = client.submit("a boat", **SMALL)
    image = job.image()
    assert image.path == Path(f"{job.id}.png")
    assert (len(image.data), image.size) == (image.bytes, (512, 512))
    assert list(tmp_path.glob("*.*")) == []
    assert image.data == job.download("boat.png").data


def test_an_image_is_written_to_a_file_object(client: Client, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    image = client.generate("a boat", buffer, **SMALL)
    assert image.data == buffer.getvalue()
    assert sha256(buffer.getvalue()).hexdigest() == image.sha256
    with (tmp_path / "boat.png").open("wb") as file:
        client.job(image.job_id).download(file)
    assert (tmp_path / "boat.png").read_bytes() == buffer.getvalue()


@pytest.mark.parametrize("kind", ["text", "closed", "for reading"])
def test_a_file_object_that_takes_no_bytes_is_refused_before_there_is_a_job(
    client: Client, tmp_path: Path, kind: str
) -> None:
    before = next(client.jobs(limit=1), None)
    path = tmp_path / "boat.png"
    path.touch()
    with path.open("r" if kind == "for reading" else "w", encoding="utf-8") as file:
        if kind == "closed":
            file.close()
        with pytest.raises(TargetUnusable, match="file object"):
            client.generate("a boat", file, **SMALL)  # type: ignore[arg-type]
    assert next(client.jobs(limit=1), None) == before


def test_the_results_of_many_requests_name_their_request(client: Client, tmp_path: Path) -> None:
    requests = [{"prompt": f"boat {number}", **SMALL} for number in range(3)]
    targets = [tmp_path / str(number) / "boat.png" for number in range(3)]
    for target in targets:
        target.parent.mkdir()
    results = client.generate_many(requests, targets)
    first = next(results)
    assert isinstance(first, SavedImage)
    lost = next(target for target in targets if target != first.path)
    lost.parent.rmdir()
    found = [first, *results]
    (error,) = (result for result in found if isinstance(result, UmrgenError))
    assert error.request is requests[targets.index(lost)]
    assert all(any(result.request is request for result in found) for request in requests)
    for result in found:
        if isinstance(result, SavedImage):
            assert result.path == targets[requests.index(dict(result.request or {}))]


def test_jobs_are_those_of_all_pages(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    created = [client.submit(f"page {number}", **SMALL).id for number in range(5)][::-1]
    monkeypatch.setattr(async_client, "MAX_PAGE", 2)
    listed = list(client.jobs())
    assert [job.job_id for job in listed[:5]] == created
    assert len({job.job_id for job in listed}) == len(listed)
    assert (listed[0].prompt, listed[0].request["width"]) == ("page 4", 512)
    assert listed[0].created_at is not None
    assert abs(listed[0].created_at.timestamp() - time.time()) < 3600
    assert [job.job_id for job in client.jobs(limit=3)] == created[:3]
    client.wait_all([client.job(job_id) for job_id in created])
    assert {job.state for job in client.jobs(state="completed", limit=5)} == {"completed"}
    with pytest.raises(InvalidRequest, match="limit"):
        next(client.jobs(limit=0))


def test_jobs_are_found_marked_and_deleted(client: Client) -> None:
    job = client.submit("a Zeppelin over the stra\u00dfe, typed", **SMALL)
    job.wait()
    now = datetime.now().astimezone()
    minute = timedelta(minutes=1)
    found = list(client.jobs(search="typed ZEPPELIN", after=now - minute, before=now + minute, engine="procedural"))
    assert [each.job_id for each in found] == [job.id]
    assert not found[0].favorite
    assert list(client.jobs(search="typed zeppelin", after=now + minute)) == []
    assert job.favorite().raw["favorite"]
    assert [each.favorite for each in client.jobs(search="typed zeppelin", favorite=True)] == [True]
    assert not job.favorite(False).raw["favorite"]
    assert job.id in [entry.job_id for entry in client.unfinished()]
    job.delete()
    assert job.id not in [entry.job_id for entry in client.unfinished()], "resume does not look for it"
    job.delete()
    with pytest.raises(JobNotFound):
        job.status()
    second = client.submit("a boat", **SMALL)
    assert client.delete_jobs([second, job.id, "ext_unknown"]) == ["ext_unknown"]
    assert second.id not in [entry.job_id for entry in client.unfinished()]
    with pytest.raises(JobNotFound):
        client.job("ext_unknown").delete()


def test_more_jobs_than_one_call_may_name_are_deleted(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_client, "MAX_BATCH", 2)
    ids = [client.submit("a boat", **SMALL).id for _ in range(3)]
    assert client.delete_jobs([*ids, "ext_unknown"]) == ["ext_unknown"]
    assert not set(ids) & {job.job_id for job in client.jobs()}


def test_a_server_that_ignores_filters_is_not_believed() -> None:
    """An earlier version would list all jobs, and the caller could delete them."""
    page = descriptions.parse_page({"jobs": [{"job_id": "ext_1", "state": "completed"}], "next_cursor": None})
    assert page is not None
    descriptions.require_filters(page, {})
    with pytest.raises(Unsupported, match="cannot search") as caught:
        descriptions.require_filters(page, {"q": "boat"})
    assert "List all jobs" in caught.value.next


def test_a_list_of_jobs_whose_pages_repeat_comes_to_an_end(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        client.submit("a boat", **SMALL)
    pages: list[descriptions.Page] = []

    def repeating(data: Any) -> descriptions.Page | None:
        page = descriptions.parse_page(data)
        assert page is not None
        pages.append(page)
        return replace(page, next_cursor=pages[0].next_cursor)

    monkeypatch.setattr(async_client, "MAX_PAGE", 1)
    monkeypatch.setattr(async_client, "parse_page", repeating)
    assert len(list(client.jobs())) == len(pages) == 2


def test_an_entry_without_an_id_or_a_state_is_no_job() -> None:
    entries = [{"job_id": "ext_1", "state": "completed", "created_at": "now", "prompt": 5, "request": []}]
    entries += [{"job_id": "ext_2"}, {"state": "completed"}, {"job_id": "../x", "state": "completed"}]
    page = descriptions.parse_page({"jobs": [*entries, 5, None], "next_cursor": 7})
    assert page is not None
    assert [(job.job_id, job.prompt, job.created_at) for job in page.jobs] == [("ext_1", None, None)]
    assert page.next_cursor is None


def test_the_examples_of_the_docstrings(
    client: Client, shared_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UMRGEN_BASE_URL", shared_server.url)
    monkeypatch.setenv("UMRGEN_API_KEY", shared_server.key)
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    examples = {test.name: test for test in finder.find(client_module, globs={**vars(client_module), "client": client})}
    for kind in (Client, client_module.SyncJob):
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_") and name != "close":
                assert examples[f"{kind.__module__}.{method.__qualname__}"].examples, f"{name} has no example"
    first = "umrgen.client.client.Client.generate"  # its picture is the reference of other examples
    for name in sorted(examples, key=lambda name: (name != first, name)):
        report: list[str] = []
        assert runner.run(examples[name], out=report.append).failed == 0, "".join(report)


def test_the_unfinished_jobs_are_those_of_this_server(client: Client) -> None:
    mine = client.submit("a boat", **SMALL)
    with FaultServer("modern", job_seconds=0) as other, Client(other.url, other.key) as elsewhere:
        theirs = elsewhere.submit("a boat", width=512)
        assert [entry.job_id for entry in elsewhere.unfinished()] == [theirs.id]
    assert [entry.job_id for entry in client.unfinished()] == [mine.id]
    mine.image()
    assert client.unfinished() == []


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
