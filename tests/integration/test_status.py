"""Status calls over raw connections: pipelining, long polls, connections that close."""

import json
import re
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support import SMALL, ServerProcess, cli, finish, server, submit, until

HttpResponse = tuple[int, dict[str, str], bytes]


def exchange(running: ServerProcess, *requests: bytes) -> list[HttpResponse]:
    """Send all requests in one packet, and read the response to each."""
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(b"".join(requests))
        with connection.makefile("rb") as stream:
            return [read_response(stream, request) for request in requests]


def read_response(stream: Any, request: bytes) -> HttpResponse:
    code = int(stream.readline().split()[1])
    headers: dict[str, str] = {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    length = 0 if request.startswith(b"HEAD") else int(headers.get("content-length", 0))
    return code, headers, stream.read(length)


def encode_request(key: str, path: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    head = [f"{method} {path} HTTP/{version}", "Host: localhost", f"Authorization: Bearer {key}", *lines]
    return "\r\n".join([*head, "", ""]).encode()


@pytest.fixture
def done(shared_server: ServerProcess, http: httpx2.Client) -> str:
    job_id = submit(http)
    finish(http, job_id)
    return job_id


def test_a_cached_response_equals_the_first(shared_server: ServerProcess, done: str) -> None:
    """The second response is from the cache."""
    first, second = exchange(shared_server, *[encode_request(shared_server.key, f"/api/v1/status/{done}")] * 2)
    for answer in (first, second):
        answer[1].pop("date", None)
    code, headers, body = first
    assert (code, json.loads(body)["state"]) == (200, "completed")
    assert headers["cache-control"] == "no-store"
    assert first == second


def test_responses_are_cached_by_wait(shared_server: ServerProcess, done: str) -> None:
    path = f"/api/v1/status/{done}"
    waits = [(), ("Prefer: wait=9",), ("Prefer: wait=8",), (), ("Prefer: wait=9",)]
    answers = exchange(shared_server, *(encode_request(shared_server.key, path, *lines) for lines in waits))
    applied = [headers.get("preference-applied") for _, headers, _ in answers]
    assert applied == [None, "wait=9", "wait=8", None, "wait=9"]


def test_if_none_match_accepts_lists_and_any(shared_server: ServerProcess, done: str) -> None:
    path = f"/api/v1/status/{done}"
    ((_, headers, _),) = exchange(shared_server, encode_request(shared_server.key, path))
    tag = headers["etag"]
    fields = [tag, f"W/{tag}", f'"x", {tag}', f'{tag},"y"', "*", '"x", "y"', '"x"']
    answers = exchange(
        shared_server, *(encode_request(shared_server.key, path, f"If-None-Match: {field}") for field in fields)
    )
    assert [code for code, _, _ in answers] == [304, 304, 304, 304, 304, 200, 200]
    assert answers[0][1]["etag"] == tag


def test_a_long_poll_with_a_list_waits_for_another_version(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        first, job_id = submit(http, steps=9, width=520), submit(http, steps=9, width=520)
        path = f"/api/v1/status/{job_id}"
        until(lambda: http.get(f"/api/v1/status/{first}").json()["state"] == "running")
        tag = http.get(path).headers["etag"]
        with ThreadPoolExecutor(1) as threads:
            lines = ("Prefer: wait=60", f'If-None-Match: "x", {tag}')
            call = threads.submit(exchange, slow_server, encode_request(slow_server.key, path, *lines))
            until(lambda: waiting(http) == 1)
            http.post(f"/api/v1/cancel/{job_id}")
            ((code, _, body),) = call.result()
        http.post(f"/api/v1/cancel/{first}")
    assert (code, json.loads(body)["error_code"]) == (200, "cancelled")


@pytest.mark.parametrize("path", ["%65xt{}", "{}/", "{}%00", "", "../status/{}", "ext_unknown"])
def test_invalid_job_ids_are_404(shared_server: ServerProcess, done: str, path: str) -> None:
    ((code, _, body),) = exchange(
        shared_server, encode_request(shared_server.key, "/api/v1/status/" + path.format(done))
    )
    assert (code, json.loads(body)["code"]) == (404, "job_not_found")


def test_status_calls_check_the_key(shared_server: ServerProcess, done: str, other_key: str) -> None:
    path = f"/api/v1/status/{done}"
    for key, code in ((shared_server.key, 200), (other_key, 404), ("wrong", 401), ("", 401), (other_key, 404)):
        assert exchange(shared_server, encode_request(key, path))[0][0] == code


@pytest.mark.slow
def test_a_key_above_its_rate_limit_is_429(state: Path) -> None:
    with server(state) as running, running.http() as http:
        job_id = submit(http)
        finish(http, job_id)
        made = cli("keys", "create", "--state", str(state), "--json", "--rate", "2")
        key = json.loads(made.stdout)["key"]
        *_, (code, headers, _) = exchange(running, *[encode_request(key, f"/api/v1/status/{job_id}")] * 3)
        assert code == 429
        assert {"retry-after", "ratelimit", "ratelimit-policy", "content-type"} <= set(headers)


def test_connections_close_on_request(shared_server: ServerProcess, done: str) -> None:
    path = f"/api/v1/status/{done}"
    ((code, headers, _),) = exchange(shared_server, encode_request(shared_server.key, path, "Connection: close"))
    assert (code, headers["connection"].lower()) == (200, "close")
    ((code, headers, _),) = exchange(shared_server, encode_request(shared_server.key, path, version="1.0"))
    assert (code, headers.get("connection", "close")) == (200, "close")
    ((code, headers, body),) = exchange(shared_server, encode_request(shared_server.key, path, method="HEAD"))
    assert code == 200
    assert body == b""


def test_pipelined_requests_are_answered_in_order(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        over, running = submit(http), submit(http, steps=9)
        finish(http, over)
        key = slow_server.key
        answers = exchange(
            slow_server,
            encode_request(key, f"/api/v1/status/{over}"),
            encode_request(key, f"/api/v1/status/{running}", "Prefer: wait=1"),
            encode_request(key, f"/api/v1/status/{over}"),
            encode_request(key, "/healthz"),
        )
        http.post(f"/api/v1/cancel/{running}")
    names = [json.loads(body).get("job_id") for _, _, body in answers]
    assert names == [over, running, over, None]


def long_poll(running: ServerProcess, job_id: str, then: Callable[[], object]) -> HttpResponse:
    """Call `then` while a long poll waits, and return its response."""
    with ThreadPoolExecutor(1) as threads, running.http() as http:
        request = encode_request(running.key, f"/api/v1/status/{job_id}", "Prefer: wait=2")
        call = threads.submit(exchange, running, request)
        until(lambda: waiting(http) == 1)
        then()
        (answer,) = call.result()
        until(lambda: waiting(http) == 0)
    assert answer[1]["preference-applied"] == "wait=2"
    return answer


def waiting(http: httpx2.Client) -> float:
    found = re.search(r"^umrgen_waiters (\S+)$", http.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


@pytest.mark.slow
def test_a_long_poll_ends_at_its_timeout_or_with_the_job(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        first, second = submit(http, steps=9, width=520), submit(http, steps=9, width=520)
        until(lambda: http.get(f"/api/v1/status/{first}").json()["state"] == "running")
        code, headers, body = long_poll(slow_server, second, lambda: None)
        assert (code, json.loads(body)["state"], json.loads(body)["queue_position"]) == (200, "queued", 1)
        assert "retry-after" in headers
        code, _, body = long_poll(slow_server, second, lambda: http.post(f"/api/v1/cancel/{second}"))
        assert (code, json.loads(body)["error_code"]) == (200, "cancelled")
        http.post(f"/api/v1/cancel/{first}")


def test_a_disconnect_ends_a_long_poll(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        job_id = submit(http, steps=9, width=520)
        host, port = slow_server.url.removeprefix("http://").split(":")
        path = f"/api/v1/status/{job_id}"
        with socket.create_connection((host, int(port)), 20) as connection:
            connection.sendall(encode_request(slow_server.key, path, "Prefer: wait=60"))
            until(lambda: waiting(http) == 1)
        until(lambda: waiting(http) == 0)
        assert http.post(f"/api/v1/cancel/{job_id}").json()["error_code"] == "cancelled", "the job still ran"


@pytest.mark.slow
def test_a_long_poll_is_answered_when_the_server_stops(state: Path) -> None:
    with server(state, "--step-delay", "600", "--drain", "0") as running, running.http() as http:
        job_id = submit(http, steps=9)
        path = f"/api/v1/status/{job_id}"
        until(lambda: http.get(path).json()["state"] == "running")
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(exchange, running, encode_request(running.key, path, "Prefer: wait=60"))
            until(lambda: waiting(http) == 1)
            running.process.send_signal(signal.SIGTERM)
            ((code, headers, body),) = call.result()
        assert (code, json.loads(body)["job_id"]) == (200, job_id)
        assert "retry-after" in headers


def test_a_client_that_reads_late_receives_every_response(shared_server: ServerProcess, done: str) -> None:
    answers = exchange(shared_server, *[encode_request(shared_server.key, f"/api/v1/status/{done}")] * 5000)
    assert {(code, json.loads(body)["job_id"]) for code, _, body in answers} == {(200, done)}


@pytest.mark.parametrize("header", ["Upgrade: h2c", "upgrade:h2c", "Upgrade: H2C ", "Upgrade: websocket"])
def test_upgrade_headers_are_ignored(shared_server: ServerProcess, header: str) -> None:
    """Java's HttpClient sends them with every request. The body is neither lost nor executed as a request."""
    body = json.dumps({"prompt": "a boat\r\nUpgrade: h2c\r\n", **SMALL})
    headers = ("Connection: Upgrade, HTTP2-Settings", header, "HTTP2-Settings: AAMAAABkAAQCAAAA", "X-Last: 1")
    requests = (
        encode_request(shared_server.key, "/healthz", *headers),
        encode_request(shared_server.key, "/api/v1/generate", *headers, f"Content-Length: {len(body)}", method="POST")
        + body.encode(),
        encode_request(shared_server.key, "/healthz", *headers),
    )
    host, port = shared_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as connection, connection.makefile("rb") as stream:
        for request, code in zip(requests, (200, 202, 200), strict=True):
            connection.sendall(request)
            assert read_response(stream, request)[0] == code
