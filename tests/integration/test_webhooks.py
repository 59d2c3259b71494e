"""The webhooks of a running server: deliveries, retries, and URLs that are refused."""

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx2
import pytest

from receiver import Receiver, receiver, status
from support import SMALL, ServerProcess, cli, finish, problem, server, submit, until

NAMES = """
import socket
_resolve = socket.getaddrinfo
_names = {
    "loopback.test": ["127.0.0.1"],
    "private.test": ["10.0.0.7"],
    "metadata.test": ["169.254.169.254"],
    "mixed.test": ["127.0.0.1", "93.184.215.14"],
    "mapped.test": ["::ffff:127.0.0.1"],
    "local-six.test": ["fd00::7"],
    "zone.test": ["fe80::1%1"],
}
def _answer(host, *args, **kwargs):
    if str(host).endswith(".test"):
        if host not in _names:
            raise socket.gaierror(-2, "Name or service not known")
        return [(2, 1, 6, "", (address, 0)) for address in _names[host]]
    return _resolve(host, *args, **kwargs)
socket.getaddrinfo = _answer
"""
"""Replaces the resolver by that of an attacker; the server's interpreter loads this code at its start."""


@pytest.fixture(scope="module")
def allowing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that may send webhooks to this machine; its environment has a proxy that it must not use."""
    proxy = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
    allow = ("--webhook-allow", "localhost, 127.0.0.0/8")
    with server(tmp_path_factory.mktemp("allowing") / "state", *allow, **proxy) as running:
        yield running


@pytest.fixture
def http(allowing: ServerProcess) -> Iterator[httpx2.Client]:
    with allowing.http() as client:
        yield client


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with default settings, and the attacker's resolver."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "sitecustomize.py").write_text(NAMES)
    with server(folder / "state", PYTHONPATH=str(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def trap() -> Iterator[Receiver]:
    with receiver() as trap:
        yield trap
        assert trap.requests == [], "a webhook was sent to a refused address"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def create_key(running: ServerProcess) -> dict[str, str]:
    made: dict[str, str] = json.loads(cli("keys", "create", "--state", str(running.state), "--json").stdout)
    return made


def webhook_of(http: httpx2.Client, job_id: str) -> dict[str, Any] | None:
    jobs = http.get("/api/v1/jobs?limit=200").json()["jobs"]
    webhook: dict[str, Any] | None = next(job for job in jobs if job["job_id"] == job_id)["webhook"]
    return webhook


def wait_for_webhook(http: httpx2.Client, job_id: str, state: str, attempts: int) -> dict[str, Any]:
    """Wait until the job's webhook is in this state after this number of attempts, and return it."""

    def find() -> dict[str, Any] | None:
        webhook = webhook_of(http, job_id)
        found = webhook is not None and (webhook["state"], webhook["attempts"]) == (state, attempts)
        return webhook if found else None

    found: dict[str, Any] = until(find)
    return found


