"""The fault-injection server itself: every row of both modes, every kind of fault, and the flow driver."""

import hashlib
import itertools
import json
import math
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from support import until
from umrgen import Client, JobNotFound, OutputMissing, WaitTimeout
from umrgen.client.flow import CallContext, Options, Reply, Step, TransportFailure
from umrgen.client.flows.wait import StatusPoller
from umrgen.image_files import verify
from umrgen.testing import (
    Answer,
    Cut,
    Drip,
    FakeClock,
    Fault,
    FaultServer,
    Own,
    Page,
    Recorded,
    Redirect,
    Reset,
    ServerJob,
    Silence,
    Tamper,
    play,
    png_bytes,
    reply,
)

pytestmark = pytest.mark.timeout(30)
MODES = ["modern", "legacy"]
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Building a true one for each of these clients would take longer than the tests."""


def http_to(server: FaultServer, **headers: str) -> httpx2.Client:
    return httpx2.Client(
        base_url=server.url, headers={"Authorization": f"Bearer {server.key}"} | headers, timeout=10, verify=NO_TLS
    )


def submit(http: httpx2.Client, **fields: Any) -> str:
    answer = http.post("/api/v1/generate", json={"prompt": "a lighthouse"} | fields)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["job_id"]
    return job_id


def status(http: httpx2.Client, job_id: str, **headers: str) -> httpx2.Response:
    return http.get(f"/api/v1/status/{job_id}", headers=headers)


def finish(server: FaultServer, http: httpx2.Client) -> ServerJob:
    """A new job, once it is over."""
    submit(http)
    return until(lambda: server.jobs[-1].state.over and server.jobs[-1])


def raw(server: FaultServer, data: bytes) -> bytes:
    """Everything that comes back for `data`, to the connection's end. Raises ConnectionResetError."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(data)
        got = b""
        while part := sock.recv(65536):
            got += part
        return got


def get(server: FaultServer, path: str, *, close: bool = True) -> bytes:
    ending = "Connection: close\r\n" if close else ""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key}\r\n{ending}\r\n".encode()


@pytest.fixture(params=MODES)
def server(request: pytest.FixtureRequest) -> Iterator[FaultServer]:
    """Either mode, with jobs that are over at once."""
    with FaultServer(request.param, job_seconds=0) as running:
        yield running


@pytest.fixture
def http(server: FaultServer) -> Iterator[httpx2.Client]:
    with http_to(server) as client:
        yield client


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def legacy(clock: FakeClock) -> Iterator[FaultServer]:
    """The old server on a clock that the test moves; its jobs take ten seconds."""
    with FaultServer("legacy", job_seconds=10, clock=clock.monotonic) as running:
        yield running


# --- both modes --------------------------------------------------------------------------------------


def test_a_job_becomes_an_image(server: FaultServer, http: httpx2.Client) -> None:
    job = finish(server, http)
    image = http.get(job.urls[0])
    assert image.status_code == 200
    assert image.headers["content-type"] == "image/png"
    assert verify(image.content).width
    assert job.id.startswith("ext_")


@pytest.mark.parametrize("mode", MODES)
def test_the_client_gets_its_image(mode: Any, tmp_path: Path) -> None:
    picture = png_bytes(5000, seed=3)
    with (
        FaultServer(mode, job_seconds=0, image=picture) as server,
        Client(server.url, server.key, clock=FakeClock()) as client,
    ):
        saved = client.generate("a lighthouse", to=tmp_path / "a.png")
    assert saved.path.read_bytes() == picture


def test_requests_are_recorded_as_they_came(server: FaultServer) -> None:
    before = time.monotonic()
    raw(
        server,
        b"PUT /x/%7e?q=1&q=%2F HTTP/1.1\r\nHost: x\r\nX-One: a\r\nContent-Length: 3\r\n\r\nabc" + get(server, "/y"),
    )
    first, second = server.requests
    assert (first.method, first.path, first.body, first.connection) == ("PUT", "/x/%7e?q=1&q=%2F", b"abc", 1)
    assert first.headers["x-one"] == "a"
    assert first.query == {"q": ["1", "/"]}
    assert first.route == "/x/%7e"
    assert before <= first.at <= second.at <= time.monotonic()


def test_connections_are_kept_and_counted(server: FaultServer) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=5)
    for _ in range(3):
        connection.request("GET", "/nothing")
        connection.getresponse().read()
    assert (server.connections, server.open_connections) == (1, 1)
    assert [request.connection for request in server.requests] == [1, 1, 1]
    connection.close()
    until(lambda: server.open_connections == 0)


def test_a_chunked_body_is_put_together(server: FaultServer, http: httpx2.Client) -> None:
    answer = http.post("/api/v1/generate", content=iter([b'{"prompt":', b' "x"}']))
    assert answer.status_code == 202
    assert server.requests[0].json() == {"prompt": "x"}


