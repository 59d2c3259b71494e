"""FaultServer in the mode legacy, compared with observations of the first servers."""

import itertools
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


def test_a_completed_job_without_images(clock: FakeClock) -> None:
    options: dict[str, Any] = {"job_seconds": 0, "images": 0, "clock": clock.monotonic}
    with FaultServer("legacy", **options) as server, http_to(server) as http:
        job_id = submit(http)
        body = status(http, job_id).json()
        assert (body["state"], body["results"]) == ("completed", {"images": []})
        clock.advance(60)
        assert status(http, job_id).json()["image_url"] == ""


def test_one_of_two_images_is_told_of_after_a_minute(clock: FakeClock) -> None:
    options: dict[str, Any] = {"job_seconds": 0, "images": 2, "clock": clock.monotonic}
    with FaultServer("legacy", **options) as server, http_to(server) as http:
        job_id = submit(http)
        urls = [image["url"] for image in status(http, job_id).json()["results"]["images"]]
        assert len(urls) == 2
        clock.advance(60)
        body = status(http, job_id).json()
        assert body["image_url"] == urls[0]
        assert urls[1] not in str(body)


def test_a_long_error_is_cut(clock: FakeClock) -> None:
    options: dict[str, Any] = {"job_seconds": 0, "fail": "x" * 1000, "clock": clock.monotonic}
    with FaultServer("legacy", **options) as server, http_to(server) as http:
        assert len(status(http, submit(http)).json()["error"]) == 300


def test_a_job_cancelled_on_the_page_completes(legacy: FaultServer, clock: FakeClock) -> None:
    with http_to(legacy) as http:
        job_id = submit(http)
        assert httpx2.post(f"{legacy.url}/api/cancel/{job_id}").status_code == 200  # without any key
        assert status(http, job_id).json()["state"] == "cancelled"
        clock.advance(10)
        assert status(http, job_id).json()["state"] == "completed"
        assert http.post("/api/cancel/ext_other").status_code == 404


def test_json_has_weak_tags(legacy: FaultServer, clock: FakeClock) -> None:
    with http_to(legacy) as http:
        job_id = submit(http)
        first = status(http, job_id)
        tag = first.headers["etag"]
        assert tag.startswith('W/"')
        same = status(http, job_id, **{"If-None-Match": tag})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        clock.advance(10)
        changed = status(http, job_id, **{"If-None-Match": tag})
        assert changed.status_code == 200
        assert changed.headers["etag"] != tag
        missing = status(http, "x")
        assert missing.headers["etag"].startswith('W/"')
        assert status(http, "x", **{"If-None-Match": missing.headers["etag"]}).status_code == 404


def upload(http: httpx2.Client, name: str) -> httpx2.Response:
    return http.post("/api/v1/upload-reference", files={"file": (name, b"no image", "image/png")})


def test_uploads_are_judged_by_the_extension(legacy: FaultServer) -> None:
    with http_to(legacy) as http:
        for name in ("a.png", "a.jpg", "a.jpeg", "a.WEBP"):
            response = upload(http, name)
            assert response.status_code == 200
            assert set(response.json()) == {"success", "filename", "url"}
        for name in ("a", "a.gif", "png"):
            response = upload(http, name)
            assert (response.status_code, response.json()) == (400, {"error": "Invalid file type."})


def test_the_newer_version_has_no_uploads_and_no_history() -> None:
    with FaultServer("legacy", newer_version=True, job_seconds=0) as server, http_to(server) as http:
        finish(server, http)
        for response in (upload(http, "a.png"), http.get("/api/history?session_id=sid_ext_gen")):
            assert response.status_code == 404
            assert "<pre>Cannot " in response.text
        assert http.get("/api/status?session_id=sid_ext_gen").json() == {"active_job_id": None}


