"""The quick way of a status call answers what the ordinary way answers, and nothing it should not."""

import json
import re
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import SMALL, ServerProcess, cli, finish, server, submit, until
from umrgen.jobs import Job, JobSpec, State
from umrgen.server.hosts import Hosts
from umrgen.server.http.endings import Endings
from umrgen.server.http.quick import Hold, quick_answer
from umrgen.server.waiters import Waiters

Answer = tuple[int, dict[str, str], bytes]


def exchange(running: ServerProcess, *requests: bytes) -> list[Answer]:
    """Send all requests in one packet, and read an answer for each."""
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(b"".join(requests))
        with connection.makefile("rb") as stream:
            return [read_answer(stream, request) for request in requests]


def read_answer(stream: Any, request: bytes) -> Answer:
    code = int(stream.readline().split()[1])
    headers: dict[str, str] = {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode().partition(": ")
        headers[name] = value
    length = 0 if request.startswith(b"HEAD") else int(headers.get("content-length", 0))
    return code, headers, stream.read(length)


def ask(key: str, path: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    head = [f"{method} {path} HTTP/{version}", "Host: localhost", f"Authorization: Bearer {key}", *lines]
    return "\r\n".join([*head, "", ""]).encode()


def both_ways(running: ServerProcess, key: str, path: str) -> Answer:
    """The answer, after checking that it is the same without the quick way (which takes no announced body)."""
    plain, announced = ask(key, path), ask(key, path, "Content-Length: 0")
    quick, ordinary = exchange(running, plain, announced)
    for answer in (quick, ordinary):
        answer[1].pop("date", None)
    assert quick == ordinary
    return quick


@pytest.fixture
def done(shared_server: ServerProcess, http: httpx2.Client) -> str:
    job_id = submit(http)
    finish(http, job_id)
    return job_id


def test_a_job_that_is_over(shared_server: ServerProcess, done: str) -> None:
    code, headers, body = both_ways(shared_server, shared_server.key, f"/api/v1/status/{done}")
    assert (code, json.loads(body)["state"]) == (200, "completed")
    assert headers["cache-control"] == "no-store"


def test_jobs_that_are_not_over(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        first, second = submit(http, steps=3, width=520), submit(http, steps=3, width=520)
        until(lambda: http.get(f"/api/v1/status/{first}").json()["progress"]["step"] == 1)
        for job_id, state in ((first, "running"), (second, "queued")):
            code, headers, body = both_ways(slow_server, slow_server.key, f"/api/v1/status/{job_id}")
            assert (code, json.loads(body)["state"]) == (200, state)
            assert "retry-after" in headers
        for job_id in (second, first):
            http.post(f"/api/v1/cancel/{job_id}")
        assert both_ways(slow_server, slow_server.key, f"/api/v1/status/{first}")[0] == 200


@pytest.mark.parametrize("path", ["{}?x=1", "%65xt{}", "{}/", "{}%00", "", "../status/{}", "ext_unknown"])
def test_odd_paths(shared_server: ServerProcess, done: str, path: str) -> None:
    both_ways(shared_server, shared_server.key, "/api/v1/status/" + path.format(done))


def test_who_may_not_ask(shared_server: ServerProcess, done: str, other_key: str) -> None:
    path = f"/api/v1/status/{done}"
    assert httpx2.get(f"{shared_server.url}{path}", headers={"Authorization": f"Bearer {other_key}"}).status_code == 404
    for key, code in ((shared_server.key, 200), (other_key, 404), ("wrong", 401), ("", 401)):
        assert both_ways(shared_server, key, path)[0] == code


@pytest.mark.slow
def test_a_key_that_has_asked_too_much(state: Path) -> None:
    with server(state) as running, running.http() as http:
        job_id = submit(http)
        finish(http, job_id)
        made = cli("keys", "create", "--state", str(state), "--json", "--rate", "2")
        key = json.loads(made.stdout)["key"]
        plain, announced = (ask(key, f"/api/v1/status/{job_id}", *more) for more in ((), ("Content-Length: 0",)))
        _, _, quick, ordinary = exchange(running, plain, plain, plain, announced)
        for answer in (quick, ordinary):
            answer[1].pop("date", None)
        assert quick[0] == 429
        assert {"retry-after", "ratelimit", "ratelimit-policy", "content-type"} <= set(quick[1])
        assert quick == ordinary


def test_connections_end_as_asked(shared_server: ServerProcess, done: str) -> None:
    path = f"/api/v1/status/{done}"
    for request in (ask(shared_server.key, path, "Connection: close"), ask(shared_server.key, path, version="1.0")):
        ((code, headers, _),) = exchange(shared_server, request)
        assert (code, headers["connection"]) == (200, "close")
    ((code, headers, body),) = exchange(shared_server, ask(shared_server.key, path, method="HEAD"))
    assert code in (404, 405)
    assert body == b""


def test_pipelined_requests_are_answered_in_order(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        over, running = submit(http), submit(http, steps=9)
        finish(http, over)
        key = slow_server.key
        answers = exchange(
            slow_server,
            ask(key, f"/api/v1/status/{over}"),
            ask(key, f"/api/v1/status/{running}", "Prefer: wait=1"),
            ask(key, f"/api/v1/status/{over}"),
            ask(key, "/healthz"),
        )
        http.post(f"/api/v1/cancel/{running}")
    names = [json.loads(body).get("job_id") for _, _, body in answers]
    assert names == [over, running, over, None]


def held_both_ways(running: ServerProcess, job_id: str, then: Callable[[], object]) -> Answer:
    """The answer to a held call, after checking that it is the same without the quick way."""
    path = f"/api/v1/status/{job_id}"
    lines = ("Prefer: wait=2",), ("Prefer: wait=2", "Content-Length: 0")
    with ThreadPoolExecutor(2) as threads, running.http() as http:
        calls = [threads.submit(exchange, running, ask(running.key, path, *each)) for each in lines]
        until(lambda: waiting(http) == 2)
        then()
        (quick,), (ordinary,) = (call.result() for call in calls)
        until(lambda: waiting(http) == 0)
    for answer in (quick, ordinary):
        answer[1].pop("date", None)
    assert quick == ordinary
    assert quick[1]["preference-applied"] == "wait=2"
    return quick


def waiting(http: httpx2.Client) -> float:
    found = re.search(r"^umrgen_waiters (\S+)$", http.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


@pytest.mark.slow
def test_calls_that_are_held(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        first, second = submit(http, steps=9, width=520), submit(http, steps=9, width=520)
        until(lambda: http.get(f"/api/v1/status/{first}").json()["state"] == "running")
        # Until its time is over, and until the job is.
        code, headers, body = held_both_ways(slow_server, second, lambda: None)
        assert (code, json.loads(body)["state"], json.loads(body)["queue_position"]) == (200, "queued", 1)
        assert "retry-after" in headers
        code, _, body = held_both_ways(slow_server, second, lambda: http.post(f"/api/v1/cancel/{second}"))
        assert (code, json.loads(body)["error_code"]) == (200, "cancelled")
        http.post(f"/api/v1/cancel/{first}")
        # There is nothing to wait for any more.
        path = f"/api/v1/status/{second}"
        waits = [ask(slow_server.key, path, "Prefer: wait=9", *more) for more in ((), ("Content-Length: 0",))]
        quick, ordinary = exchange(slow_server, *waits)
        assert quick[1]["preference-applied"] == "wait=9"
        assert quick[1:] == ordinary[1:]


@pytest.mark.parametrize("more", [(), ("Content-Length: 0",)], ids=["quick", "ordinary"])
@pytest.mark.parametrize(
    "behind",
    [("GET", "/api/v1/jobs"), ("GET", "/healthz"), ("POST", "/api/v1/cancel/ext_none")],
    ids=["a look", "no key", "a change"],
)
def test_a_held_caller_who_hangs_up_is_forgotten_at_once(
    slow_server: ServerProcess, more: tuple[str, ...], behind: tuple[str, str]
) -> None:
    with slow_server.http() as http:
        job_id = submit(http, steps=9, width=520)
        host, port = slow_server.url.removeprefix("http://").split(":")
        path = f"/api/v1/status/{job_id}"
        with socket.create_connection((host, int(port)), 20) as connection:
            connection.sendall(ask(slow_server.key, path, "Prefer: wait=60", *more) * 2)
            connection.sendall(ask(slow_server.key, behind[1], method=behind[0]))
            until(lambda: waiting(http) == 1)  # the others wait their turn
        until(lambda: waiting(http) == 0)
        assert http.post(f"/api/v1/cancel/{job_id}").json()["error_code"] == "cancelled", "its time was not over"


@pytest.mark.slow
def test_a_held_call_is_answered_when_the_server_stops(state: Path) -> None:
    with server(state, "--step-delay", "600", "--drain", "0") as running, running.http() as http:
        job_id = submit(http, steps=9)
        path = f"/api/v1/status/{job_id}"
        until(lambda: http.get(path).json()["state"] == "running")
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(exchange, running, ask(running.key, path, "Prefer: wait=60"))
            until(lambda: waiting(http) == 1)
            running.process.send_signal(signal.SIGTERM)
            ((code, headers, body),) = call.result()
        assert (code, json.loads(body)["job_id"]) == (200, job_id)
        assert "retry-after" in headers


def test_a_caller_that_reads_late_gets_everything(shared_server: ServerProcess, done: str) -> None:
    answers = exchange(shared_server, *[ask(shared_server.key, f"/api/v1/status/{done}")] * 5000)
    assert {(code, json.loads(body)["job_id"]) for code, _, body in answers} == {(200, done)}


@pytest.mark.parametrize("wish", ["Upgrade: h2c", "upgrade:h2c", "Upgrade: H2C "])
def test_who_would_like_http_2_is_answered_all_the_same(shared_server: ServerProcess, wish: str) -> None:
    """Java's own client wishes for it with every request; a request's body is not lost over it."""
    body = json.dumps({"prompt": "a boat\r\nUpgrade: h2c\r\n", **SMALL})
    wishes = ("Connection: Upgrade, HTTP2-Settings", wish, "HTTP2-Settings: AAMAAABkAAQCAAAA", "X-Last: 1")
    requests = (
        ask(shared_server.key, "/healthz", *wishes),
        ask(shared_server.key, "/api/v1/generate", *wishes, f"Content-Length: {len(body)}", method="POST")
        + body.encode(),
        ask(shared_server.key, "/healthz", *wishes),
    )
    host, port = shared_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as connection, connection.makefile("rb") as stream:
        for request, code in zip(requests, (200, 202, 200), strict=True):
            connection.sendall(request)
            assert read_answer(stream, request)[0] == code


class TestWildInput:
    """`quick_answer` alone, with a key and a job of its own."""

    job = Job("ext_1", "sid_a", JobSpec("a boat", seed=1), "procedural", 1000, state=State.FAILED, error="no")
    queued = Job("ext_2", "sid_a", JobSpec("a boat", seed=1), "procedural", 1000)
    names = st.sampled_from([b"authorization", b"prefer", b"host", b"expect", b"content-length", b"connection"])
    values = st.binary(max_size=20) | st.sampled_from(
        [b"Bearer good", b"Bearer other", b"keep-alive", b"close", b"localhost", b"evil.example", b"wait=5"]
    )
    paths = st.binary(max_size=12).map(lambda tail: b"/api/v1/status/" + tail) | st.sampled_from(
        [b"/api/v1/status/ext_1", b"/api/v1/status/ext_2"]
    )

    @given(paths, st.lists(st.tuples(names, values), max_size=4))
    def test_it_answers_only_what_it_may(self, url: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        answer = quick_answer(self.services(), url, headers)  # type: ignore[arg-type]  # what it uses of them
        if answer is not None:
            assert (b"authorization", b"Bearer good") in headers
            assert url in (b"/api/v1/status/ext_1", b"/api/v1/status/ext_2")
            assert isinstance(answer, Hold) == url.endswith(b"2")
            assert (b"host", b"evil.example") not in headers

    def test_it_answers_at_all(self) -> None:
        headers = [(b"host", b"localhost"), (b"authorization", b"Bearer good")]
        assert quick_answer(self.services(), b"/api/v1/status/ext_1", headers) is not None  # type: ignore[arg-type]
        assert quick_answer(self.services(), b"/api/v1/status/ext_2", headers) is None  # type: ignore[arg-type]
        headers.append((b"prefer", b"wait=5"))
        hold = quick_answer(self.services(), b"/api/v1/status/ext_2", headers)  # type: ignore[arg-type]
        assert isinstance(hold, Hold)
        assert (hold.job, hold.wait) == (self.queued, 5)

    def services(self) -> SimpleNamespace:
        sessions = {
            "good": SimpleNamespace(id="a", session_id="sid_a"),
            "other": SimpleNamespace(id="b", session_id="sid_b"),
        }
        return SimpleNamespace(
            keys=SimpleNamespace(at_once=sessions.get),
            ledger=SimpleNamespace(glance={"ext_1": self.job, "ext_2": self.queued}.get),
            estimates=SimpleNamespace(seconds_left=lambda job, position: None),
            endings=Endings(),
            hosts=Hosts((), "127.0.0.1"),
            limits=SimpleNamespace(take=lambda key: True, may=lambda key: True),
            signatures=SimpleNamespace(wanted=False, sign=None),
            settings=SimpleNamespace(max_wait=60),
            waiters=Waiters(1),
        )