def test_what_is_no_http_is_refused(server: FaultServer) -> None:
    assert raw(server, b"hello\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(server, b"GET / HTTP/1.1\r\nno header\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_head_request_gets_no_body(server: FaultServer, http: httpx2.Client) -> None:
    job = finish(server, http)
    answer = http.head(job.urls[0])
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 100


@pytest.mark.parametrize("mode", MODES)
def test_the_interstitial_stands_before_everything(mode: Any) -> None:
    with FaultServer(mode, interstitial=True) as server, http_to(server) as http:
        page = http.get("/api/v1/status/x")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert http.get("/api/v1/status/x", headers={"skip_zrok_interstitial": "1"}).status_code == 404


@pytest.mark.parametrize("mode", MODES)
def test_a_prefix_is_part_of_the_base_url_only(mode: Any, tmp_path: Path) -> None:
    with (
        FaultServer(mode, job_seconds=0, prefix="/some/where") as server,
        Client(server.url, server.key, clock=FakeClock()) as client,
    ):
        assert server.url.endswith("/some/where")
        client.generate("a lighthouse", to=tmp_path / "a.png")
        assert server.jobs[0].urls[0].startswith("/outputs/")
        assert all(request.path.startswith("/some/where/") for request in server.requests)
        assert httpx2.get(f"http://127.0.0.1:{server.port}/healthz", verify=NO_TLS).status_code == 404


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("odd", ["/outputs/a%2Fb/c d.png?x=%7e", "/elsewhere/é.png", "/outputs/../../x.png"])
def test_an_odd_address_is_served_as_it_is(mode: Any, odd: str, tmp_path: Path) -> None:
    with (
        FaultServer(mode, job_seconds=0, image_url=odd) as server,
        Client(server.url, server.key, clock=FakeClock()) as client,
    ):
        client.generate("a lighthouse", to=tmp_path / "a.png")
        assert server.jobs[0].urls == (odd,)


def test_an_address_can_be_made_from_the_true_one() -> None:
    with (
        FaultServer(job_seconds=0, image_url=lambda path: f"http://other.example{path}") as server,
        http_to(server) as http,
    ):
        assert finish(server, http).urls[0].startswith("http://other.example/outputs/")


@pytest.mark.parametrize("mode", MODES)
def test_jobs_fail_as_they_are_told(mode: Any) -> None:
    for fail in ("out_of_memory", {1: "out_of_memory"}, lambda job: job.index == 1 and "out_of_memory"):
        with FaultServer(mode, job_seconds=0, fail=fail) as server, http_to(server) as http:
            jobs = [finish(server, http) for _ in range(2)]
            assert (jobs[1].state, jobs[1].error_code) == ("failed", "out_of_memory")
            assert jobs[0].state == ("failed" if fail == "out_of_memory" else "completed")
            assert status(http, jobs[1].id).json()["error"]


@pytest.mark.parametrize("mode", MODES)
def test_a_job_can_run_for_ever(mode: Any, clock: FakeClock) -> None:
    with FaultServer(mode, job_seconds=math.inf, clock=clock.monotonic) as server, http_to(server) as http:
        job_id = submit(http)
        clock.advance(1e6)
        assert status(http, job_id).json()["state"] == "running"


@pytest.mark.parametrize("mode", MODES)
def test_times_can_depend_on_the_job_and_jobs_run_one_by_one(mode: Any, clock: FakeClock) -> None:
    options: dict[str, Any] = {
        "job_seconds": lambda index: [5, 7][index],
        "concurrency": None,
        "clock": clock.monotonic,
    }
    with FaultServer(mode, **options) as server, http_to(server) as http:
        first, second = submit(http), submit(http)
        assert status(http, first).json()["state"] == "running"
        assert status(http, second).json()["queue_position"] == 1
        clock.advance(6)
        assert [job.state for job in server.jobs] == ["completed", "running"]
        clock.advance(6)
        assert [(job.started, job.ended) for job in server.jobs] == [(0, 5), (5, 12)]


@pytest.mark.parametrize("mode", MODES)
def test_all_jobs_can_run_at_once(mode: Any, clock: FakeClock) -> None:
    options: dict[str, Any] = {"job_seconds": 5, "workers": None, "concurrency": None, "clock": clock.monotonic}
    with FaultServer(mode, **options) as server, http_to(server) as http:
        for _ in range(3):
            submit(http)
        clock.advance(5)
        assert {job.ended for job in server.jobs} == {5}


@pytest.mark.parametrize("mode", MODES)
def test_batches_and_empty_results(mode: Any) -> None:
    for count in (0, 3):
        with FaultServer(mode, job_seconds=0, images=count) as server, http_to(server) as http:
            told = status(http, finish(server, http).id).json()
            assert len(told["results"]["images"]) == count
            contents = {http.get(image["url"]).content for image in told["results"]["images"]}
            assert len(contents) == count


def test_importing_it_needs_the_standard_library_only() -> None:
    code = "import sys, umrgen.testing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    foreign = {name.partition(".")[0] for name in loaded} & {"httpx2", "click", "numpy", "PIL", "msgspec", "starlette"}
    assert foreign == set()
    assert not [name for name in loaded if name.startswith("umrgen.server")]


def test_options_are_checked() -> None:
    with pytest.raises(TypeError):
        FaultServer(no_such_option=1)
    with pytest.raises(ValueError, match="no mode"):
        FaultServer("ancient")  # type: ignore[arg-type]


def test_an_exception_in_a_users_function_is_raised_by_stop() -> None:
    def broken(body: bytes) -> bytes:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), FaultServer() as server:
        server.on("/healthz", Tamper(broken))
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"{server.url}/healthz", verify=NO_TLS)


