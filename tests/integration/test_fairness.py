"""Fairness between sessions: turns, queue positions, priorities, limits and estimates."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support import SMALL, ServerProcess, cli, finish, problem, server, submit, until

BLOCKING = ("--step-delay", "60", "--cancel-grace", "0.1", "--drain", "0")
"""A job of two steps occupies the engine until it is cancelled; jobs of one step take no time."""


def client_of_new_key(running: ServerProcess) -> httpx2.Client:
    """Return an HTTP client with a new key, and so with a new session."""
    made = json.loads(cli("keys", "create", "--state", str(running.state), "--json").stdout)
    return running.http(Authorization=f"Bearer {made['key']}")


def get_job(http: httpx2.Client, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = http.get(f"/api/v1/status/{job_id}").json()
    return job


def test_sessions_take_turns_in_the_order_of_their_queue_positions(state: Path) -> None:
    with (
        server(state, *BLOCKING) as running,
        running.http() as a,
        client_of_new_key(running) as b,
        client_of_new_key(running) as c,
    ):
        busy = submit(a, steps=2)
        until(lambda: get_job(a, busy)["state"] == "running")
        jobs = {name: (a, submit(a)) for name in ("a1", "a2", "a3")}
        jobs |= {name: (b, submit(b)) for name in ("b1", "b2")}
        jobs |= {"c1": (c, submit(c))}
        positions = {name: get_job(http, job_id)["queue_position"] for name, (http, job_id) in jobs.items()}
        a.post(f"/api/v1/cancel/{busy}")
        started = {name: finish(http, job_id)["started_at"] for name, (http, job_id) in jobs.items()}
    order = sorted(jobs, key=lambda name: started[name])
    assert order == sorted(jobs, key=lambda name: positions[name]), "the jobs ran in the order of their positions"
    assert sorted(positions.values()) == [1, 2, 3, 4, 5, 6]
    assert {name[0] for name in order[:2]} == {"b", "c"}, "the other sessions precede the rest of the backlog"
    assert order[2:4] in (["a1", "b2"], ["b2", "a1"])
    assert [name for name in order if name[0] == "a"] == ["a1", "a2", "a3"]


@pytest.mark.slow
def test_a_priority_reorders_only_the_jobs_of_its_session(state: Path) -> None:
    with server(state, *BLOCKING) as running, running.http() as a, client_of_new_key(running) as b:
        busy = submit(a, steps=2)
        until(lambda: get_job(a, busy)["state"] == "running")
        late, other, soon = submit(a, priority=-1), submit(b, priority=-10), submit(a, priority=10)
        jobs = ((b, other), (a, soon), (a, late))
        assert [get_job(http, job_id)["queue_position"] for http, job_id in jobs] == [1, 2, 3]
        assert get_job(a, soon)["priority"] == 10
        answer = a.post("/api/v1/generate", json={"prompt": "a boat", "priority": 11})
        assert problem(answer, 400, "invalid_request")["field"] == "priority"


def test_a_full_queue_refuses_new_jobs_and_accepts_replays(state: Path) -> None:
    with (
        server(state, *BLOCKING, "--session-queued", "2") as running,
        running.http() as a,
        client_of_new_key(running) as b,
    ):
        busy = submit(a, steps=2)
        until(lambda: get_job(a, busy)["state"] == "running")
        body, headers = {"prompt": "a boat", "seed": 1} | SMALL, {"Idempotency-Key": "one"}
        first = a.post("/api/v1/generate", json=body, headers=headers)
        submit(a)
        refused = a.post("/api/v1/generate", json=body)
        problem(refused, 429, "queue_full")
        assert int(refused.headers["retry-after"]) > 0
        again = a.post("/api/v1/generate", json=body, headers=headers)
        assert (again.status_code, again.content) == (202, first.content)
        submit(b)
        capabilities = a.get("/api/v1/capabilities").json()
        assert capabilities["limits"] | {"queued": 2, "running": None} == capabilities["limits"]
        assert "events" in capabilities["calls"]


@pytest.mark.slow
def test_estimates_use_earlier_runs_and_survive_a_restart(state: Path) -> None:
    shape = {"steps": 8, "width": 576}
    with server(state, "--step-delay", "0.3") as running, running.http() as http:
        first = submit(http, **shape)
        until(lambda: get_job(http, first)["state"] == "running")
        assert get_job(http, first)["eta_seconds"] is None, "no job of this shape has run yet"
        assert finish(http, first)["eta_seconds"] is None
    with server(state, "--step-delay", "0.3") as again, again.http(Authorization=f"Bearer {running.key}") as http:
        busy, queued, other = submit(http, **shape), submit(http, **shape), submit(http)
        until(lambda: get_job(http, busy)["state"] == "running")
        left, after = get_job(http, busy)["eta_seconds"], get_job(http, queued)["eta_seconds"]
        assert 1 <= left < 20
        assert left < after < 60
        assert get_job(http, other)["eta_seconds"] is None, "no job of this size has run"
        for job_id in (busy, queued, other):
            finish(http, job_id)
