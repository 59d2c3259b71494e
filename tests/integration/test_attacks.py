"""Attacks by unauthenticated and authenticated clients, against a running server that must stay available."""

import json
import resource
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from support import SMALL, ServerProcess, cli, finish, problem, server, submit, until


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server(tmp_path_factory.mktemp("target") / "state", "--header-timeout", "2", "--rate", "0") as running:
        yield running


@contextmanager
def connection(running: ServerProcess) -> Iterator[socket.socket]:
    where = urlsplit(running.url)
    with socket.create_connection((where.hostname, where.port), 20) as opened:
        yield opened


def raw(running: ServerProcess, request: bytes, *, whole: bool = True) -> bytes:
    """Send bytes, and read until the server closes. If they are no `whole` request, close the sending side."""
    with connection(running) as opened:
        with suppress(OSError):  # the server may have closed already
            opened.sendall(request)
            if not whole:
                opened.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionResetError):
            while chunk := opened.recv(65536):
                answer += chunk
        return answer


def check_healthy(running: ServerProcess) -> None:
    with running.http() as http:
        assert http.get("/readyz").json() == {"status": "ready"}
        assert http.get("/api/v1/jobs").status_code == 200


class TestConnections:
    @pytest.mark.slow
    def test_ten_thousand_idle_connections(self, state: Path) -> None:
        count = 10_000
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
        with server(state, "--header-timeout", "600") as running, ExitStack() as opened:
            where = urlsplit(running.url)
            before = memory(running)
            for number in range(count):
                source = (f"127.0.0.{2 + number // 5000}", 0)  # more than one address has ports
                opened.enter_context(socket.create_connection((where.hostname, where.port), 20, source))
            taken = lambda: len(list(Path(f"/proc/{running.process.pid}/fd").iterdir())) >= count  # noqa: E731
            until(taken)
            each = (memory(running) - before) / count
            with running.http() as http:
                assert http.get("/api/v1/jobs").status_code == 200
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert each <= 20 << 10, f"{each:.0f} bytes each"

    @pytest.mark.slow
    def test_idle_connections_are_closed(self, target: ServerProcess) -> None:
        with connection(target) as opened:
            assert opened.recv(100) == b"", "closed by the server after header_timeout"

    def test_a_connection_above_the_limit_waits_until_another_closes(self, state: Path) -> None:
        with server(state, "--max-connections", "3") as running, ExitStack() as connections:
            first = [connections.enter_context(connection(running)) for _ in range(3)]
            for opened in first:  # each is accepted
                opened.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert opened.recv(1000).startswith(b"HTTP/1.1 200 ")
            with connection(running) as fourth:
                fourth.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                for _ in range(100):
                    first[1].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    assert first[1].recv(1000).startswith(b"HTTP/1.1 200 ")
                fourth.setblocking(False)
                with pytest.raises(BlockingIOError):
                    fourth.recv(100)
                first[0].close()
                fourth.settimeout(20)
                assert fourth.recv(100).startswith(b"HTTP/1.1 200 ")

    @pytest.mark.slow
    def test_a_slow_head_is_closed(self, target: ServerProcess) -> None:
        with connection(target) as opened:
            opened.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
            closed = False
            opened.settimeout(0.2)
            while not closed:
                with suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
                    closed = opened.recv(100) == b""
                    continue
                with suppress(OSError):
                    opened.sendall(b"X-Slow: 1\r\n")

    @pytest.mark.slow
    def test_a_slow_second_head_is_closed(self, target: ServerProcess) -> None:
        with connection(target) as opened:
            opened.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += opened.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200 ")
            opened.sendall(b"GET /healthz HTT")
            assert opened.recv(1000) == b"", "closed by the server after header_timeout"

    @pytest.mark.slow
    def test_an_incomplete_body_is_408(self, state: Path) -> None:
        with server(state) as running, connection(running) as opened:
            opened.settimeout(30)
            head = f"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {running.key}\r\n"
            opened.sendall(head.encode() + b'Content-Length: 1000\r\n\r\n{"prompt": "a')
            answer = opened.recv(1000)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"connection: close" in answer.lower()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "request_and_then",
        [
            (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n"),
            (b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n", b"x"),
            (b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nab"),
        ],
        ids=["blank lines", "an unwanted body", "a chunk"],
    )
    @pytest.mark.timeout(60)  # an idle connection stays open for 75 s, an incomplete head for 2 s
    def test_bytes_that_are_no_request_do_not_keep_a_connection_open(
        self, target: ServerProcess, request_and_then: tuple[bytes, bytes]
    ) -> None:
        request, more = request_and_then
        with connection(target) as opened:
            opened.sendall(request)
            assert opened.recv(5000).startswith(b"HTTP/1.1 ")
            opened.settimeout(0.3)
            closed = False
            while not closed:
                try:
                    opened.sendall(more)
                    closed = opened.recv(5000) == b""
                except TimeoutError:
                    continue
                except OSError:
                    closed = True


class TestSizes:
    @pytest.mark.slow
    def test_pipelined_requests_do_not_accumulate_in_memory(self, target: ServerProcess) -> None:
        before = memory(target)
        count = 20_000
        with connection(target) as opened:
            sender = threading.Thread(
                target=opened.sendall, args=(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * count,)
            )
            sender.start()
            answered = 0
            with opened.makefile("rb") as stream:
                while answered < count:
                    answered += b"HTTP/1.1 200 " in stream.readline()
            sender.join()
        assert memory(target) - before < 30 << 20
        check_healthy(target)

    def test_pipelined_requests_are_answered_in_order(self, target: ServerProcess) -> None:
        codes = pipelined(target, ["GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"] * 500)
        assert codes == [200] * 500

    def test_endless_trailers_are_refused(self, target: ServerProcess) -> None:
        before = memory(target)
        head = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        with connection(target) as opened, suppress(OSError):
            opened.sendall(head)
            for _ in range(100):
                opened.sendall(b"a:b\r\n" * 20_000)
        assert memory(target) - before < 50 << 20
        check_healthy(target)

    @pytest.mark.parametrize("head", [b"X-Long: " + b"x" * 1_000_000, b"X-Many: 1\r\n" * 100_000], ids=["long", "many"])
    def test_an_endless_head_is_refused(self, target: ServerProcess, head: bytes) -> None:
        answer = raw(target, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + head)
        assert answer.startswith(b"HTTP/1.1 431 ") or answer == b""
        check_healthy(target)

    @pytest.mark.slow
    @pytest.mark.parametrize("announced", [True, False])
    def test_every_call_with_a_body_refuses_100_mb(self, target: ServerProcess, announced: bool) -> None:
        for path in ("/api/v1/generate", "/api/v1/status", "/api/v1/upload-reference"):
            headers = {"Content-Type": "multipart/form-data; boundary=x"}
            headers |= {"Content-Length": "100000000"} if announced else {}
            chunks = (b"x" * 1_000_000 for _ in range(100))
            with target.http() as http:
                problem(http.post(path, content=chunks, headers=headers), 413, "too_large")
        assert memory(target) < 400 << 20

    @pytest.mark.parametrize("body", [b"[" * 10_000, b'{"a":' * 10_000, b'{"prompt":' + b"[" * 100_000])
    def test_deeply_nested_json_is_refused(self, target: ServerProcess, body: bytes) -> None:
        with target.http() as http:
            for path in ("/api/v1/generate", "/api/v1/status"):
                problem(http.post(path, content=body), 400, "invalid_request")


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "/outputs/%2e%2e/ledger.sqlite3?session_id=%2e%2e",
            "/outputs/../ledger.sqlite3?session_id=..",
            "/outputs/..%2f..%2fledger.sqlite3?session_id=..%2f..",
            "/outputs/sid/..\\..\\ledger.sqlite3?session_id=sid",
            "/outputs/sid/%00.png?session_id=sid",
            "/outputs/sid/a%0d%0aSet-Cookie:x?session_id=sid",
            "/outputs//etc/passwd?session_id=/etc",
            "/outputs/%2fetc/passwd?session_id=%2fetc",
            "/outputs/sid/" + "x" * 60_000 + "?session_id=sid",
            "//evil.example/outputs/x/y",
            "/outputs/sid/CON?session_id=sid",
            "/api/v1/status/../../outputs/x/y",
            "/api/v1/status/%00",
            "/api/v1/status/" + "x" * 60_000,
            "/api//v1//status//x",
            "/%ff%fe",
            "/api/v1/jobs?limit=%00&state=%ff",
        ],
    )
    def test_malicious_paths_disclose_nothing(self, target: ServerProcess, path: str) -> None:
        lines = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {target.key}\r\nConnection: close\r\n\r\n"
        )
        answer = raw(target, lines.encode("latin-1"))
        status = int(answer.split()[1])
        assert status in (400, 403, 404), answer[:300]
        for leaked in (b"SQLite", b"root:", b"Traceback", b"Set-Cookie:x\r\n", str(target.state).encode()):
            assert leaked not in answer

    @pytest.mark.parametrize(
        "request_line",
        [
            b"GET http://evil.example/healthz HTTP/1.1\r\nHost: evil.example",
            b"GET http://evil.example/api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example",
            b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost",
            b"OPTIONS * HTTP/1.1\r\nHost: localhost",
            b"GET /healthz HTTP/9.9\r\nHost: localhost",
            b"G\0T /healthz HTTP/1.1\r\nHost: localhost",
            b"GET /health\0z HTTP/1.1\r\nHost: localhost",
            b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
            b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5",
            b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6",
            b"POST /api/v1/generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz",
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nBad Header: x",
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\0b",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
            b"PRI * HTTP/2.0",
        ],
    )
    def test_malformed_requests_are_refused(self, target: ServerProcess, request_line: bytes) -> None:
        answer = raw(target, request_line + b"\r\nConnection: close\r\n\r\n")
        assert answer == b"" or answer.split()[1][:1] == b"4", answer[:200]
        assert b"Traceback" not in answer
        check_healthy(target)

    def test_an_absolute_target_with_the_own_host_is_accepted(self, target: ServerProcess) -> None:
        answer = raw(target, b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")


class TestGuessing:
    def test_guessing_image_names_is_throttled(self, state: Path) -> None:
        with server(state, "--missed-outputs", "50") as running, running.http() as http:
            done = finish(http, submit(http))
            url = urlsplit(done["image_url"])
            folder, name = url.path.rsplit("/", 1)
            random_part = name.rsplit("_", 1)[1].removesuffix(".png")
            assert len(bytes.fromhex(random_part)) >= 16, "128 random bits"
            near = f"{folder}/{name.removesuffix('.png')[:-5]}"
            paths = [f"{near}{number:05x}.png?{url.query}" for number in range(2000)]
            paths.append(done["image_url"])  # at once, since the limit allows one more guess every second or so
            codes = pipelined(running, [f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n" for path in paths])
            assert set(codes) <= {404, 429}
            assert codes.count(404) < 100, "after the limit, no name is looked up"
            assert codes[-1] == 429, "also for a correct URL"
            assert http.get(done["image_url"]).status_code == 200, "a request with a key is not throttled"

    def test_job_ids_have_128_random_bits(self, target: ServerProcess) -> None:
        with target.http() as http:
            names = {submit(http) for _ in range(3)}
            for name in names:
                assert len(bytes.fromhex(name.removeprefix("ext_"))) == 16
                finish(http, name)


class TestHeavyCalls:
    @pytest.mark.slow
    def test_large_batch_calls_do_not_delay_other_calls(self, state: Path) -> None:
        with server(state, "--rate", "0") as running, running.http() as http:
            names = [submit(http) for _ in range(300)]
            body = json.dumps({"job_ids": names}).encode()
            head = f"POST /api/v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {running.key}\r\n"
            request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
            with ExitStack() as opened:
                heavy = [opened.enter_context(connection(running)) for _ in range(120)]
                light = opened.enter_context(connection(running))
                for caller in heavy:
                    caller.sendall(request)
                light.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert light.recv(1000).startswith(b"HTTP/1.1 200 ")
                answered = select.select(heavy, [], [], 0)[0]
                assert len(answered) < len(heavy), "the light call was answered after all heavy ones"

    def test_a_large_response_counts_as_several_requests(self, state: Path) -> None:
        with server(state, "--rate", "300") as running, running.http() as http:
            for _ in range(101):
                submit(http)
            left = lambda answer: int(answer.headers["ratelimit"].split("r=")[1].split(";")[0])  # noqa: E731
            before = left(http.post("/api/v1/generate", json={"prompt": "a boat"} | SMALL))
            for _ in range(10):
                http.get("/api/v1/jobs?limit=100").raise_for_status()
            after = left(http.post("/api/v1/generate", json={"prompt": "a boat"} | SMALL))
        assert before - after > 11, "1 for the submit, 1 for each call, and 2 for the hundred jobs of each"

    def test_the_limit_of_waiting_calls_of_a_key(self, state: Path) -> None:
        with (
            server(state, "--held", "2", "--step-delay", "1") as running,
            running.http() as http,
            ExitStack() as connections,
        ):
            job_id = submit(http, steps=50)
            for _ in range(2):
                connections.enter_context(http.stream("GET", f"/api/v1/events/{job_id}"))
            problem(http.get(f"/api/v1/events/{job_id}"), 429, "rate_limited")
            answer = http.get(f"/api/v1/status/{job_id}", headers={"Prefer": "wait=60"})
            assert answer.status_code == 200
            assert "preference-applied" not in answer.headers, "the response says that it did not wait"
            many = http.post(
                "/api/v1/status", json={"job_ids": [job_id], "since": "999"}, headers={"Prefer": "wait=60"}
            )
            assert "preference-applied" not in many.headers
            http.post(f"/api/v1/cancel/{job_id}")

    @pytest.mark.parametrize("limit", ["0000010000", "0000011111111111111111111111111", "1e3", "٣", "-1", "201", "0"])
    def test_an_invalid_page_limit_is_refused(self, target: ServerProcess, limit: str) -> None:
        with target.http() as http:
            problem(http.get(f"/api/v1/jobs?limit={limit}"), 400, "invalid_request")

    @pytest.mark.parametrize("range_", ["bytes=0-" + "9" * 5000, "bytes=-" + "9" * 5000, "bytes=" + "9" * 5000 + "-"])
    def test_a_range_of_five_thousand_digits_is_ignored(self, target: ServerProcess, range_: str) -> None:
        with target.http() as http:
            done = finish(http, submit(http))
            assert http.get(done["image_url"], headers={"Range": range_}).status_code == 200

    def test_the_limit_of_concurrent_uploads_of_a_key(self, state: Path, tmp_path: Path) -> None:
        with server(state) as running, ExitStack() as connections:
            head = (
                f"POST /api/v1/upload-reference HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {running.key}\r\n"
            )
            head += "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000\r\n\r\n--x"
            for _ in range(2):  # two uploads that do not end
                connections.enter_context(connection(running)).sendall(head.encode())
            with running.http() as http:
                refused = until(lambda: (answer := upload_nothing(http)).status_code == 429 and answer)
                problem(refused, 429, "rate_limited")
                other = json.loads(cli("keys", "create", "--state", str(state), "--json").stdout)["key"]
            with running.http(Authorization=f"Bearer {other}") as http:
                problem(upload_nothing(http), 415, "unsupported_media_type")


def upload_nothing(http: httpx2.Client) -> httpx2.Response:
    return http.post("/api/v1/upload-reference", files={"file": b"nothing"})


class TestLoad:
    @pytest.mark.slow
    def test_range_requests_share_the_image_in_memory(self, state: Path) -> None:
        with server(state) as running, running.http() as http, ExitStack() as connections:
            done = finish(http, submit(http, width=2048, height=2048))
            before = memory(running)
            request = f"GET {done['image_url']} HTTP/1.1\r\nHost: localhost\r\nRange: bytes=1-\r\n\r\n".encode()
            size = done["results"]["images"][0]["bytes"]
            for _ in range(60):
                connections.enter_context(connection(running)).sendall(request)
            assert http.get(done["image_url"]).status_code == 200
            assert memory(running) - before < 10 * size

    def test_clients_that_do_not_read_share_the_image_in_memory(self, state: Path) -> None:
        with server(state) as running, running.http() as http, ExitStack() as connections:
            done = finish(http, submit(http, width=1024, height=1024))
            before = memory(running)
            request = f"GET {done['image_url']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            for _ in range(300):
                connections.enter_context(connection(running)).sendall(request * 3)
            assert http.get(done["image_url"]).status_code == 200
            assert memory(running) - before < 200 << 20, "the responses share the image's bytes"

    def test_concurrent_invalid_requests(self, target: ServerProcess) -> None:
        kinds = [
            b"\0" * 100,
            b"GET / HTTP/1.1\r\n\r\n",
            b"POST /api/v1/generate HTTP/1.1\r\nContent-Length: 9\r\n\r\n{}",
        ]

        def send_all(seed: int) -> None:
            for number in range(30):
                with suppress(OSError), connection(target) as opened:
                    opened.sendall(kinds[(seed + number) % 3])

        threads = [threading.Thread(target=send_all, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with target.http() as http:
            assert finish(http, submit(http, **SMALL))["state"] == "completed"


def memory(running: ServerProcess) -> int:
    """Return the private memory of the server's process in bytes."""
    text = Path(f"/proc/{running.process.pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(("Private", "Swap:")))


def pipelined(running: ServerProcess, requests: list[str]) -> list[int]:
    """Send many requests on one connection; return the status of each response."""
    codes: list[int] = []
    with connection(running) as opened, opened.makefile("rb") as stream:
        for start in range(0, len(requests), 50):
            part = requests[start : start + 50]
            opened.sendall("".join(part).encode())
            for _ in part:
                codes.append(int(stream.readline().split()[1]))
                length = 0
                while line := stream.readline().strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                stream.read(length)
    return codes
