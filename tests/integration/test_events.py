"""`GET /api/v1/events/{job_id}`: a job told as Server-Sent Events."""

import json
import sqlite3
import threading
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from support import ServerProcess, finish, problem, server, submit, until


@dataclass
class Event:
    kind: str
    id: str
    data: dict[str, Any]


def read(lines: Iterator[str], other: list[str] | None = None) -> Iterator[Event]:
    """Parse a stream (WHATWG HTML, section 9.2); lines that belong to no event go to `other`."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line.startswith(":") or name == "retry":
            if other is not None:
                other.append(line)
        elif line:
            fields[name] = value
        elif fields:
            yield Event(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
            fields = {}


def events(http: httpx2.Client, job_id: str, query: str = "", **headers: str) -> list[Event]:
    """All events until the stream ends."""
    with http.stream("GET", f"/api/v1/events/{job_id}{query}", headers=headers) as answer:
        assert answer.status_code == 200
        return list(read(answer.iter_lines()))


def test_a_whole_life(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        told = events(http, submit(http, steps=4))
    assert told[0].kind == "status"
    assert (told[-1].kind, told[-1].data["state"]) == ("status", "completed")
    assert told[-1].data["image_url"]
    steps = [event.data["step"] for event in told if event.kind == "progress"]
    assert steps
    assert steps == sorted(set(steps))
    assert len({event.id for event in told}) == len(told), "every event has an id of its own"
    assert not [event for event in told if event.kind == "preview"]


def test_it_goes_on_from_the_last_event_and_ends_for_good(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        job_id = submit(http, steps=3)
        with http.stream("GET", f"/api/v1/events/{job_id}") as answer:
            first = next(read(answer.iter_lines()))
        rest = events(http, job_id, **{"Last-Event-ID": first.id})
        assert first.id not in {event.id for event in rest}
        assert rest[-1].data["state"] == "completed"
        again = http.get(f"/api/v1/events/{job_id}", headers={"Last-Event-ID": rest[-1].id})
        assert (again.status_code, again.content) == (204, b""), "an EventSource stops coming back"
        assert [event.data["state"] for event in events(http, job_id)] == ["completed"]


def test_a_caller_that_hung_up_has_cancelled_nothing(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        job_id = submit(http, steps=2)
        with http.stream("GET", f"/api/v1/events/{job_id}") as answer:
            next(read(answer.iter_lines()))
        assert finish(http, job_id)["state"] == "completed"


@pytest.mark.slow
def test_previews_are_pictures_for_those_who_ask(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        told = events(http, submit(http, steps=4), "?preview=1")
    previews = [event.data for event in told if event.kind == "preview"]
    assert previews
    for preview in previews:
        with Image.open(BytesIO(b64decode(preview["data"])), formats=["JPEG"]) as image:
            assert max(image.size) <= 384
            image.load()
    assert told[-1].data["state"] == "completed"


def test_a_place_that_moves_and_a_cancel_are_told(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        first, second = submit(http, steps=2), submit(http, steps=2)
        told: list[Event] = []
        with http.stream("GET", f"/api/v1/events/{second}") as answer:
            for event in read(answer.iter_lines()):
                told.append(event)
                if event.data.get("state") == "running":
                    with slow_server.http() as other:
                        other.post(f"/api/v1/cancel/{second}")
        finish(http, first)
    places = [event.data["queue_position"] for event in told if event.data.get("state") == "queued"]
    assert places
    assert places == sorted(set(places), reverse=True)
    assert (told[-1].data["state"], told[-1].data["error_code"]) == ("failed", "cancelled")


def test_nobody_else_is_told(shared_server: ServerProcess, http: httpx2.Client, other_key: str) -> None:
    job_id = submit(http)
    path = f"{shared_server.url}/api/v1/events/{job_id}"
    problem(httpx2.get(path), 401, "unauthorized")
    problem(httpx2.get(path, headers={"Authorization": f"Bearer {other_key}"}), 404, "job_not_found")
    problem(http.get("/api/v1/events/ext_unknown"), 404, "job_not_found")
    with http.stream("GET", f"/api/v1/events/{job_id}") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")


@pytest.mark.slow
def test_a_server_that_stops_says_when_to_come_back(state: Path) -> None:
    with server(state, "--step-delay", "30", "--drain", "0.2", "--cancel-grace", "0.2") as running:
        other: list[str] = []
        told: list[Event] = []

        def listen(job_id: str) -> None:
            with running.http() as http, http.stream("GET", f"/api/v1/events/{job_id}") as answer:
                for event in read(answer.iter_lines(), other):
                    told.append(event)  # noqa: PERF402 - one by one, as they come

        with running.http() as http:
            job_id = submit(http, steps=2)
        listening = threading.Thread(target=listen, args=(job_id,))
        listening.start()
        until(lambda: told)
        assert running.stop() == 0
        listening.join()
    assert [line for line in other if line.startswith("retry: ")]
    assert all(event.data.get("state") != "completed" for event in told)


@pytest.mark.slow
def test_a_heartbeat_is_no_news(state: Path) -> None:
    """The lease of a job that stands still is renewed: nobody who knows how it stands is told again."""
    settings = ("--step-delay", "600", "--lease", "1", "--drain", "0", "--cancel-grace", "0")
    with server(state, *settings) as running, running.http() as http, ThreadPoolExecutor(1) as threads:
        job_id = submit(http, steps=2)
        path = f"/api/v1/status/{job_id}"
        until(lambda: http.get(path).json()["progress"]["step"] == 1)
        headers = {"Prefer": "wait=3", "If-None-Match": http.get(path).headers["etag"]}
        held = threads.submit(http.get, path, headers=headers)
        leases = set()
        with closing(sqlite3.connect(state / "ledger.sqlite3")) as ledger:

            def renewed() -> bool:
                leases.update(ledger.execute("SELECT lease_until FROM jobs").fetchone())
                return len(leases) > 2

            until(renewed)
        assert held.result().status_code == 304
