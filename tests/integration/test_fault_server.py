"""FaultServer: both modes, the server of this package behind it, and each kind of fault."""

import json
import math
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from http_to import NO_TLS, exchange_bytes, finish, get, http_to, status, submit
from support import until
from umrgen import Client
from umrgen.image_files import verify
from umrgen.server.services.api_keys import UnusableKey
from umrgen.testing import (
    Delay,
    Drip,
    FakeClock,
    Fault,
    FaultServer,
    HtmlPage,
    NoResponse,
    PassThrough,
    Redirect,
    Reset,
    Respond,
    Tamper,
    Truncate,
    png_bytes,
)

pytestmark = pytest.mark.timeout(30)
MODES = ["modern", "legacy"]


@pytest.fixture(params=MODES)
def server(request: pytest.FixtureRequest) -> Iterator[FaultServer]:
    """A server of either mode, whose jobs take no time."""
    with FaultServer(request.param, job_seconds=0) as running:
        yield running


@pytest.fixture
def http(server: FaultServer) -> Iterator[httpx2.Client]:
    with http_to(server) as client:
        yield client


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


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
    image_data = png_bytes(5000, seed=3)
    with (
        FaultServer(mode, job_seconds=0, image=image_data) as server,
        Client(server.url, server.key, clock=FakeClock()) as client,
    ):
        saved = client.generate("a lighthouse", to=tmp_path / "a.png")
    assert saved.path.read_bytes() == image_data