def test_the_calls_of_the_page(legacy: FaultServer, clock: FakeClock) -> None:
    with http_to(legacy) as http, httpx2.Client(base_url=legacy.url, verify=NO_TLS) as page:
        job_id = submit(http, width=100, height=9999, steps=99)
        assert page.get("/api/status?session_id=sid_ext_gen").json() == {"active_job_id": job_id}
        assert page.get("/api/status?session_id=other").json() == {"active_job_id": None}
        assert page.get("/api/history?session_id=sid_ext_gen").json() == []
        clock.advance(10)
        assert page.get("/api/status?session_id=sid_ext_gen").json() == {"active_job_id": None}
        (listed,) = page.get("/api/history?session_id=sid_ext_gen").json()
        assert listed == {
            "job_id": job_id,
            "prompt": "a lighthouse",
            "width": 512,
            "height": 2048,
            "steps": 50,
            "imageUrl": legacy.jobs[0].urls[0],
        }
        assert page.get("/api/history?session_id=other").json() == []
        assert http.get(listed["imageUrl"]).content[16:24] == (512).to_bytes(4, "big") + (2048).to_bytes(4, "big")


def test_what_is_ignored(legacy: FaultServer, clock: FakeClock) -> None:
    with http_to(legacy) as http:
        key = {"Idempotency-Key": "one"}
        body = {"prompt": "x", "seed": -1, "webhook_url": "https://example.org/hook"}
        receipts = []
        for _ in "ab":
            response = http.post("/api/v1/generate", json=body, headers=key)
            assert set(response.json()) == {"success", "job_id"}
            receipts.append(response.json()["job_id"])
            clock.advance(10)
        assert len(set(receipts)) == 2
        assert "seed" not in status(http, receipts[0]).json()
        assert legacy.jobs[0].request["seed"] == -1


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
        clock.advance(59)
        for number in range(60):
            response = (http if number % 2 else other).get("/api/v1/status/x")
            assert response.status_code in (401, 404)
        refused = http.get("/api/v1/status/x")
        assert refused.status_code == 429
        assert "retry-after" not in refused.headers
        assert other.get("/api/anything").status_code == 429
        assert http.get("/outputs/a/b.png").status_code == 403  # not part of /api
        clock.advance(0.9)
        assert http.get("/api/v1/status/x").status_code == 429
        clock.advance(0.1)  # the next minute of the clock, one second after the first call
        assert http.get("/api/v1/status/x").status_code == 404


def test_one_job_at_a_time(legacy: FaultServer, clock: FakeClock) -> None:
    with http_to(legacy) as http:
        job_id = submit(http)
        refused = http.post("/api/v1/generate", json={"prompt": "x"})
        assert refused.status_code == 429
        body = refused.json()
        assert (body["error"], body["job_id"]) == ("CONCURRENT_LIMIT", job_id)
        assert set(body) == {"error", "message", "job_id"}
        clock.advance(10)
        submit(http)


def test_position_estimate_and_time(clock: FakeClock) -> None:
    options: dict[str, Any] = {"job_seconds": 10, "concurrency": None, "clock": clock.monotonic}
    with FaultServer("legacy", **options) as server, http_to(server) as http:
        jobs = [submit(http) for _ in range(3)]
        shown = [status(http, job_id).json() for job_id in jobs]
        # Places count from 0, and a job is expected to take 30 s while none has ended.
        assert [body["queue_position"] for body in shown] == [None, 0, 1]
        assert [body["eta_seconds"] for body in shown] == [0, 30, 60]
        clock.advance(10)
        running, queued = (status(http, job_id).json() for job_id in jobs[1:])
        assert (running["queue_position"], running["eta_seconds"]) == (None, 0)
        assert (queued["queue_position"], queued["eta_seconds"]) == (0, 10)
        assert queued["created_at"] == 1_800_000_000_000
        clock.advance(5)
        assert status(http, jobs[2]).json()["eta_seconds"] == 10  # it does not count down


def test_newer_calls_are_unknown(legacy: FaultServer) -> None:
    with http_to(legacy) as http:
        job_id = submit(http)
        response = status(http, job_id, Prefer="wait=25")
        assert not {"preference-applied", "retry-after"} & set(response.headers)
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
