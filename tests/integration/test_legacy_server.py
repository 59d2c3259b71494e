"""FaultServer in the mode legacy, compared with observations of the first servers."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from http_to import NO_TLS, finish, http_to, status, submit
from umrgen import Client
from umrgen.testing import FakeClock, FaultServer

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def legacy(clock: FakeClock) -> Iterator[FaultServer]:
    """A server in simulated time, whose jobs take ten seconds."""
    with FaultServer("legacy", job_seconds=10, clock=clock.monotonic) as running:
        yield running


def test_a_completed_job_has_its_image_url_after_a_minute(legacy: FaultServer, clock: FakeClock) -> None:
    with http_to(legacy) as http:
        job_id = submit(http)
        clock.advance(10)
        body = status(http, job_id).json()
        assert body["state"] == "completed"
        assert "image_url" not in body
        url = body["results"]["images"][0]["url"]
        clock.advance(59.9)
        assert "image_url" not in status(http, job_id).json()
        clock.advance(0.1)
        body = status(http, job_id).json()
        assert body["image_url"] == url
        assert not {"results", "created_at", "eta_seconds", "queue_position"} & set(body)
        assert url.startswith("/outputs/sid_ext_gen/umrgen_")


def test_a_failed_job_is_unknown_after_a_minute(clock: FakeClock) -> None:
    with FaultServer("legacy", job_seconds=0, fail="boom", clock=clock.monotonic) as server, http_to(server) as http:
        job_id = submit(http)
        assert status(http, job_id).json()["state"] == "failed"
        clock.advance(60)
        gone = status(http, job_id)
        assert (gone.status_code, gone.json()) == (404, {"error": "Job not found"})


def test_a_restart_loses_the_jobs(legacy: FaultServer) -> None:
    with http_to(legacy) as http:
        job_id = submit(http)
        legacy.restart()
        assert status(http, job_id).status_code == 404
        assert legacy.jobs[0].forgotten
        submit(http)  # no job is active any longer


def test_error_responses_have_one_member(legacy: FaultServer) -> None:
    response = httpx2.get(f"{legacy.url}/api/v1/status/x", headers={"Authorization": "Bearer wrong"}, verify=NO_TLS)
    assert response.status_code == 401
    assert list(response.json()) == ["error"]
    assert response.json()["error"].startswith("Unauthorized: ")
    with http_to(legacy) as http:
        for body in (b"{no json", b'{"prompt": 5}', b'{"prompt": ["x"]}'):
            response = http.post("/api/v1/generate", content=body)
            assert response.status_code == 500
            assert list(response.json()) == ["error"]
        assert http.post("/api/v1/generate", json={}).status_code == 400


def test_the_rate_limit_of_an_address(legacy: FaultServer, clock: FakeClock) -> None:
    with http_to(legacy) as http, httpx2.Client(base_url=legacy.url, verify=NO_TLS) as other:
        for number in range(60):
            response = (http if number % 2 else other).get("/api/v1/status/x")
            assert response.status_code in (401, 404)
        refused = http.get("/api/v1/status/x")
        assert refused.status_code == 429
        assert "retry-after" not in refused.headers
        assert other.get("/api/anything").status_code == 429
        assert http.get("/outputs/a/b.png").status_code == 403  # not part of /api
        clock.advance(59)
        assert http.get("/api/v1/status/x").status_code == 429
        clock.advance(1)
        assert http.get("/api/v1/status/x").status_code == 404


def test_one_job_at_a_time(legacy: FaultServer, clock: FakeClock) -> None:
    with http_to(legacy) as http:
        job_id = submit(http)
        refused = http.post("/api/v1/generate", json={"prompt": "x"})
        assert refused.status_code == 429
        assert refused.json() == {"error": "CONCURRENT_LIMIT", "job_id": job_id}
        clock.advance(10)
        submit(http)


def test_position_estimate_and_time(clock: FakeClock) -> None:
    options: dict[str, Any] = {"job_seconds": 10, "concurrency": None, "clock": clock.monotonic}
    with FaultServer("legacy", **options) as server, http_to(server) as http:
        jobs = [submit(http) for _ in range(3)]
        assert status(http, jobs[0]).json()["eta_seconds"] is None  # no job has ended yet
        clock.advance(10)
        running, queued = (status(http, job_id).json() for job_id in jobs[1:])
        assert (running["queue_position"], running["eta_seconds"]) == (0, 10)
        assert (queued["queue_position"], queued["eta_seconds"]) == (1, 20)
        assert abs(queued["created_at"] / 1000 - time.time()) < 30
        clock.advance(5)
        assert status(http, jobs[1]).json()["eta_seconds"] == 10  # it does not count down


def test_newer_calls_are_unknown(legacy: FaultServer) -> None:
    with http_to(legacy) as http:
        job_id = submit(http)
        response = status(http, job_id, Prefer="wait=25")
        assert not {"preference-applied", "retry-after", "etag"} & set(response.headers)
        same = [http.post("/api/v1/generate", json={"prompt": "x"}, headers={"Idempotency-Key": "k"}) for _ in "ab"]
        assert [response.status_code for response in same] == [429, 429]
        for method, path in [
            ("POST", "/api/v1/status"),
            ("POST", f"/api/v1/cancel/{job_id}"),
            ("GET", "/api/v1/jobs"),
            ("GET", "/api/v1/capabilities"),
            ("GET", "/healthz"),
        ]:
            response = http.request(method, path)
            assert response.status_code == 404
            assert f"Cannot {method} {path}" in response.text
            assert response.headers["content-type"].startswith("text/html")


def test_a_submit_accepted_with_200() -> None:
    with FaultServer("legacy", submit_status=200) as server, http_to(server) as http:
        response = http.post("/api/v1/generate", json={"prompt": "x"})
        assert response.status_code == 200
        assert response.json() == {"success": True, "job_id": server.jobs[0].id}


def test_outputs() -> None:
    with FaultServer("legacy", job_seconds=0) as server, http_to(server) as http:
        url = finish(server, http).urls[0]
        bare = url.partition("?")[0]
        refusals = {
            bare: 403,
            f"{bare}?session_id=wrong": 403,
            "/outputs/wrong/a.png?session_id=wrong": 403,
            "/outputs/sid_ext_gen/.hidden?session_id=sid_ext_gen": 400,
            "/outputs/sid_ext_gen/a%2F..%2Fb.png?session_id=sid_ext_gen": 400,
            "/outputs/sid_ext_gen/gone.png?session_id=sid_ext_gen": 404,
        }
        for path, code in refusals.items():
            response = http.get(path)
            assert (response.status_code, response.content) == (code, b""), path
        whole = httpx2.get(server.url + url)  # without any key
        assert whole.headers["etag"].startswith('W/"')
        assert whole.headers["accept-ranges"] == "bytes"
        assert "repr-digest" not in whole.headers
        part = http.get(url, headers={"Range": "bytes=10-"})
        assert (part.status_code, part.content) == (206, whole.content[10:])
        assert part.headers["content-range"] == f"bytes 10-{len(whole.content) - 1}/{len(whole.content)}"
        assert http.get(url, headers={"Range": "bytes=1-3"}).content == whole.content[1:4]
        assert http.get(url, headers={"Range": "bytes=-3"}).content == whole.content[-3:]
        assert http.get(url, headers={"Range": "bytes=99999-"}).status_code == 416
        assert http.get(url, headers={"Range": "lines=1-2"}).status_code == 200


def test_a_job_of_15_minutes_in_simulated_time(tmp_path: Path, clock: FakeClock) -> None:
    with (
        FaultServer("legacy", job_seconds=900, clock=clock.monotonic) as server,
        Client(server.url, server.key, clock=clock, timeout=7200) as client,
    ):
        client.generate("a lighthouse", to=tmp_path / "a.png")
        moments = [request.at for request in server.requests]
    assert moments[-1] > 900
    assert min(b - a for a, b in itertools.pairwise(moments[1:-1])) > 1.5