class TestDelivery:
    def test_a_message_is_delivered_and_its_signature_verified(self, allowing: ServerProcess) -> None:
        key = create_key(allowing)
        with receiver() as inbox, allowing.http(Authorization=f"Bearer {key['key']}") as http:
            job_id = submit(http, webhook_url=inbox.url("/hook?of=mine"))
            job = finish(http, job_id)
            (request,) = until(lambda: inbox.requests)
            message = request.verified(key["webhook_secret"])
            assert message == {"type": "job.completed", "timestamp": message["timestamp"], "data": job}
            assert str(message["timestamp"]).endswith("Z")
            assert (request.path, request.headers["host"]) == ("/hook?of=mine", f"127.0.0.1:{inbox.port}")
            assert request.headers["content-type"] == "application/json"
            assert request.headers["webhook-id"].startswith("msg_")
            assert key["key"].encode() not in request.body + repr(request.headers).encode()
            delivered = {"state": "delivered", "attempts": 1, "last_error": None, "next_at": None}
            assert wait_for_webhook(http, job_id, "delivered", 1) == delivered
            listed = cli("jobs", UMRGEN_BASE_URL=allowing.url, UMRGEN_API_KEY=key["key"]).stdout
            assert "[webhook delivered]" in listed
            listed = cli("jobs", "--json", UMRGEN_BASE_URL=allowing.url, UMRGEN_API_KEY=key["key"]).stdout
            assert json.loads(listed)["jobs"][0]["webhook"] == delivered
        assert len(inbox.requests) == 1

    def test_the_end_of_a_failed_job_is_sent_too(self, http: httpx2.Client) -> None:
        with receiver() as inbox:
            job_id = submit(http, webhook_url=inbox.url(host="localhost"), steps=50, width=2048, height=2048)
            assert webhook_of(http, job_id) is None, "the webhook is created at the end of the job"
            http.post(f"/api/v1/cancel/{job_id}")
            (request,) = until(lambda: inbox.requests)
            message = json.loads(request.body)
            assert (message["type"], message["data"]["error_code"]) == ("job.failed", "cancelled")
            assert request.headers["host"] == f"localhost:{inbox.port}"

    @pytest.mark.slow
    def test_a_refused_message_is_sent_again_with_the_same_id(self, allowing: ServerProcess) -> None:
        key = create_key(allowing)
        with (
            receiver(status(500), status(204)) as inbox,
            allowing.http(Authorization=f"Bearer {key['key']}") as http,
        ):
            sent_at = time.time() * 1000
            job_id = submit(http, webhook_url=inbox.url())
            waiting = wait_for_webhook(http, job_id, "pending", 1)
            assert waiting["last_error"] == "the receiver responded 500"
            assert sent_at + 1000 < waiting["next_at"] <= time.time() * 1000 + 6500, "a retry after some 5 s"
            listed = cli("jobs", UMRGEN_BASE_URL=allowing.url, UMRGEN_API_KEY=key["key"]).stdout
            assert "[webhook pending after 1, next " in listed
            wait_for_webhook(http, job_id, "delivered", 2)
            first, second = inbox.requests
            assert first.body == second.body
            assert first.headers["webhook-id"] == second.headers["webhook-id"]
            assert first.headers["webhook-timestamp"] < second.headers["webhook-timestamp"]
            second.verified(key["webhook_secret"])

    def test_a_410_response_ends_the_retries(self, http: httpx2.Client) -> None:
        with receiver(status(410)) as inbox:
            failed = wait_for_webhook(http, submit(http, webhook_url=inbox.url()), "failed", 1)
            assert "410" in failed["last_error"]

    def test_a_message_is_delivered_after_kill_9_between_the_jobs_end_and_its_delivery(self, state: Path) -> None:
        released = threading.Event()

        def delay(handler: BaseHTTPRequestHandler) -> None:
            released.wait(30)

        with receiver(delay, status(204)) as inbox:
            first = ServerProcess(state, "--webhook-allow", "127.0.0.1").start()
            with first.http() as http:
                job = finish(http, submit(http, webhook_url=inbox.url()))
                until(lambda: inbox.requests)
            first.kill()
            released.set()
            with server(state, "--webhook-allow", "127.0.0.1") as second:
                second.key = first.key
                with second.http() as http:
                    wait_for_webhook(http, job["job_id"], "delivered", 1)
            lost, arrived = inbox.requests
            assert (lost.body, lost.headers["webhook-id"]) == (arrived.body, arrived.headers["webhook-id"])

    @pytest.mark.slow
    def test_no_message_is_lost_when_the_server_is_killed_repeatedly_during_deliveries(self, state: Path) -> None:
        with receiver() as inbox:
            running = ServerProcess(state, "--webhook-allow", "127.0.0.1").start()
            with running.http() as http:
                jobs = [submit(http, webhook_url=inbox.url()) for _ in range(12)]
            for _ in range(4):
                seen = len(inbox.requests)
                until(lambda seen=seen: len(inbox.requests) > seen or seen >= len(jobs))
                running.kill_group()
                running.launch()
            with running.http() as http:
                for job_id in jobs:
                    until(lambda job_id=job_id: (webhook_of(http, job_id) or {}).get("state") == "delivered")
            assert running.stop() == 0
        received = [(json.loads(item.body)["data"]["job_id"], item.headers["webhook-id"]) for item in inbox.requests]
        assert {job_id for job_id, _ in received} == set(jobs)
        assert len(set(received)) == len(jobs), "a repeated message has the same id"

    @pytest.mark.slow
    def test_a_stopping_server_does_not_wait_for_a_receiver(self, state: Path) -> None:
        released = threading.Event()
        with receiver(lambda handler: released.wait() and None) as inbox:
            running = ServerProcess(state, "--webhook-allow", "127.0.0.1", "--drain", "0.2").start()
            with running.http() as http:
                submit(http, webhook_url=inbox.url())
                until(lambda: inbox.requests)
            try:
                assert running.stop() == 0, "the receiver responds only after the server has stopped"
            finally:
                released.set()
        assert "Traceback" not in running.log()