def test_requests_are_recorded_as_they_were_sent(server: FaultServer) -> None:
    before = time.monotonic()
    exchange_bytes(
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


def test_a_chunked_body_is_decoded(server: FaultServer, http: httpx2.Client) -> None:
    response = http.post("/api/v1/generate", content=iter([b'{"prompt":', b' "x"}']))
    assert response.status_code == 202
    assert server.requests[0].json() == {"prompt": "x"}


def test_other_bytes_than_http_get_a_400(server: FaultServer) -> None:
    assert exchange_bytes(server, b"hello\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert exchange_bytes(server, b"GET / HTTP/1.1\r\nno header\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_head_request_gets_no_body(server: FaultServer, http: httpx2.Client) -> None:
    job = finish(server, http)
    response = http.head(job.urls[0])
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) > 100


@pytest.mark.parametrize("mode", MODES)
def test_the_interstitial_answers_requests_without_the_header(mode: Any) -> None:
    with FaultServer(mode, interstitial=True) as server, http_to(server) as http:
        page = http.get("/api/v1/status/x")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert http.get("/api/v1/status/x", headers={"skip_zrok_interstitial": "1"}).status_code == 404


@pytest.mark.parametrize("mode", MODES)
def test_a_prefix_is_part_of_the_base_url(mode: Any, tmp_path: Path) -> None:
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
def test_jobs_fail(mode: Any) -> None:
    for fail in ("out of memory", {1: "out of memory"}, lambda index: index == 1 and "out of memory"):
        with FaultServer(mode, job_seconds=0, fail=fail) as server, http_to(server) as http:
            jobs = [finish(server, http) for _ in range(2)]
            assert (jobs[1].state, jobs[1].error) == ("failed", "out of memory")
            assert jobs[0].state == ("failed" if fail == "out of memory" else "completed")
            assert status(http, jobs[1].id).json()["error"] == "out of memory"


@pytest.mark.parametrize("mode", MODES)
def test_a_job_can_run_without_end(mode: Any, clock: FakeClock) -> None:
    with FaultServer(mode, job_seconds=math.inf, clock=clock.monotonic) as server, http_to(server) as http:
        job_id = submit(http)
        clock.advance(1e6)
        assert status(http, job_id).json()["state"] == "running"


@pytest.mark.parametrize("mode", MODES)
def test_jobs_run_in_turn_with_durations_by_a_function(mode: Any, clock: FakeClock) -> None:
    options: dict[str, Any] = {"job_seconds": [5, 7].__getitem__, "concurrency": None, "clock": clock.monotonic}
    with FaultServer(mode, **options) as server, http_to(server) as http:
        first, second = submit(http), submit(http)
        assert status(http, first).json()["state"] == "running"
        assert status(http, second).json()["queue_position"] == (0 if mode == "legacy" else 1)
        clock.advance(5)
        assert [job.state for job in server.jobs] == ["completed", "running"]
        clock.advance(6.9)
        assert [job.state for job in server.jobs] == ["completed", "running"]
        clock.advance(0.1)
        assert [job.state for job in server.jobs] == ["completed", "completed"]


@pytest.mark.parametrize("mode", MODES)
def test_jobs_run_at_the_same_time(mode: Any, clock: FakeClock) -> None:
    options: dict[str, Any] = {"job_seconds": 5, "workers": 3, "concurrency": None, "clock": clock.monotonic}
    with FaultServer(mode, **options) as server, http_to(server) as http:
        for _ in range(3):
            submit(http)
        assert {job.state for job in server.jobs} == {"running"}
        clock.advance(5)
        assert {job.state for job in server.jobs} == {"completed"}


@pytest.mark.parametrize("mode", MODES)
def test_several_images_of_a_job(mode: Any) -> None:
    with FaultServer(mode, job_seconds=0, images=3) as server, http_to(server) as http:
        body = status(http, finish(server, http).id).json()
        assert len({http.get(image["url"]).content for image in body["results"]["images"]}) == 3


def test_the_import_needs_the_standard_library_only() -> None:
    code = "import sys, umrgen.testing; umrgen.testing.FaultServer('legacy').start().stop(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    foreign = {name.partition(".")[0] for name in loaded} & {"httpx2", "click", "numpy", "PIL", "msgspec", "starlette"}
    assert foreign == set()
    assert not [name for name in loaded if name.startswith("umrgen.server")]


def test_the_mode_modern_reports_a_missing_server_extra() -> None:
    code = (
        "import sys; sys.modules['starlette'] = None; from umrgen.testing import FaultServer\n"
        "try: FaultServer().start()\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs starlette" in done.stdout
    assert "pip install 'umrgen[server]'" in done.stdout


def test_options_are_checked() -> None:
    with pytest.raises(TypeError):
        FaultServer(no_such_option=1)
    with pytest.raises(ValueError, match="must be modern or legacy; got 'ancient'"):
        FaultServer("ancient")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="modern has no option submit_status"):
        FaultServer(submit_status=200)
    with pytest.raises(ValueError, match="legacy has no option max_wait"):
        FaultServer("legacy", max_wait=1)
    with pytest.raises(ValueError, match="images must be 1 to 8"):
        FaultServer(images=0)
    with pytest.raises(UnusableKey):
        FaultServer(key="short").start()


def test_an_exception_in_a_function_of_the_test_is_raised_by_stop() -> None:
    def broken(*_: object) -> bytes:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), FaultServer() as server:
        server.on("/healthz", Tamper(broken))
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"{server.url}/healthz", verify=NO_TLS)
    with pytest.raises(KeyError, match="mine"), FaultServer(image=broken) as server, http_to(server) as http:
        assert finish(server, http).state == "failed"


# --- the server of this package ------------------------------------------------------------------------


def test_an_unfinished_job_runs_again_after_a_restart(clock: FakeClock) -> None:
    with FaultServer(job_seconds=1000, clock=clock.monotonic) as server, http_to(server) as http:
        key = {"Idempotency-Key": "k"}
        first = http.post("/api/v1/generate", json={"prompt": "x"}, headers=key)
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as long_poll:
            long_poll.sendall(get(server, f"/api/v1/status/{first.json()['job_id']}?wait=60"))
            until(lambda: len(server.requests) == 2)
            server.restart()
            assert long_poll.recv(10) == b""
        again = http.post("/api/v1/generate", json={"prompt": "x"}, headers=key)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json() == first.json()
        clock.advance(1000)
        job = status(http, first.json()["job_id"]).json()
        assert (job["state"], job["attempt"]) == ("completed", 2)
        assert http.get(job["image_url"]).status_code == 200


