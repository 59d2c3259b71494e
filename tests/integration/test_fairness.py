"""Turns, places, priorities, caps and estimates, as callers with keys of their own see them."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support import SMALL, ServerProcess, cli, finish, problem, server, submit, until

HELD = ("--step-delay", "60", "--cancel-grace", "0.1", "--drain", "0")
"""A job of two steps holds the engine until it is cancelled; jobs of one step take no time."""


def another(running: ServerProcess) -> httpx2.Client:
    """A caller with a new key, so a session of its own."""
    made = json.loads(cli("keys", "create", "--state", str(running.state), "--json").stdout)
    return running.http(Authorization=f"Bearer {made['key']}")


def look(http: httpx2.Client, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = http.get(f"/api/v1/status/{job_id}").json()
    return job


def test_sessions_take_turns_and_places_come_true(state: Path) -> None:
    with (
        server(state, *HELD) as running,
        running.http() as a,
        another(running) as b,
        another(running) as c,
    ):
        busy = submit(a, steps=2)
        until(lambda: look(a, busy)["state"] == "running")
        jobs = {name: (a, submit(a)) for name in ("a1", "a2", "a3")}
        jobs |= {name: (b, submit(b)) for name in ("b1", "b2")}
        jobs |= {"c1": (c, submit(c))}
        places = {name: look(http, job_id)["queue_position"] for name, (http, job_id) in jobs.items()}
        a.post(f"/api/v1/cancel/{busy}")
        started = {name: finish(http, job_id)["started_at"] for name, (http, job_id) in jobs.items()}
    order = sorted(jobs, key=lambda name: started[name])
    assert order == sorted(jobs, key=lambda name: places[name]), "places came true"
    assert sorted(places.values()) == [1, 2, 3, 4, 5, 6]
    assert {name[0] for name in order[:2]} == {"b", "c"}, "newcomers go before the rest of a backlog"
    assert order[2:4] in (["a1", "b2"], ["b2", "a1"])
    assert [name for name in order if name[0] == "a"] == ["a1", "a2", "a3"]


@pytest.mark.slow
def test_a_priority_moves_only_ones_own(state: Path) -> None:
    with server(state, *HELD) as running, running.http() as a, another(running) as b:
        busy = submit(a, steps=2)
        until(lambda: look(a, busy)["state"] == "running")
        late, other, soon = submit(a, priority=-1), submit(b, priority=-10), submit(a, priority=10)
        jobs = ((b, other), (a, soon), (a, late))
        assert [look(http, job_id)["queue_position"] for http, job_id in jobs] == [1, 2, 3]
        assert look(a, soon)["priority"] == 10
        answer = a.post("/api/v1/generate", json={"prompt": "a boat", "priority": 11})
        assert problem(answer, 400, "invalid_request")["field"] == "priority"


def test_a_full_queue_is_said_and_replays_are_not_refused(state: Path) -> None:
    with (
        server(state, *HELD, "--session-queued", "2") as running,
        running.http() as a,
        another(running) as b,
    ):
        busy = submit(a, steps=2)
        until(lambda: look(a, busy)["state"] == "running")
        body, headers = {"prompt": "a boat", "seed": 1} | SMALL, {"Idempotency-Key": "one"}
        first = a.post("/api/v1/generate", json=body, headers=headers)
        submit(a)
        refused = a.post("/api/v1/generate", json=body)
        problem(refused, 429, "queue_full")
        assert int(refused.headers["retry-after"]) > 0
        again = a.post("/api/v1/generate", json=body, headers=headers)
        assert (again.status_code, again.content) == (202, first.content)
        submit(b)
        told = a.get("/api/v1/capabilities").json()
        assert told["limits"] | {"queued": 2, "running": None} == told["limits"]
        assert "events" in told["calls"]


@pytest.mark.slow
def test_an_estimate_comes_from_what_was_seen_and_outlasts_a_restart(state: Path) -> None:
    shape = {"steps": 8, "width": 576}
    with server(state, "--step-delay", "0.3") as running, running.http() as http:
        first = submit(http, **shape)
        until(lambda: look(http, first)["state"] == "running")
        assert look(http, first)["eta_seconds"] is None, "nothing like it was drawn yet"
        assert finish(http, first)["eta_seconds"] is None
    with server(state, "--step-delay", "0.3") as again, again.http(Authorization=f"Bearer {running.key}") as http:
        busy, queued, other = submit(http, **shape), submit(http, **shape), submit(http)
        until(lambda: look(http, busy)["state"] == "running")
        left, after = look(http, busy)["eta_seconds"], look(http, queued)["eta_seconds"]
        assert 1 <= left < 20
        assert left < after < 60
        assert look(http, other)["eta_seconds"] is None, "a size that was never drawn"
        for job_id in (busy, queued, other):
            finish(http, job_id)