class TestHostileReceivers:
    def test_an_endless_body_is_not_read_to_its_end(self, http: httpx2.Client) -> None:
        written = 0

        def flood(handler: BaseHTTPRequestHandler) -> None:
            nonlocal written
            handler.send_response(200)
            handler.end_headers()
            while written < 1 << 30:
                handler.wfile.write(bytes(1 << 16))
                written += 1 << 16

        with receiver(flood) as inbox:
            job_id = submit(http, webhook_url=inbox.url())
            wait_for_webhook(http, job_id, "delivered", 1)
            until(lambda: inbox.pending == 0)
        assert written < 64 << 20, "the server read more than the buffers of the connection"

    def test_endless_headers_are_a_failed_attempt(self, http: httpx2.Client) -> None:
        def flood(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for number in range(1 << 20):
                handler.wfile.write(b"x-%d: %b\r\n" % (number, b"y" * 1000))

        with receiver(flood) as inbox:
            failed = wait_for_webhook(http, submit(http, webhook_url=inbox.url()), "pending", 1)
            assert failed["last_error"] == "the receiver did not respond in HTTP, or closed the connection first"

    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    def test_a_redirect_is_not_followed(self, http: httpx2.Client, code: int) -> None:
        with receiver() as trap, receiver(status(code, Location=trap.url("/trap"))) as inbox:
            waiting = wait_for_webhook(http, submit(http, webhook_url=inbox.url()), "pending", 1)
            assert waiting["last_error"] == (
                f"the receiver responded {code}, a redirect, and redirects are not followed"
            )
        assert (len(inbox.requests), trap.requests) == (1, [])

    def test_a_slow_receiver_does_not_delay_messages_to_other_hosts(self, http: httpx2.Client) -> None:
        released = threading.Event()
        with receiver(lambda handler: released.wait(30) and None) as slow, receiver() as quick:
            jobs = [submit(http, webhook_url=slow.url()) for _ in range(4)]
            for job_id in jobs:
                assert finish(http, job_id)["state"] == "completed"
            until(lambda: slow.pending == 2)
            wait_for_webhook(http, submit(http, webhook_url=quick.url(host="localhost")), "delivered", 1)
            assert (slow.most_pending, len(slow.requests)) == (2, 2), "at most two concurrent messages to one host"
            released.set()


class TestRefusedURLs:
    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1:{port}/",
            "http://localhost:{port}/",
            "http://LOCALHOST.:{port}/",
            "http://x.localhost:{port}/",
            "http://127.1:{port}/",
            "http://2130706433:{port}/",
            "http://0x7f000001:{port}/",
            "http://0177.0.0.1:{port}/",
            "http://0.0.0.0:{port}/",
            "http://[::1]:{port}/",
            "http://[::]:{port}/",
            "http://[::ffff:127.0.0.1]:{port}/",
            "http://[64:ff9b::7f00:1]:{port}/",
            "http://[2002:7f00:1::]:{port}/",
            "http://10.0.0.1/",
            "http://172.16.0.1/",
            "http://192.168.1.1/",
            "http://100.64.0.1/",
            "http://169.254.169.254/latest/meta-data/",
            "http://[fd00:ec2::254]/latest/meta-data/",
            "http://[fe80::1]/",
            "http://224.0.0.1/",
            "http://user:word@example.com/",
            "http://example.com@127.0.0.1:{port}/",
            "http://127.0.0.1:{port}\\@example.com/",
            "http://example.com/#fragment",
            "http://example.com:22/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "//example.com/",
            "example.com",
            "http://",
            "",
        ],
    )
    def test_a_submit_with_such_a_url_is_refused(self, strict: ServerProcess, trap: Receiver, url: str) -> None:
        body = {"prompt": "a boat", "webhook_url": url.format(port=trap.port)} | SMALL
        with strict.http() as http:
            error = problem(http.post("/api/v1/generate", json=body), 400, "invalid_request")
            assert error["field"] == "webhook_url"
            assert http.get("/api/v1/jobs").json()["jobs"] == []

    def test_a_name_that_resolves_to_a_private_address_is_refused(self, strict: ServerProcess, trap: Receiver) -> None:
        names = ("loopback", "private", "metadata", "mixed", "mapped", "local-six", "zone")
        hosts = [f"{name}.test" for name in names] + _names_of_this_machine()
        with strict.http() as http:
            jobs = {host: submit(http, webhook_url=trap.url(host=host)) for host in hosts}
            for host, job_id in jobs.items():
                failed = wait_for_webhook(http, job_id, "failed", 1)
                assert failed["last_error"] == "the receiver's name resolves to an address that is not public", host
                assert finish(http, job_id)["state"] == "completed", "a failed webhook does not fail its job"

    def test_a_name_that_cannot_be_resolved_is_retried(self, strict: ServerProcess, trap: Receiver) -> None:
        with strict.http() as http:
            waiting = wait_for_webhook(http, submit(http, webhook_url=trap.url(host="nowhere.test")), "pending", 1)
            assert waiting["last_error"] == "the receiver's name cannot be resolved"

    @pytest.mark.slow
    def test_a_due_message_to_an_address_that_is_no_longer_allowed_is_not_sent(self, state: Path) -> None:
        with receiver(status(500)) as inbox:
            first = ServerProcess(state, "--webhook-allow", "127.0.0.1").start()
            with first.http() as http:
                job_id = submit(http, webhook_url=inbox.url())
                wait_for_webhook(http, job_id, "pending", 1)
            first.stop()
            with server(state) as second:
                second.key = first.key
                with second.http() as http:
                    failed = wait_for_webhook(http, job_id, "failed", 2)
                    assert failed["last_error"] == "the URL must lead to a public address"
            assert len(inbox.requests) == 1

    def test_an_invalid_entry_of_webhook_allow_is_an_error_at_the_start(self, state: Path) -> None:
        refused = cli("serve", "--port", "0", "--state", str(state), "--webhook-allow", "10.0.0.0/8, not a name")
        assert refused.returncode == 1
        assert "'not a name'" in refused.stderr