def test_limits(clock: FakeClock) -> None:
    options: dict[str, Any] = {"job_seconds": math.inf, "concurrency": 1, "rate_limit": 3, "clock": clock.monotonic}
    with FaultServer(**options) as server, http_to(server) as http:
        job_id = submit(http)
        refused = http.post("/api/v1/generate", json={"prompt": "x"})
        assert (refused.status_code, refused.json()["code"]) == (429, "concurrent_limit")
        assert refused.json()["job_id"] == job_id
        http.get("/api/v1/jobs")
        refused = http.get("/api/v1/jobs")
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert refused.headers["retry-after"] == "20"
        clock.advance(20)
        assert http.get("/api/v1/jobs").status_code == 200


def test_the_longest_wait() -> None:
    with FaultServer(job_seconds=math.inf, max_wait=0) as server, http_to(server) as http:
        assert status(http, submit(http), Prefer="wait=25").headers["preference-applied"] == "wait=0"


def test_an_event_stream(clock: FakeClock) -> None:
    with FaultServer(job_seconds=1000, clock=clock.monotonic) as server, http_to(server) as http:
        job_id = submit(http)
        with http.stream("GET", f"/api/v1/events/{job_id}") as response:
            states = _states(response.iter_lines())
            assert next(states) == "running"
            clock.advance(1000)
            server.catch_up()
            assert list(states)[-1] == "completed"


def _states(lines: Iterator[str]) -> Iterator[str]:
    """Yield the state in each event that has one, as the events arrive."""
    for line in lines:
        if line.startswith("data: ") and "state" in (data := json.loads(line.removeprefix("data: "))):
            yield data["state"]


def test_a_client_that_disconnects_ends_its_long_poll() -> None:
    with FaultServer(job_seconds=math.inf) as server, http_to(server) as http:
        with pytest.raises(httpx2.ReadTimeout):
            http.get(f"/api/v1/status/{submit(http)}?wait=60", timeout=0.05)
        until(lambda: server.open_connections == 0)


# --- faults ------------------------------------------------------------------------------------------


@pytest.fixture(params=["call", "output"])
def target(request: pytest.FixtureRequest, server: FaultServer, http: httpx2.Client) -> str:
    """A path whose response has a body: of an API call, or of an image."""
    job = finish(server, http)
    path: str = f"/api/v1/status/{job.id}" if request.param == "call" else job.urls[0]
    return path


def original_body(server: FaultServer, target: str) -> bytes:
    return exchange_bytes(server, get(server, target)).partition(b"\r\n\r\n")[2]


def script(server: FaultServer, target: str, *faults: Fault) -> None:
    server.on(f"GET {urlsplit(target).path}", *faults)


def test_respond(server: FaultServer, http: httpx2.Client, target: str) -> None:
    script(server, target, Respond(503, {"a": 1}, {"Retry-After": "7"}), Respond(418, "tea"), Respond(599, b"\0"))
    first, second, third = (http.get(target) for _ in range(3))
    assert (first.status_code, first.json(), first.headers["retry-after"]) == (503, {"a": 1}, "7")
    assert (second.status_code, second.text) == (418, "tea")
    assert (third.status_code, third.content) == (599, b"\0")
    assert http.get(target).status_code == 200
    assert server.connections == 1


def test_respond_after_a_delay(server: FaultServer, http: httpx2.Client, target: str) -> None:
    script(server, target, Respond(200, "late", delay=60))
    with pytest.raises(httpx2.ReadTimeout):
        http.get(target, timeout=0.05)
    script(server, target, Respond(200, "late", delay=0.1))
    assert http.get(target).text == "late"


def test_a_response_may_announce_another_length(server: FaultServer, http: httpx2.Client, target: str) -> None:
    script(server, target, Respond(200, b"abc", {"Content-Length": "9"}))
    with pytest.raises(httpx2.RemoteProtocolError):
        http.get(target)