# --- legacy: contract, section 3, row by row ----------------------------------------------------------


def test_legacy_completed_has_its_image_url_only_after_a_while(legacy: FaultServer, clock: FakeClock) -> None:
    with http_to(legacy) as http:
        job_id = submit(http)
        clock.advance(10)
        told = status(http, job_id).json()
        assert told["state"] == "completed"
        assert "image_url" not in told
        url = told["results"]["images"][0]["url"]
        clock.advance(59.9)
        assert "image_url" not in status(http, job_id).json()
        clock.advance(0.1)
        told = status(http, job_id).json()
        assert told["image_url"] == url
        assert not {"results", "created_at", "eta_seconds", "queue_position"} & set(told)
        assert url.startswith("/outputs/sid_ext_gen/umrgen_")


def test_legacy_failed_jobs_vanish(clock: FakeClock) -> None:
    with FaultServer("legacy", job_seconds=0, fail="boom", clock=clock.monotonic) as server, http_to(server) as http:
        job_id = submit(http)
        assert status(http, job_id).json()["state"] == "failed"
        clock.advance(60)
        gone = status(http, job_id)
        assert (gone.status_code, gone.json()) == (404, {"error": "Job not found"})


def test_legacy_forgets_everything_at_a_restart(legacy: FaultServer) -> None:
    with http_to(legacy) as http:
        job_id = submit(http)
        legacy.restart()
        assert status(http, job_id).status_code == 404
        assert legacy.jobs[0].forgotten
        submit(http)  # nothing is in its way any longer


def test_legacy_refusals_have_an_error_and_little_else(legacy: FaultServer) -> None:
    answer = httpx2.get(f"{legacy.url}/api/v1/status/x", headers={"Authorization": "Bearer wrong"}, verify=NO_TLS)
    assert answer.status_code == 401
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"].startswith("Unauthorized: ")
    with http_to(legacy) as http:
        for body in (b"{no json", b'{"prompt": 5}', b'{"prompt": ["x"]}'):
            answer = http.post("/api/v1/generate", content=body)
            assert answer.status_code == 500
            assert list(answer.json()) == ["error"]
        assert http.post("/api/v1/generate", json={}).status_code == 400


def test_legacy_limits_the_rate_of_all_of_api(legacy: FaultServer, clock: FakeClock) -> None:
    with http_to(legacy) as http, httpx2.Client(base_url=legacy.url, verify=NO_TLS) as stranger:
        for number in range(60):
            answer = (http if number % 2 else stranger).get("/api/v1/status/x")
            assert answer.status_code in (401, 404)
        refused = http.get("/api/v1/status/x")
        assert refused.status_code == 429
        assert "retry-after" not in refused.headers
        assert stranger.get("/api/anything").status_code == 429
        assert http.get("/outputs/a/b.png").status_code == 403  # not part of /api
        clock.advance(59)
        assert http.get("/api/v1/status/x").status_code == 429
        clock.advance(1)
        assert http.get("/api/v1/status/x").status_code == 404


def test_legacy_runs_one_job_at_a_time(legacy: FaultServer, clock: FakeClock) -> None:
    with http_to(legacy) as http:
        job_id = submit(http)
        refused = http.post("/api/v1/generate", json={"prompt": "x"})
        assert refused.status_code == 429
        assert refused.json() == {"error": "CONCURRENT_LIMIT", "job_id": job_id}
        clock.advance(10)
        submit(http)


def test_legacy_tells_place_eta_and_time(clock: FakeClock) -> None:
    options: dict[str, Any] = {"job_seconds": 10, "concurrency": None, "clock": clock.monotonic}
    with FaultServer("legacy", **options) as server, http_to(server) as http:
        jobs = [submit(http) for _ in range(3)]
        assert status(http, jobs[0]).json()["eta_seconds"] is None  # nothing to take an average of
        clock.advance(10)
        running, queued = (status(http, job_id).json() for job_id in jobs[1:])
        assert (running["queue_position"], running["eta_seconds"]) == (0, 10)
        assert (queued["queue_position"], queued["eta_seconds"]) == (1, 20)
        assert abs(queued["created_at"] / 1000 - time.time()) < 30
        clock.advance(5)
        assert status(http, jobs[1]).json()["eta_seconds"] == 10  # it does not count down


