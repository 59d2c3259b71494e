"""`GET /api/v1/events/{job_id}`: a job as Server-Sent Events."""

import sqlite3
import threading
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import BytesIO
from pathlib import Path

import httpx2
import pytest
from event_streams import Event, events, read
from PIL import Image

from support import ServerProcess, finish, problem, server, submit, until


def test_a_stream_reports_a_job_from_queued_to_completed(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        received = events(http, submit(http, steps=4))
    assert received[0].kind == "status"
    assert (received[-1].kind, received[-1].data["state"]) == ("status", "completed")
    assert received[-1].data["image_url"]
    steps = [event.data["step"] for event in received if event.kind == "progress"]
    assert steps
    assert steps == sorted(set(steps))
    assert len({event.id for event in received}) == len(received), "every event has another id"
    assert not [event for event in received if event.kind == "preview"]


def test_a_stream_resumes_after_the_last_event_id_and_ends_with_204(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        job_id = submit(http, steps=3)
        with http.stream("GET", f"/api/v1/events/{job_id}") as answer:
            first = next(read(answer.iter_lines()))
        rest = events(http, job_id, **{"Last-Event-ID": first.id})
        assert first.id not in {event.id for event in rest}
        assert rest[-1].data["state"] == "completed"
        again = http.get(f"/api/v1/events/{job_id}", headers={"Last-Event-ID": rest[-1].id})
        assert (again.status_code, again.content) == (204, b""), "an EventSource does not reconnect"
        assert [event.data["state"] for event in events(http, job_id)] == ["completed"]


def test_a_disconnect_does_not_cancel_the_job(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        job_id = submit(http, steps=2)
        with http.stream("GET", f"/api/v1/events/{job_id}") as answer:
            next(read(answer.iter_lines()))
        assert finish(http, job_id)["state"] == "completed"


@pytest.mark.slow
def test_previews_are_jpegs_and_sent_on_request(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        received = events(http, submit(http, steps=4), "?preview=1")
    previews = [event.data for event in received if event.kind == "preview"]
    assert previews
    for preview in previews:
        with Image.open(BytesIO(b64decode(preview["data"])), formats=["JPEG"]) as image:
            assert max(image.size) <= 384
            image.load()
    assert received[-1].data["state"] == "completed"


def test_queue_positions_and_a_cancel_are_events(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        first, second = submit(http, steps=2), submit(http, steps=2)
        received: list[Event] = []
        with http.stream("GET", f"/api/v1/events/{second}") as answer:
            for event in read(answer.iter_lines()):
                received.append(event)
                if event.data.get("state") == "running":
                    with slow_server.http() as other:
                        other.post(f"/api/v1/cancel/{second}")
        finish(http, first)
    positions = [event.data["queue_position"] for event in received if event.data.get("state") == "queued"]
    assert positions
    assert positions == sorted(set(positions), reverse=True)
    assert (received[-1].data["state"], received[-1].data["error_code"]) == ("failed", "cancelled")


def test_other_keys_cannot_read_the_stream(shared_server: ServerProcess, http: httpx2.Client, other_key: str) -> None:
    job_id = submit(http)
    path = f"{shared_server.url}/api/v1/events/{job_id}"
    problem(httpx2.get(path), 401, "unauthorized")
    problem(httpx2.get(path, headers={"Authorization": f"Bearer {other_key}"}), 404, "job_not_found")
    problem(http.get("/api/v1/events/ext_unknown"), 404, "job_not_found")
    with http.stream("GET", f"/api/v1/events/{job_id}") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")


@pytest.mark.slow
def test_a_stopping_server_sends_a_retry_interval(state: Path) -> None:
    with server(state, "--step-delay", "30", "--drain", "0.2", "--cancel-grace", "0.2") as running:
        other: list[str] = []
        received: list[Event] = []

        def listen(job_id: str) -> None:
            with running.http() as http, http.stream("GET", f"/api/v1/events/{job_id}") as answer:
                for event in read(answer.iter_lines(), other):
                    received.append(event)  # noqa: PERF402 - each as soon as it is received

        with running.http() as http:
            job_id = submit(http, steps=2)
        listening = threading.Thread(target=listen, args=(job_id,))
        listening.start()
        until(lambda: received)
        assert running.stop() == 0
        listening.join()
    assert [line for line in other if line.startswith("retry: ")]
    assert all(event.data.get("state") != "completed" for event in received)


@pytest.mark.slow
def test_a_heartbeat_does_not_answer_a_long_poll(state: Path) -> None:
    """The renewal of a running job's lease changes no version, so a long poll with an ETag waits on."""
    settings = ("--step-delay", "600", "--lease", "1", "--drain", "0", "--cancel-grace", "0")
    with server(state, *settings) as running, running.http() as http, ThreadPoolExecutor(1) as threads:
        job_id = submit(http, steps=2)
        path = f"/api/v1/status/{job_id}"
        until(lambda: http.get(path).json()["progress"]["step"] == 1)
        headers = {"Prefer": "wait=3", "If-None-Match": http.get(path).headers["etag"]}
        long_poll = threads.submit(http.get, path, headers=headers)
        leases = set()
        with closing(sqlite3.connect(state / "ledger.sqlite3")) as ledger:

            def renewed() -> bool:
                leases.update(ledger.execute("SELECT lease_until FROM jobs").fetchone())
                return len(leases) > 2

            until(renewed)
        assert long_poll.result().status_code == 304
