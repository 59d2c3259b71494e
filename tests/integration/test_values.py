"""Requests as programs in other languages write them."""

import json
import socket
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import SMALL, ServerProcess, finish, server, submit, until
from umrgen.server.domain.request import has_visible_character
from umrgen.server.png import encode_png

PNG = encode_png(np.zeros((32, 32, 3), np.uint8))
UPLOAD = "/api/v1/upload-reference"
OPTIONAL = ("negative", "width", "height", "steps", "seed", "loras", "reference_images", "priority", "webhook_url")


def accepted(http: httpx2.Client, body: bytes | dict[str, Any]) -> dict[str, Any]:
    """Submit a body; return the request of the job as the server stored it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = http.post("/api/v1/generate", content=content)
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["job_id"]
    http.post(f"/api/v1/cancel/{job_id}")
    listed = http.get("/api/v1/jobs", params={"limit": 200}).json()["jobs"]
    (request,) = [job["request"] for job in listed if job["job_id"] == job_id]
    return dict(request)


def test_a_body_has_a_bounded_number_of_values(shared_server: ServerProcess) -> None:
    commas = "a" + 1999 * ","
    with shared_server.http() as http:
        given = {"prompt": commas, "negative": commas, **SMALL}
        assert accepted(http, given)["prompt"] == commas
        assert accepted(http, json.dumps(given | {"more": [0] * 3900}).encode())["negative"] == commas
        for more in ([0] * 8000, [{}] * 4001, [[]] * 4001):
            body = json.dumps({"prompt": "a boat", "more": more}).encode()
            for path in ("/api/v1/generate", "/api/v1/status", "/v1/images/generations"):
                answer = http.post(path, content=body)
                assert (answer.status_code, "8,000 commas" in answer.text) == (400, True), path


def refused(http: httpx2.Client, body: bytes) -> dict[str, Any]:
    answer = http.post("/api/v1/generate", content=body)
    assert answer.status_code == 400, answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == "invalid_request"
    return problem


class TestJson:
    @pytest.mark.parametrize("name", OPTIONAL)
    def test_null_means_not_given(self, http: httpx2.Client, name: str) -> None:
        plain = accepted(http, {"prompt": "a boat", "seed": 1, **SMALL})
        expected = {**plain, name: {"seed": -1, "width": 1024, "height": 1024, "steps": 4}.get(name, plain.get(name))}
        with_null = accepted(http, {"prompt": "a boat", "seed": 1, **SMALL, name: None})
        if name == "seed":
            assert isinstance(with_null.pop("seed"), int)
            expected.pop("seed")
        assert with_null == expected

    def test_null_for_a_required_field_is_a_missing_one(self, http: httpx2.Client) -> None:
        assert refused(http, b'{"prompt": null}')["error"].startswith("prompt is required")

    @pytest.mark.parametrize(("text", "value"), [("1024.0", 1024), ("1e3", 1000), ("5.12e2", 512)])
    def test_a_number_without_a_fraction_is_an_integer(self, http: httpx2.Client, text: str, value: int) -> None:
        body = b'{"prompt": "a boat", "height": 512, "width": %b}' % text.encode()
        assert accepted(http, body)["width"] == value

    @pytest.mark.parametrize("text", ["1024.5", '"1024"', "true", "[1024]", "NaN", "1e999", "-Infinity"])
    def test_other_values_are_refused(self, http: httpx2.Client, text: str) -> None:
        refused(http, b'{"prompt": "a boat", "width": %b}' % text.encode())

    def test_a_byte_order_mark_is_skipped(self, http: httpx2.Client) -> None:
        assert accepted(http, b'\xef\xbb\xbf{"prompt": "a boat"}')["prompt"] == "a boat"
        refused(http, b'\xef\xbb\xbf\xef\xbb\xbf{"prompt": "a boat"}')

    @pytest.mark.parametrize(
        "prompt", ["\ufeff", "\u200b\u200d", "\u0301", "\u00a0\u2003", "\u2028\t", "\x00\x07", "\u3164", "\u2800"]
    )
    def test_a_prompt_without_a_visible_character_is_refused(self, http: httpx2.Client, prompt: str) -> None:
        assert "visible" in refused(http, json.dumps({"prompt": prompt}).encode())["error"]

    @pytest.mark.parametrize("prompt", ["\ufeffa", "é", "舟", "🛶", "a\u0301", "\u200f\u05d0"])
    def test_a_prompt_in_any_script_is_accepted(self, http: httpx2.Client, prompt: str) -> None:
        assert accepted(http, {"prompt": prompt, **SMALL})["prompt"] == prompt

    @given(st.text())
    @settings(max_examples=300)
    def test_text_with_a_letter_or_digit_of_ascii_is_visible(self, text: str) -> None:
        assert has_visible_character(f"{text}a")
        assert not has_visible_character("".join(char for char in text if not char.isprintable()))

    def test_an_error_names_each_field_and_the_refused_value(self, http: httpx2.Client) -> None:
        problem = refused(http, b'{"prompt": "a boat", "width": 100, "steps": 0}')
        assert problem["error"] == "width must be 512 to 2048; got 100; steps must be 1 to 50; got 0"

    def test_equal_requests_in_other_spellings_share_an_idempotency_key(self, http: httpx2.Client) -> None:
        headers = {"Idempotency-Key": "spelling"}
        bodies = (b'{"prompt": "a boat", "width": 512}', b'{"width": 512.0, "prompt": "a boat", "negative": null}')
        jobs = {http.post("/api/v1/generate", content=body, headers=headers).json()["job_id"] for body in bodies}
        assert len(jobs) == 1


class TestMultipart:
    def form(self, *parts: bytes) -> tuple[bytes, dict[str, str]]:
        body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"
        return body, {"Content-Type": "multipart/form-data; boundary=b"}

    @pytest.mark.parametrize(
        "head",
        [
            b'Content-Disposition: form-data; name="file"\r\n\r\n',
            b"Content-Disposition: form-data; name=file\r\n\r\n",
            b'content-disposition: form-data; name="file"; filename=""\r\n\r\n',
            b"Content-Disposition: form-data; name=\"file\"; filename*=UTF-8''b%C3%B8t.gif\r\n\r\n",
            b'Content-Type: text/plain\r\nContent-Disposition: form-data; name="file"; filename="x.txt"\r\n\r\n',
        ],
    )
    def test_a_file_is_found_by_its_field(self, http: httpx2.Client, head: bytes) -> None:
        body, headers = self.form(b'Content-Disposition: form-data; name="other"\r\n\r\nx', head + PNG)
        answer = http.post(UPLOAD, content=b"a preamble\r\n" + body, headers=headers)
        assert answer.status_code == 200, answer.text
        http.delete(f"{UPLOAD}/{answer.json()['filename']}")

    def test_a_quoted_boundary(self, http: httpx2.Client) -> None:
        body, _ = self.form(b'Content-Disposition: form-data; name="file"\r\n\r\n' + PNG)
        answer = http.post(UPLOAD, content=body, headers={"Content-Type": 'multipart/form-data; boundary="b"'})
        assert answer.status_code == 200
        http.delete(f"{UPLOAD}/{answer.json()['filename']}")

    def test_a_form_of_many_parts_is_refused_before_it_is_parsed(self, http: httpx2.Client) -> None:
        part = b'Content-Disposition: form-data; name="a"\r\n\r\n'
        body, headers = self.form(*[part] * 50_000)
        answer = http.post(UPLOAD, content=body, headers=headers)
        assert answer.status_code == 400
        assert "parts or fewer" in answer.json()["error"]


class TestMethods:
    def test_head_is_answered_where_get_is(self, shared_server: ServerProcess, http: httpx2.Client) -> None:
        job = finish(http, submit(http))
        paths = [
            *("/", "/guide.md", "/llms.txt", "/healthz", "/readyz", "/metrics", "/openapi.json"),
            *("/api/v1/jobs", "/api/v1/capabilities", UPLOAD, "/v1/models", job["image_url"]),
            *(f"/api/v1/status/{job['job_id']}", f"/api/v1/events/{job['job_id']}"),
        ]
        for path in paths:
            got, head = http.get(path), http.head(path)
            assert head.status_code == got.status_code == 200, path
            assert head.content == b"", path
            assert head.headers["content-type"] == got.headers["content-type"], path

    @pytest.mark.parametrize(
        ("path", "allowed"),
        [
            ("/api/v1/generate", {"POST"}),
            ("/api/v1/status", {"POST"}),
            ("/api/v1/status/ext_1", {"GET", "HEAD"}),
            ("/api/v1/events/ext_1", {"GET", "HEAD"}),
            ("/api/v1/cancel/ext_1", {"POST"}),
            ("/api/v1/jobs", {"GET", "HEAD"}),
            (UPLOAD, {"GET", "HEAD", "POST"}),
            (f"{UPLOAD}/ref_1.png", {"DELETE"}),
            ("/api/v1/capabilities", {"GET", "HEAD"}),
            ("/outputs/sid_1/a.png", {"GET", "HEAD"}),
            ("/v1/models", {"GET", "HEAD"}),
            ("/v1/images/generations", {"POST"}),
            ("/healthz", {"GET", "HEAD"}),
            ("/guide.md", {"GET", "HEAD"}),
        ],
    )
    def test_a_wrong_method_names_the_right_ones(self, http: httpx2.Client, path: str, allowed: set[str]) -> None:
        for method in ("PUT", "PATCH"):
            answer = http.request(method, path)
            assert answer.status_code == 405, answer.text
            assert set(answer.headers["allow"].replace(" ", "").split(",")) == allowed

    def test_an_unknown_path_is_not_found(self, http: httpx2.Client) -> None:
        for method in ("GET", "PUT", "POST"):
            assert http.request(method, "/api/v1/nothing").status_code == 404


class TestStatusErrors:
    """A loop written from the guide stops at `failed`, and polls on otherwise."""

    @pytest.mark.parametrize(
        ("headers", "status", "state"),
        [
            ({"Authorization": "Bearer umr_wrong"}, 401, "failed"),
            ({"Authorization": ""}, 401, "failed"),
            ({"Host": "attacker.example"}, 421, "failed"),
            ({}, 404, "failed"),
        ],
    )
    def test_an_error_has_a_state(self, http: httpx2.Client, headers: dict[str, str], status: int, state: str) -> None:
        for path in ("/api/v1/status/ext_none", "/api/v1/status/", "/api/v1/status/a/b"):
            answer = http.get(path, headers=headers)
            assert (answer.status_code, answer.json()["state"]) == (status, state)
            assert answer.json()["success"] is False

    def test_a_key_in_the_url(self, http: httpx2.Client) -> None:
        answer = http.get("/api/v1/status/ext_none?api_key=x")
        assert (answer.status_code, answer.json()["state"]) == (400, "failed")

    def test_other_calls_have_none(self, http: httpx2.Client) -> None:
        assert "state" not in http.post("/api/v1/cancel/ext_none").json()


def test_http_1_0(shared_server: ServerProcess) -> None:
    """Without a Host header; the connection is closed after the response."""
    port = int(shared_server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(
            b"GET /api/v1/jobs HTTP/1.0\r\nAuthorization: bearer %b\r\n\r\n" % shared_server.key.encode()
        )
        received = b""
        while part := connection.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0]
    assert json.loads(body)["success"] is True


def test_capabilities_have_the_present_load_and_the_engines_default_steps(state: Path) -> None:
    engine = ("--engine", "fake_engines:FakeEngine", "--drain", "0")
    with server(state, *engine, PYTHONPATH=str(Path(__file__).parents[1])) as running, running.http() as http:
        before = http.get("/api/v1/capabilities").json()
        assert (before["steps"]["default"], before["steps"]["of_models"]) == (6, {"slow": 9})
        assert (before["used_today"], before["queued"], before["accepts_jobs"]) == (0, 0, True)
        assert [accepted(http, {"prompt": "wait"} | model)["steps"] for model in ({}, {"model": "slow"})] == [6, 9]
        jobs = [http.post("/api/v1/generate", json={"prompt": "wait", "steps": 1}).json()["job_id"] for _ in range(3)]
        until(lambda: http.get(f"/api/v1/status/{jobs[0]}").json()["state"] == "running")
        after = http.get("/api/v1/capabilities").json()
        assert (after["used_today"], after["queued"]) == (5, 2)
        assert "(6)" in http.get("/guide.md").text or "| 6 |" in http.get("/guide.md").text