def test_reset_in_the_headers(server: FaultServer, target: str) -> None:
    script(server, target, Reset())
    with pytest.raises(ConnectionResetError):
        exchange_bytes(server, get(server, target))


def test_reset_in_the_body(server: FaultServer, target: str) -> None:
    original = len(original_body(server, target))
    script(server, target, Reset(after_headers=True, share=0.25))
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(get(server, target))
        with pytest.raises(ConnectionResetError):
            while part := sock.recv(65536):
                received += part
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-length: %d" % original in head.lower()
    assert len(body) == original // 4


def test_a_reset_in_a_large_body_keeps_its_share(tmp_path: Path) -> None:
    image = png_bytes(3_000_000)
    with FaultServer(job_seconds=0, image=image) as server, http_to(server) as http:
        url = finish(server, http).urls[0]
        script(server, url, Reset(after_headers=True, share=0.5))
        received = 0
        with pytest.raises(httpx2.ReadError), http.stream("GET", url) as response:
            for chunk in response.iter_raw():
                received += len(chunk)
        assert received == len(image) // 2


@pytest.mark.parametrize(("fault", "made"), [(Reset(), 1), (Reset(handled=False), 0)])
def test_the_server_handles_a_request_before_a_reset_or_not(server: FaultServer, fault: Fault, made: int) -> None:
    server.on("POST /api/v1/generate", fault)
    with http_to(server) as http, pytest.raises(httpx2.TransportError):
        submit(http)
    assert len(server.jobs) == made


def test_drip(server: FaultServer, target: str) -> None:
    original = original_body(server, target)
    script(server, target, Drip(bytes_per_chunk=50, interval=0.002), Drip(200, 0.001, headers=True))
    for _ in range(2):
        assert original_body(server, target) == original
    script(server, target, Drip(bytes_per_chunk=50, interval=60))
    with http_to(server) as http, pytest.raises(httpx2.ReadTimeout):
        http.get(target, timeout=0.05)


def test_no_response_and_delay(server: FaultServer, http: httpx2.Client, target: str) -> None:
    script(server, target, NoResponse())
    with pytest.raises(httpx2.ReadTimeout):
        http.get(target, timeout=0.05)
    until(lambda: server.open_connections <= 1)
    script(server, target, Delay(0.05))
    assert http.get(target).status_code == 200


def test_a_lost_response_has_made_a_job(server: FaultServer) -> None:
    server.on("POST /api/v1/generate", NoResponse(handled=True), Delay(5))
    for made in (1, 1):
        with http_to(server) as http, pytest.raises(httpx2.ReadTimeout):
            http.post("/api/v1/generate", json={"prompt": "x"}, timeout=0.05)
        until(lambda: server.open_connections == 0)
        assert len(server.jobs) == made


def test_stop_does_not_wait_for_a_missing_response() -> None:
    server = FaultServer().start()
    server.on("/healthz", NoResponse())
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(get(server, "/healthz"))
        until(lambda: server.requests)
        server.stop()  # it would run into the time limit of the test if it waited
        assert sock.recv(10) == b""
    server.stop()  # has no effect


