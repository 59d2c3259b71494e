"""The engine's process: the messages that it keeps."""

from collections.abc import Sequence
from concurrent.futures import wait
from typing import Any

import msgspec
import pytest
from fake_engines import FakeBatchEngine, FakeEngine
from hypothesis import given
from hypothesis import strategies as st

from support import draw_task
from umrgen.provenance import read
from umrgen.server.engines import Cancelled, DrawTask, Report
from umrgen.server.executors.task_message import pack_tasks, unpack_tasks
from umrgen.server.executors.worker import Worker

IDS = st.integers(0, 9).map(lambda number: f"ext_{number}") | st.text(min_size=1, max_size=9)
MESSAGES = st.lists(st.tuples(st.sampled_from(["draw", "cancel", "show", "hide", "finish"]), IDS), max_size=200)
REFUSED = msgspec.to_builtins(draw_task("refuse").request)


def frame(kind: str, job_id: str) -> dict[str, Any]:
    match kind:
        case "draw":
            task = {
                "job_id": job_id,
                "request": REFUSED,
                "references": [],
                "archives": [],
                "with_prompt": False,
                "created_at": 0,
            }
            return {"do": "draw", "tasks": [task], "files": []}
        case "cancel":
            return {"do": "cancel", "job_id": job_id}
    return {"do": "show", "job_id": job_id, "wanted": kind == "show"}


def finish(worker: Worker) -> None:
    """Finish the oldest task."""
    if not worker._tasks.empty():
        worker._draw(unpack_tasks(*worker._tasks.get()))


@given(MESSAGES)
def test_only_jobs_that_are_not_finished_are_remembered(messages: list[tuple[str, str]]) -> None:
    """Messages may be late, repeated, or about jobs that the process never had."""
    worker, received = Worker(FakeEngine(), lambda head, body: None), set()
    for kind, job_id in messages:
        if kind == "finish":
            finish(worker)
            continue
        worker.receive(frame(kind, job_id), b"")
        received |= {job_id} if kind == "draw" else set()
        assert worker._cancelled | worker._shown <= worker._open <= received
        if kind in ("show", "hide"):
            assert worker.shows(job_id) == (kind == "show" and job_id in worker._open)
        if kind == "cancel" and job_id in worker._open:
            with pytest.raises(Cancelled):
                worker.check_cancelled(job_id)
    while not worker._tasks.empty():
        finish(worker)
    assert not worker._cancelled | worker._shown | worker._open


def test_a_message_has_the_references_of_a_batch_once() -> None:
    first, second = (f"{number:032x}.png" for number in range(2))
    names = [(first, second), (first, second), (second,)]
    files = {first: b"one", second: b"two"}
    tasks = [
        DrawTask(
            f"ext_{number}",
            msgspec.structs.replace(draw_task("a boat").request, reference_images=used),
            tuple(files[name] for name in used),
            archives=tuple(b"archive of " + files[name] for name in used),
        )
        for number, used in enumerate(names)
    ]
    head, body = pack_tasks(tasks)
    assert sorted([body.count(b"one"), body.count(b"two")]) == [2, 2], "the file, and its archive"
    assert unpack_tasks(head, body) == tasks


def test_references_without_names_are_kept_apart() -> None:
    tasks = [draw_task("a boat", references=(b"one", b"two")), draw_task("a boat", references=(b"three",))]
    assert unpack_tasks(*pack_tasks(tasks)) == tasks


class DividingEngine(FakeBatchEngine):
    """Draws the first task of a batch alone."""

    def draw_batch(self, tasks: Sequence[DrawTask], reports: Sequence[Report]) -> list[Any]:
        for task, report in zip(tasks, reports, strict=True):
            report.together(1 if task is tasks[0] else len(tasks) - 1)
        return super().draw_batch(tasks, reports)


def test_a_file_states_how_many_images_were_drawn_together_and_not_how_many_were_claimed() -> None:
    images: dict[str, bytes] = {}

    def keep(head: dict[str, Any], body: bytes) -> None:
        if head["is"] == "image":
            images[head["job_id"]] = body[: len(body) - head["thumbnail"]]

    for engine, expected in ((DividingEngine(), [1, 2, 2]), (FakeBatchEngine(), [3, 3, 3])):
        worker = Worker(engine, keep)
        worker._draw([draw_task("a boat", job_id=f"ext_{number}") for number in range(3)])
        wait(worker._encoding)
        records = [read(images[f"ext_{number}"]) for number in range(3)]
        assert [record.batch for record in records if record] == expected