def test_legacy_knows_nothing_newer(legacy: FaultServer) -> None:
    with http_to(legacy) as http:
        job_id = submit(http)
        answer = status(http, job_id, Prefer="wait=25")
        assert not {"preference-applied", "retry-after", "etag"} & set(answer.headers)
        same = [http.post("/api/v1/generate", json={"prompt": "x"}, headers={"Idempotency-Key": "k"}) for _ in "ab"]
        assert [answer.status_code for answer in same] == [429, 429]
        for method, path in [
            ("POST", "/api/v1/status"),
            ("POST", f"/api/v1/cancel/{job_id}"),
            ("GET", "/api/v1/jobs"),
            ("GET", "/api/v1/capabilities"),
            ("GET", "/healthz"),
        ]:
            answer = http.request(method, path)
            assert answer.status_code == 404
            assert f"Cannot {method} {path}" in answer.text
            assert answer.headers["content-type"].startswith("text/html")


def test_legacy_can_accept_with_200() -> None:
    with FaultServer("legacy", submit_status=200) as server, http_to(server) as http:
        answer = http.post("/api/v1/generate", json={"prompt": "x"})
        assert answer.status_code == 200
        assert answer.json() == {"success": True, "job_id": server.jobs[0].id}


def test_legacy_outputs() -> None:
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
            answer = http.get(path)
            assert (answer.status_code, answer.content) == (code, b""), path
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


def test_legacy_outlasts_the_clients_patience_rules(tmp_path: Path, clock: FakeClock) -> None:
    """A quarter of an hour of the old server in a moment: both sides on one clock."""
    with (
        FaultServer("legacy", job_seconds=900, clock=clock.monotonic) as server,
        Client(server.url, server.key, clock=clock, timeout=7200) as client,
    ):
        client.generate("a lighthouse", to=tmp_path / "a.png")
        moments = [request.at for request in server.requests]
    assert moments[-1] > 900
    assert min(b - a for a, b in itertools.pairwise(moments[1:-1])) > 1.5


# --- modern: contract, section 2 ----------------------------------------------------------------------


@pytest.fixture
def modern() -> Iterator[FaultServer]:
    with FaultServer("modern", job_seconds=0.1) as running:
        yield running


@pytest.fixture
def new(modern: FaultServer) -> Iterator[httpx2.Client]:
    with http_to(modern) as client:
        yield client


def test_modern_receipt(modern: FaultServer, new: httpx2.Client) -> None:
    answer = new.post("/api/v1/generate", json={"prompt": "x", "colour": 1})
    told = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == told["status_url"] == f"/api/v1/status/{told['job_id']}"
    assert answer.headers["retry-after"] == "3"
    assert told["success"] is True
    assert "colour" in told["warnings"][0]