def test_truncate(server: FaultServer, target: str) -> None:
    original = original_body(server, target)
    script(server, target, Truncate(share=0.5))
    head, _, body = exchange_bytes(server, get(server, target, close=False)).partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(original) in head.lower()
    assert body == original[: len(original) // 2]


def test_tamper(server: FaultServer, http: httpx2.Client, target: str) -> None:
    original = http.get(target)
    script(
        server,
        target,
        Tamper(lambda body: body[:-1] + bytes([body[-1] ^ 1])),
        Tamper(lambda body: b"<html>", status=202),
        Tamper(headers={"repr-digest": "sha-256=:AAAA:", "CONTENT-TYPE": None}),
    )
    flipped, page, lie = (http.get(target) for _ in range(3))
    assert len(flipped.content) == len(original.content)
    assert flipped.content != original.content
    assert (page.status_code, page.text) == (202, "<html>")
    assert lie.content == original.content
    assert lie.headers["repr-digest"] == "sha-256=:AAAA:"
    assert "content-type" not in lie.headers


def test_tamper_can_send_more_than_announced(server: FaultServer, target: str) -> None:
    original = original_body(server, target)
    script(server, target, Tamper(lambda body: body + b"more", keep_length=True))
    head, _, body = exchange_bytes(server, get(server, target, close=False)).partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(original) in head.lower()
    assert body == original + b"more"


def test_redirect_and_html_page(server: FaultServer, http: httpx2.Client, target: str) -> None:
    script(server, target, Redirect("http://elsewhere.example/x"), Redirect("/y", 307), HtmlPage())
    responses = [http.get(target) for _ in range(3)]
    assert [response.status_code for response in responses] == [302, 307, 200]
    assert [response.headers.get("location") for response in responses] == ["http://elsewhere.example/x", "/y", None]
    assert responses[2].text.startswith("<!DOCTYPE html>")


def test_a_script_uses_its_faults_in_turn(server: FaultServer, http: httpx2.Client) -> None:
    twice = server.on("GET /api/v1/status/*", PassThrough(), Respond(500), times=2)
    always = server.on("* /api/v1/sta*", Respond(501), times=None)
    codes = [http.get("/api/v1/status/x?a=1").status_code for _ in range(6)]
    assert codes == [404, 500, 404, 500, 501, 501]
    assert twice.exhausted
    assert not always.exhausted
    assert len(twice.requests) == 4
    always.stop()
    assert http.get("/api/v1/status/x").status_code == 404


def test_a_pattern_matches_queries_and_any_method(server: FaultServer, http: httpx2.Client) -> None:
    server.on("/x?[?]a=1", Respond(201), times=None)
    assert http.get("/x1?a=1").status_code == 201
    assert http.put("/x1?a=1").status_code == 201
    assert http.put("/x1?a=2").status_code in (404, 405)


def test_a_restart_breaks_connections(server: FaultServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(get(server, "/x", close=False))
        assert sock.recv(65536)
        server.restart()
        assert sock.recv(10) == b""
    assert exchange_bytes(server, get(server, "/x"))


def test_refused_connections(server: FaultServer, http: httpx2.Client) -> None:
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
        exchange_bytes(server, get(server, "/x"))
    server.accept()
    assert exchange_bytes(server, get(server, "/x"))


def test_connections_refused_for_a_time(server: FaultServer) -> None:
    server.refuse(0.1)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{server.url}/x", verify=NO_TLS)
    assert until(lambda: httpx2.get(f"{server.url}/x", verify=NO_TLS)).status_code == 404


def test_stopping_while_refusing(server: FaultServer) -> None:
    server.refuse(60)


def test_catching_up_with_a_clock_answers_long_polls(clock: FakeClock) -> None:
    options: dict[str, Any] = {"job_seconds": 1000, "clock": clock.monotonic}
    with FaultServer(**options) as server, http_to(server) as http:
        job_id = submit(http)
        calls = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(50)]
        for call in calls:
            call.sendall(get(server, f"/api/v1/status/{job_id}?wait=60"))
        until(lambda: len(server.requests) == 51)
        clock.advance(1000)
        server.catch_up()
        for call in calls:
            with call, call.makefile("rb") as response:
                assert b'"completed"' in response.read()


def test_a_custom_fault(server: FaultServer, http: httpx2.Client) -> None:
    class Twice:
        """Sends two bodies for one head."""

        async def apply(self, exchange: Any) -> None:
            response = await exchange.response()
            await exchange.write(exchange.head(response) + 2 * exchange.body(response))
            exchange.close()

    job = finish(server, http)
    original = original_body(server, job.urls[0])
    server.on("/outputs/*", Twice())
    assert original_body(server, job.urls[0]) == 2 * original