def _names_of_this_machine() -> list[str]:
    """Return up to two names of this machine in /etc/hosts, without localhost."""
    found = []
    for line in Path("/etc/hosts").read_text().splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if address.startswith("127."):
            found += [name for name in names if "localhost" not in name]
    return found[:2]


@pytest.mark.slow
def test_a_certificate_of_another_name_is_refused(state: Path, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with (
        receiver(tls=context) as inbox,
        server(state, "--webhook-allow", "127.0.0.1", SSL_CERT_FILE=str(certificate[0])) as running,
        running.http() as http,
    ):
        good, bad = (f"https://{host}:{inbox.port}/" for host in ("localhost", "127.0.0.1"))
        wait_for_webhook(http, submit(http, webhook_url=good), "delivered", 1)
        waiting = wait_for_webhook(http, submit(http, webhook_url=bad), "pending", 1)
        assert "certificate is not accepted" in waiting["last_error"]
        assert len(inbox.requests) == 1


@pytest.mark.slow
def test_the_cli_option_webhook_registers_a_url(allowing: ServerProcess, tmp_path: Path) -> None:
    environment = {"UMRGEN_BASE_URL": allowing.url, "UMRGEN_API_KEY": allowing.key}
    small = ("--width", "512", "--height", "512", "--steps", "1")
    with receiver() as inbox:
        made = cli("submit", "a boat", *small, "--webhook", inbox.url("/one"), "--json", **environment)
        drawn = cli("generate", "a boat", *small, "--webhook", inbox.url("/two"), "-o", str(tmp_path), **environment)
        assert drawn.returncode == 0, drawn.stderr
        until(lambda: {request.path for request in inbox.requests} == {"/one", "/two"})
        first = next(request for request in inbox.requests if request.path == "/one")
        assert json.loads(first.body)["data"]["job_id"] == json.loads(made.stdout)["job_id"]
    embedded = cli("generate", "a boat", "--webhook", "https://example.com/", "-o", str(tmp_path))
    assert embedded.returncode == 1
    assert "UMRGEN_BASE_URL" in embedded.stderr


def test_the_webhook_secret_of_a_new_key_is_printed_on_stderr(allowing: ServerProcess) -> None:
    made = cli("keys", "create", "--state", str(allowing.state))
    assert made.stdout.strip().startswith("umr_"), "stdout has only the key"
    assert "whsec_" in made.stderr
    assert "whsec_" not in cli("keys", "list", "--state", str(allowing.state), "--json").stdout