def test_modern_idempotency(modern: FaultServer, new: httpx2.Client) -> None:
    key = {"Idempotency-Key": "k"}
    first = new.post("/api/v1/generate", json={"prompt": "x", "seed": 1}, headers=key)
    modern.restart()
    second = new.post("/api/v1/generate", json={"seed": 1, "prompt": "x"}, headers=key)
    assert first.json() == second.json()
    conflict = new.post("/api/v1/generate", json={"prompt": "y"}, headers=key)
    assert conflict.status_code == 422
    assert conflict.json()["code"] == "idempotency_conflict"
    assert len(modern.jobs) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", None),
        (b"[]", None),
        (b"{}", "prompt"),
        (b'{"prompt": 5}', "prompt"),
        (b'{"prompt": "x", "width": 5}', "width"),
        (b'{"prompt": "x", "steps": true}', "steps"),
    ],
)
def test_modern_refuses_nonsense(new: httpx2.Client, body: bytes, field: str | None) -> None:
    answer = new.post("/api/v1/generate", content=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert (told["success"], told["code"], told.get("field")) == (False, "invalid_request", field)


def test_modern_errors(modern: FaultServer, new: httpx2.Client) -> None:
    assert httpx2.get(f"{modern.url}/api/v1/jobs", verify=NO_TLS).json()["code"] == "unauthorized"
    assert new.get("/api/v1/nothing").json()["code"] == "not_found"
    assert status(new, "ext_nobody").json()["code"] == "job_not_found"
    assert new.get("/api/v1/generate").status_code == 405
    assert new.get("/healthz").json() == {"status": "ok"}
    assert new.get("/readyz").status_code == 200


def test_modern_holds_until_the_job_is_over(modern: FaultServer, new: httpx2.Client) -> None:
    job_id = submit(new)
    answer = status(new, job_id, Prefer="respond-async, wait=5")
    assert answer.headers["preference-applied"] == "wait=5"
    told = answer.json()
    assert told["state"] == "completed"
    assert told["image_url"] == told["results"]["images"][0]["url"]
    assert told["completed_at"] >= told["started_at"] >= told["created_at"]
    assert "retry-after" not in answer.headers


def test_modern_answers_at_once_when_not_asked_to_wait(new: httpx2.Client) -> None:
    answer = status(new, submit(new))
    assert answer.json()["state"] == "running"
    assert answer.headers["retry-after"] == "1"
    assert "preference-applied" not in answer.headers


def test_modern_holds_no_longer_than_asked() -> None:
    with FaultServer(job_seconds=math.inf) as server, http_to(server) as http:
        job_id = submit(http)
        etag = status(http, job_id).headers["etag"]
        answers = [
            http.get(f"/api/v1/status/{job_id}?wait=1"),
            status(http, job_id, Prefer="wait=0", **{"If-None-Match": etag}),
        ]
        assert [answer.status_code for answer in answers] == [200, 304]
        assert answers[0].json()["retry_after_ms"] == 2000
        assert (answers[1].content, answers[1].headers["etag"]) == (b"", etag)


def test_modern_holds_no_longer_than_it_likes() -> None:
    with FaultServer(job_seconds=math.inf, max_wait=0) as server, http_to(server) as http:
        answer = status(http, submit(http), Prefer="wait=25")
        assert answer.headers["preference-applied"] == "wait=0"


def test_modern_holds_until_the_version_differs() -> None:
    with FaultServer(job_seconds=0.2, steps=2) as server, http_to(server) as http:
        job_id = submit(http)
        seen, etag = [], ""
        while not seen or seen[-1][0] == "running":
            answer = status(http, job_id, Prefer="wait=5", **{"If-None-Match": etag or '"none"'})
            etag = answer.headers["etag"]
            seen.append((answer.json()["state"], answer.json()["progress"]["step"]))
        assert seen == [("running", 0), ("running", 1), ("completed", 2)]


def test_modern_batch_of_statuses(modern: FaultServer, new: httpx2.Client) -> None:
    ids = [submit(new), submit(new)]

    def look(since: str | None, **headers: str) -> dict[str, Any]:
        body = {"job_ids": [*ids, "ext_nobody"], "since": since}
        told: dict[str, Any] = new.post("/api/v1/status", json=body, headers=headers).json()
        return told

    told = look(None, Prefer="wait=5")
    assert [(job["job_id"], job["state"]) for job in told["jobs"]] == [(ids[0], "running"), (ids[1], "queued")]
    assert told["unknown"] == ["ext_nobody"]
    assert look(told["cursor"])["jobs"] == []
    changes = []
    while "completed" not in [state for job_id, state in changes if job_id == ids[1]]:
        told = look(told["cursor"], Prefer="wait=5")
        assert told["jobs"]
        changes += [(job["job_id"], job["state"]) for job in told["jobs"]]
    assert changes == [(ids[0], "completed"), (ids[1], "running"), (ids[1], "completed")]


@pytest.mark.parametrize("body", [{}, {"job_ids": "x"}, {"job_ids": ["x"] * 1001}, {"job_ids": [], "since": "soon"}])
def test_modern_batch_refuses_nonsense(new: httpx2.Client, body: dict[str, Any]) -> None:
    assert new.post("/api/v1/status", json=body).json()["code"] == "invalid_request"


def test_modern_cancel_ends_one_job_and_wakes_who_waits() -> None:
    with FaultServer(job_seconds=math.inf) as server, http_to(server) as http:
        first, second = submit(http), submit(http)
        answers: list[httpx2.Response] = []
        waiting = threading.Thread(target=lambda: answers.append(status(http, first, Prefer="wait=9")))
        waiting.start()
        until(lambda: server.open_connections == 2 or len(server.requests) == 3)
        for _ in range(2):
            told = http.post(f"/api/v1/cancel/{first}").json()
            assert (told["state"], told["error_code"]) == ("failed", "cancelled")
        waiting.join(5)
        assert answers[0].json()["state"] == "failed"
        assert [job.state for job in server.jobs] == ["failed", "running"]
        http.post(f"/api/v1/cancel/{second}")
        assert http.post("/api/v1/cancel/ext_nobody").status_code == 404


def test_modern_lists_jobs_newest_first() -> None:
    with FaultServer(job_seconds=math.inf) as server, http_to(server) as http:
        ids = [submit(http) for _ in range(3)]
        page = http.get("/api/v1/jobs?limit=2").json()
        assert [job["job_id"] for job in page["jobs"]] == [ids[2], ids[1]]
        last = http.get("/api/v1/jobs", params={"limit": 2, "cursor": page["next_cursor"]}).json()
        assert [job["job_id"] for job in last["jobs"]] == [ids[0]]
        assert last["next_cursor"] is None
        assert len(http.get("/api/v1/jobs?state=queued").json()["jobs"]) == 2
        for query in ("limit=0", "cursor=x", "state=lost"):
            assert http.get(f"/api/v1/jobs?{query}").status_code == 400


def test_modern_says_what_it_can_do(new: httpx2.Client) -> None:
    told = new.get("/api/v1/capabilities").json()
    assert "GET /api/v1/status/{job_id}" in told["calls"]
    assert told["limits"] == {"concurrency": None, "rate_limit": None}


def test_modern_limits_say_when_to_come_back(clock: FakeClock) -> None:
    options: dict[str, Any] = {"job_seconds": math.inf, "concurrency": 1, "rate_limit": 3, "clock": clock.monotonic}
    with FaultServer(**options) as server, http_to(server) as http:
        job_id = submit(http)
        clock.advance(20)
        refused = http.post("/api/v1/generate", json={"prompt": "x"})
        assert (refused.status_code, refused.json()["code"]) == (429, "concurrent_limit")
        assert refused.json()["job_id"] == job_id
        assert "retry-after" in refused.headers
        http.get("/api/v1/jobs")
        refused = http.get("/api/v1/jobs")
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert refused.headers["retry-after"] == "40"


def test_modern_jobs_outlive_a_restart(modern: FaultServer, new: httpx2.Client) -> None:
    job_id = submit(new)
    modern.restart()
    assert status(new, job_id, Prefer="wait=5").json()["state"] == "completed"


def test_modern_outputs() -> None:
    with FaultServer(job_seconds=0) as server, http_to(server) as http:
        url = finish(server, http).urls[0]
        bare = url.partition("?")[0]
        assert http.get(bare).json()["code"] == "forbidden_output"
        assert http.get(f"{bare}?session_id=wrong").status_code == 403
        missing = url.replace("umrgen_", "umrgen_0")
        assert http.get(missing).json()["code"] == "output_not_found"
        whole = httpx2.get(server.url + url)  # without any key
        etag, digest = whole.headers["etag"], whole.headers["repr-digest"]
        assert etag.startswith('"')
        assert digest == f"sha-256=:{b64encode(hashlib.sha256(whole.content).digest()).decode()}:"
        assert whole.headers["content-digest"] == digest
        part = http.get(url, headers={"Range": "bytes=10-", "If-Range": etag})
        assert (part.status_code, part.content) == (206, whole.content[10:])
        assert part.headers["repr-digest"] == digest != part.headers["content-digest"]
        assert http.get(url, headers={"Range": "bytes=10-", "If-Range": '"other"'}).status_code == 200
        assert http.get(url, headers={"If-None-Match": etag}).status_code == 304
        beyond = http.get(url, headers={"Range": "bytes=99999-"})
        assert beyond.status_code == 416
        assert beyond.headers["content-range"] == f"bytes */{len(whole.content)}"


@pytest.mark.parametrize(("head", "kind"), [(b"\xff\xd8\xff\xe0", "image/jpeg"), (b"RIFF\0\0\0\0WEBP", "image/webp")])
def test_images_go_by_their_content(head: bytes, kind: str) -> None:
    with FaultServer(job_seconds=0, image=lambda job, number: head) as server, http_to(server) as http:
        assert http.get(finish(server, http).urls[0]).headers["content-type"] == kind


# --- faults ------------------------------------------------------------------------------------------


@pytest.fixture(params=["call", "output"])
def target(request: pytest.FixtureRequest, server: FaultServer, http: httpx2.Client) -> str:
    """A path whose true answer has a body: an API call's, or an image's."""
    job = finish(server, http)
    path: str = f"/api/v1/status/{job.id}" if request.param == "call" else job.urls[0]
    return path


def truth(server: FaultServer, target: str) -> bytes:
    return raw(server, get(server, target)).partition(b"\r\n\r\n")[2]


def script(server: FaultServer, target: str, *faults: Fault) -> None:
    server.on(f"GET {urlsplit(target).path}", *faults)


def test_answer(server: FaultServer, http: httpx2.Client, target: str) -> None:
    script(server, target, Answer(503, {"a": 1}, {"Retry-After": "7"}), Answer(418, "tea"), Answer(599, b"\0"))
    first, second, third = (http.get(target) for _ in range(3))
    assert (first.status_code, first.json(), first.headers["retry-after"]) == (503, {"a": 1}, "7")
    assert (second.status_code, second.text) == (418, "tea")
    assert (third.status_code, third.content) == (599, b"\0")
    assert http.get(target).status_code == 200
    assert server.connections == 1


def test_a_late_answer(server: FaultServer, http: httpx2.Client, target: str) -> None:
    script(server, target, Answer(200, "late", delay=60))
    with pytest.raises(httpx2.ReadTimeout):
        http.get(target, timeout=0.05)
    script(server, target, Answer(200, "late", delay=0.1))
    assert http.get(target).text == "late"


def test_an_answer_may_announce_another_length(server: FaultServer, http: httpx2.Client, target: str) -> None:
    script(server, target, Answer(200, b"abc", {"Content-Length": "9"}))
    with pytest.raises(httpx2.RemoteProtocolError):
        http.get(target)


def test_reset_in_the_headers(server: FaultServer, target: str) -> None:
    script(server, target, Reset())
    with pytest.raises(ConnectionResetError):
        raw(server, get(server, target))


def test_reset_in_the_body(server: FaultServer, target: str) -> None:
    true = len(truth(server, target))
    script(server, target, Reset(after_headers=True, share=0.25))
    got = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(get(server, target))
        with pytest.raises(ConnectionResetError):
            while part := sock.recv(65536):
                got += part
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % true in head
    assert len(body) == true // 4


def test_reset_of_a_large_body_leaves_its_share(tmp_path: Path) -> None:
    image = png_bytes(3_000_000)
    with FaultServer(job_seconds=0, image=image) as server, http_to(server) as http:
        url = finish(server, http).urls[0]
        script(server, url, Reset(after_headers=True, share=0.5))
        got = 0
        with pytest.raises(httpx2.ReadError), http.stream("GET", url) as answer:
            for chunk in answer.iter_raw():
                got += len(chunk)
        assert got == len(image) // 2


@pytest.mark.parametrize(("fault", "made"), [(Reset(), 1), (Reset(handled=False), 0)])
def test_a_reset_says_whether_the_request_took_effect(server: FaultServer, fault: Fault, made: int) -> None:
    server.on("POST /api/v1/generate", fault)
    with http_to(server) as http, pytest.raises(httpx2.TransportError):
        submit(http)
    assert len(server.jobs) == made


def test_drip(server: FaultServer, target: str) -> None:
    true = truth(server, target)
    script(server, target, Drip(bytes_per_chunk=50, interval=0.002), Drip(200, 0.001, headers=True))
    for _ in range(2):
        assert truth(server, target) == true
    script(server, target, Drip(bytes_per_chunk=50, interval=60))
    with http_to(server) as http, pytest.raises(httpx2.ReadTimeout):
        http.get(target, timeout=0.05)


def test_silence(server: FaultServer, http: httpx2.Client, target: str) -> None:
    script(server, target, Silence())
    with pytest.raises(httpx2.ReadTimeout):
        http.get(target, timeout=0.05)
    until(lambda: server.open_connections <= 1)
    script(server, target, Silence(0.05))
    assert http.get(target).status_code == 200


def test_silence_may_hide_a_job_that_was_made(server: FaultServer) -> None:
    server.on("POST /api/v1/generate", Silence(handled=True), Silence(5))
    for made in (1, 1):
        with http_to(server) as http, pytest.raises(httpx2.ReadTimeout):
            http.post("/api/v1/generate", json={"prompt": "x"}, timeout=0.05)
        until(lambda: server.open_connections == 0)
        assert len(server.jobs) == made


def test_stop_does_not_wait_for_silence() -> None:
    server = FaultServer().start()
    server.on("/healthz", Silence())
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(get(server, "/healthz"))
        until(lambda: server.requests)
        server.stop()  # the silence has no end: waiting for it would run into the test's time limit
        assert sock.recv(10) == b""
    server.stop()  # once more does nothing


def test_cut(server: FaultServer, target: str) -> None:
    true = truth(server, target)
    script(server, target, Cut(share=0.5))
    head, _, body = raw(server, get(server, target, close=False)).partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(true) in head
    assert body == true[: len(true) // 2]


def test_tamper(server: FaultServer, http: httpx2.Client, target: str) -> None:
    true = http.get(target)
    script(
        server,
        target,
        Tamper(lambda body: body[:-1] + bytes([body[-1] ^ 1])),
        Tamper(lambda body: b"<html>", status=202),
        Tamper(headers={"repr-digest": "sha-256=:AAAA:", "CONTENT-TYPE": None}),
    )
    flipped, page, lie = (http.get(target) for _ in range(3))
    assert len(flipped.content) == len(true.content)
    assert flipped.content != true.content
    assert (page.status_code, page.text) == (202, "<html>")
    assert lie.content == true.content
    assert lie.headers["repr-digest"] == "sha-256=:AAAA:"
    assert "content-type" not in lie.headers


def test_tamper_may_send_more_than_announced(server: FaultServer, target: str) -> None:
    true = truth(server, target)
    script(server, target, Tamper(lambda body: body + b"more", keep_length=True))
    head, _, body = raw(server, get(server, target, close=False)).partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(true) in head
    assert body == true + b"more"


def test_redirect_and_page(server: FaultServer, http: httpx2.Client, target: str) -> None:
    script(server, target, Redirect("http://elsewhere.example/x"), Redirect("/y", 307), Page())
    answers = [http.get(target) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [302, 307, 200]
    assert [answer.headers.get("location") for answer in answers] == ["http://elsewhere.example/x", "/y", None]
    assert answers[2].text.startswith("<!DOCTYPE html>")


def test_a_script_is_played_in_order_as_often_as_told(server: FaultServer, http: httpx2.Client) -> None:
    twice = server.on("GET /api/v1/status/*", Own(), Answer(500), times=2)
    always = server.on("* /api/v1/sta*", Answer(501), times=None)
    codes = [http.get("/api/v1/status/x?a=1").status_code for _ in range(6)]
    assert codes == [404, 500, 404, 500, 501, 501]
    assert twice.over
    assert not always.over
    assert len(twice.played) == 4
    always.stop()
    assert http.get("/api/v1/status/x").status_code == 404


def test_a_script_may_match_the_query_and_any_method(server: FaultServer, http: httpx2.Client) -> None:
    server.on("/x?[?]a=1", Answer(201), times=None)
    assert http.get("/x1?a=1").status_code == 201
    assert http.put("/x1?a=1").status_code == 201
    assert http.put("/x1?a=2").status_code in (404, 405)


def test_restart_breaks_connections_off(server: FaultServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(get(server, "/x", close=False))
        assert sock.recv(65536)
        server.restart()
        assert sock.recv(10) == b""
    assert raw(server, get(server, "/x"))


def test_refusing_connections_and_coming_back(server: FaultServer, http: httpx2.Client) -> None:
    assert http.get("/x").status_code == 404
    port = server.port
    with server.refuse():
        for _ in range(3):
            with pytest.raises(httpx2.ConnectError):
                http.get("/x")
    assert server.port == port
    assert http.get("/x").status_code == 404
    server.refuse(drop=False)
    assert http.get("/x").status_code == 404  # over the connection that is still open
    with pytest.raises(ConnectionRefusedError):
        raw(server, get(server, "/x"))
    server.accept()
    assert raw(server, get(server, "/x"))


def test_refusing_for_a_while(server: FaultServer) -> None:
    server.refuse(0.1)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{server.url}/x", verify=NO_TLS)
    assert until(lambda: httpx2.get(f"{server.url}/x", verify=NO_TLS)).status_code == 404


def test_stopping_while_refusing(server: FaultServer) -> None:
    server.refuse(60)


def test_many_are_held_at_once_and_a_poke_moves_them(clock: FakeClock) -> None:
    options: dict[str, Any] = {"job_seconds": 1000, "clock": clock.monotonic}
    with FaultServer(**options) as server, http_to(server) as http:
        job_id = submit(http)
        calls = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(50)]
        for call in calls:
            call.sendall(get(server, f"/api/v1/status/{job_id}?wait=60"))
        until(lambda: len(server.requests) == 51)
        clock.advance(1000)
        server.poke()
        for call in calls:
            with call, call.makefile("rb") as answer:
                assert b'"completed"' in answer.read()


def test_a_servers_own_fault_can_be_written(server: FaultServer, http: httpx2.Client) -> None:
    class Twice:
        """Two bodies where one was announced."""

        async def play(self, exchange: Any) -> None:
            response = await exchange.own()
            await exchange.write(exchange.head(response) + 2 * exchange.body(response))
            exchange.close()

    job = finish(server, http)
    true = truth(server, job.urls[0])
    server.on("/outputs/*", Twice())
    assert truth(server, job.urls[0]) == 2 * true


# --- pictures, the clock, and flows without HTTP ------------------------------------------------------


@pytest.mark.parametrize("size", [0, 100, 1000, 100_000, 1_000_000])
def test_pngs_are_valid_and_about_as_large_as_told(size: int) -> None:
    data = png_bytes(size, seed=7)
    facts = verify(data)
    assert facts.width
    assert facts.height
    assert abs(len(data) - size) < max(100, 0.1 * size)
    assert data == png_bytes(size, seed=7) != png_bytes(size, seed=8)
    if size >= 1000:
        assert len(zlib.compress(data)) > 0.9 * len(data)


async def test_the_fake_clock_never_waits() -> None:
    clock = FakeClock(start=5, wall=1000)
    await clock.sleep(3600)
    assert (clock.monotonic(), clock.now(), clock.sleeps) == (3605, 4_600_000, [3600])
    clock.jump_wall(-100)
    assert (clock.monotonic(), clock.now()) == (3605, 4_500_000)


def watching(start: float = 0.0, **options: Any) -> StatusPoller:
    return StatusPoller(CallContext(Options(**options), start, random=lambda: 0.5), "ext_1")


def test_play_tells_the_result_and_when_each_step_was_sent() -> None:
    outcome, sent = play(
        watching(10).result(),
        [
            reply({"state": "queued"}, elapsed=1),
            TransportFailure("gone", at=2, sent=True),
            lambda step: reply({"state": "completed", "image_url": f"/{step.method}"}),
        ],
        start=10,
    )
    assert not isinstance(outcome, Exception)
    assert outcome.image_url == "/GET"
    assert [moment for moment, _ in sent] == [10, 14, pytest.approx(16.525)]
    assert all(step.path == "/api/v1/status/ext_1" for _, step in sent)


def test_play_tells_the_error() -> None:
    outcome, sent = play(watching().result(), [reply({"error": "Job not found"}, 404)])
    assert isinstance(outcome, JobNotFound)
    assert len(sent) == 1
    outcome, sent = play(watching().result(), [reply({"state": "completed"})] * 2)
    assert isinstance(outcome, OutputMissing)


def test_play_keeps_the_steps_timeouts() -> None:
    def endless() -> Iterator[Reply]:
        while True:
            yield reply({"state": "running"}, elapsed=1000)

    outcome, sent = play(watching(timeout=100, wait=0).result(), endless())
    assert isinstance(outcome, WaitTimeout)
    assert [step.timeout for _, step in sent][:2] == [30, 30]


def test_play_fails_when_the_answers_run_out() -> None:
    with pytest.raises(AssertionError, match="no answer for step 2: GET /api"):
        play(watching().result(), [reply({"state": "running"})])


def test_replies_are_made_of_anything() -> None:
    assert reply({"a": 1}, 201, {"X-Y": "z"}).json() == {"a": 1}
    assert reply("text").body == b"text"
    assert reply(b"\0", headers={"Retry-After": "1"}).headers == {"retry-after": "1"}
    assert json.loads(reply({"ä": 1}).body) == {"ä": 1}


def test_recorded_requests_can_be_made_by_hand() -> None:
    step = Step("GET", "/x", {}, None, 0, 1)
    assert Recorded(step.method, step.path, {}, b"", 0.0, 1).without("/y") is None
