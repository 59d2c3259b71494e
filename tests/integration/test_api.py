"""The API of a running server over HTTP: the responses of the contract, successes and errors."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from support import SMALL, ServerProcess, cli, finish, problem, submit, until

PROMPT = "a lighthouse"


class TestSubmitting:
    def test_a_submit_returns_a_receipt(self, http: httpx2.Client) -> None:
        answer = http.post("/api/v1/generate", json={"prompt": PROMPT} | SMALL)
        assert answer.status_code == 202
        receipt = answer.json()
        assert {"success", "job_id", "state", "message", "status_url", "retry_after_ms", "next"} <= set(receipt)
        assert receipt["success"] is True
        assert receipt["job_id"].startswith("ext_")
        assert answer.headers["location"] == receipt["status_url"] == f"/api/v1/status/{receipt['job_id']}"
        assert int(answer.headers["retry-after"]) > 0
        finish(http, receipt["job_id"])

    def test_an_unknown_field_is_ignored_with_a_warning(self, http: httpx2.Client) -> None:
        answer = http.post("/api/v1/generate", json={"prompt": PROMPT, "cfg_scale": 7} | SMALL)
        assert answer.status_code == 202
        assert "cfg_scale" in answer.json()["warnings"][0]
        finish(http, answer.json()["job_id"])

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "prompt"),
            ({"prompt": ""}, "prompt"),
            ({"prompt": "  \n "}, "prompt"),
            ({"prompt": "x" * 2001}, "prompt"),
            ({"prompt": 5}, "prompt"),
            ({"prompt": None}, "prompt"),
            ({"prompt": PROMPT, "negative": "x" * 2001}, "negative"),
            ({"prompt": PROMPT, "width": 100}, "width"),
            ({"prompt": PROMPT, "width": 5000}, "width"),
            ({"prompt": PROMPT, "width": "wide"}, "width"),
            ({"prompt": PROMPT, "height": 1024.5}, "height"),
            ({"prompt": PROMPT, "steps": -4}, "steps"),
            ({"prompt": PROMPT, "steps": 51}, "steps"),
            ({"prompt": PROMPT, "steps": True}, "steps"),
            ({"prompt": PROMPT, "seed": -2}, "seed"),
            ({"prompt": PROMPT, "seed": 2**53}, "seed"),
            ({"prompt": PROMPT, "loras": "ink"}, "loras"),
            ({"prompt": PROMPT, "loras": [{"name": "ink"}]}, "loras"),
            ({"prompt": PROMPT, "reference_images": ["../../etc/passwd"]}, "reference_images"),
            ({"prompt": PROMPT, "webhook_url": 5}, "webhook_url"),
        ],
    )
    def test_an_invalid_field_is_named(self, http: httpx2.Client, body: dict[str, object], field: str) -> None:
        error = problem(http.post("/api/v1/generate", json=body), 400, "invalid_request")
        assert error["field"] == field

    def test_every_invalid_field_is_named(self, http: httpx2.Client) -> None:
        body = {"prompt": 5, "width": 1, "steps": "many"}
        error = problem(http.post("/api/v1/generate", json=body), 400, "invalid_request")
        assert [item["field"] for item in error["errors"]] == ["prompt", "width", "steps"]  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b'"prompt"',
            b"null",
            b'{"prompt": "\xff"}',
            b'{"prompt": "\\ud800"}',
            b"[" * 10_000,
            b'{"a":' * 10_000,
        ],
    )
    def test_a_body_that_is_not_an_object_is_refused(self, http: httpx2.Client, body: bytes) -> None:
        problem(http.post("/api/v1/generate", content=body), 400, "invalid_request")

    @pytest.mark.parametrize("announced", [True, False])
    def test_a_body_of_100_mb_is_refused(self, http: httpx2.Client, announced: bool) -> None:
        chunks = (b"x" * 1_000_000 for _ in range(100))
        headers = {"Content-Length": "100000000"} if announced else {}
        problem(http.post("/api/v1/generate", content=chunks, headers=headers), 413, "too_large")

    def test_prompts_of_maximum_length_and_in_any_script_are_accepted(self, http: httpx2.Client) -> None:
        for prompt in ("x" * 2000, "灯台と嵐の海 \U0001f5fc", "a\0b\x1b[31m\r\nInjected: yes"):
            job = finish(http, submit(http, prompt))
            assert job["state"] == "completed", job

    def test_a_random_seed_is_reported_and_reproduces_the_image(self, http: httpx2.Client) -> None:
        first = finish(http, submit(http))
        again = finish(http, submit(http, seed=first["seed"]))
        other = finish(http, submit(http, seed=-1))
        images = [http.get(job["image_url"]).content for job in (first, again, other)]
        assert first["seed"] == again["seed"] != other["seed"]
        # The provenance has the job's id, so only the image data is equal.
        data = [image[image.index(b"IDAT") :] for image in images]
        assert data[0] == data[1] != data[2]


class TestIdempotency:
    def test_the_same_key_and_body_return_the_same_receipt(self, http: httpx2.Client) -> None:
        body = {"prompt": PROMPT, "seed": 1} | SMALL
        with ThreadPoolExecutor(16) as pool:
            post = lambda _: http.post("/api/v1/generate", json=body, headers={"Idempotency-Key": "same-1"})  # noqa: E731
            answers = list(pool.map(post, range(64)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.content for answer in answers}) == 1
        job_id = answers[0].json()["job_id"]
        finish(http, job_id)
        late = http.post("/api/v1/generate", json=dict(reversed(body.items())), headers={"Idempotency-Key": "same-1"})
        assert late.content == answers[0].content
        assert late.headers["idempotent-replayed"] == "true"

    def test_another_body_is_a_conflict(self, http: httpx2.Client) -> None:
        headers = {"Idempotency-Key": "same-2"}
        first = http.post("/api/v1/generate", json={"prompt": "one"} | SMALL, headers=headers)
        answer = http.post("/api/v1/generate", json={"prompt": "two"} | SMALL, headers=headers)
        error = problem(answer, 422, "idempotency_conflict")
        assert error["job_id"] == first.json()["job_id"]

    @pytest.mark.parametrize("key", ["", "x" * 256, "with space", "tab\there"])
    def test_an_invalid_key_is_refused(self, http: httpx2.Client, key: str) -> None:
        answer = http.post("/api/v1/generate", json={"prompt": PROMPT} | SMALL, headers={"Idempotency-Key": key})
        problem(answer, 400, "invalid_request")


class TestStatus:
    def test_the_status_of_a_completed_job(self, http: httpx2.Client) -> None:
        job_id = submit(http)
        job = finish(http, job_id)
        assert job["state"] == "completed"
        assert job["image_url"] == job["results"]["images"][0]["url"]
        assert job["created_at"] <= job["started_at"] <= job["completed_at"]
        assert job["progress"] == {"step": 1, "total": 1}
        assert (job["engine"], job["attempt"], job["error"], job["retry_after_ms"]) == ("procedural", 1, None, None)
        answer = http.get(f"/api/v1/status/{job_id}")
        assert "retry-after" not in answer.headers

    def test_a_long_poll_is_answered_when_the_job_is_over(self, http: httpx2.Client) -> None:
        job_id = submit(http, steps=4, width=1024, height=1024)
        answer = http.get(f"/api/v1/status/{job_id}", headers={"Prefer": "respond-async, wait=30"})
        assert answer.headers["preference-applied"] == "wait=30"
        assert answer.json()["state"] == "completed"
        again = http.get(f"/api/v1/status/{job_id}?wait=30")
        assert again.headers["preference-applied"] == "wait=30"

    def test_a_matching_etag_is_answered_304(self, http: httpx2.Client) -> None:
        job_id = submit(http)
        finish(http, job_id)
        etag = http.get(f"/api/v1/status/{job_id}").headers["etag"]
        answer = http.get(f"/api/v1/status/{job_id}", headers={"If-None-Match": etag})
        assert (answer.status_code, answer.content) == (304, b"")
        changed = http.get(f"/api/v1/status/{job_id}", headers={"If-None-Match": '"0.0"'})
        assert changed.status_code == 200

    @pytest.mark.parametrize("job_id", ["ext_unknown", "..%2f..%2fetc", "%00", "a" * 5000, "'; DROP TABLE jobs;--", ""])
    def test_an_unknown_job_is_404(self, http: httpx2.Client, job_id: str) -> None:
        problem(http.get(f"/api/v1/status/{job_id}"), 404, "job_not_found")

    def test_a_job_of_another_key_is_404(
        self, shared_server: ServerProcess, http: httpx2.Client, other_key: str
    ) -> None:
        job_id = submit(http)
        answer = httpx2.get(
            f"{shared_server.url}/api/v1/status/{job_id}", headers={"Authorization": f"Bearer {other_key}"}
        )
        problem(answer, 404, "job_not_found")

    @pytest.mark.parametrize("prefer", ["wait=x", "wait=-1", "wait=99999999999", "wait", "wait=0"])
    def test_an_invalid_preference_does_not_wait(self, http: httpx2.Client, prefer: str) -> None:
        job_id = submit(http)
        finish(http, job_id)
        assert http.get(f"/api/v1/status/{job_id}", headers={"Prefer": prefer}).status_code == 200


class TestWatching:
    """On a server with a slow engine, so that a running job can be observed."""

    def test_progress_answers_a_long_poll_with_an_etag(self, slow_server: ServerProcess) -> None:
        with slow_server.http() as http:
            job_id = submit(http, steps=4)
            seen, etag = [], '"0"'
            while not seen or seen[-1]["state"] != "completed":
                answer = http.get(f"/api/v1/status/{job_id}", headers={"Prefer": "wait=20", "If-None-Match": etag})
                assert answer.status_code == 200, "20 s without a change"
                etag = answer.headers["etag"]
                seen.append(answer.json())
                if seen[-1]["state"] == "running":
                    assert answer.headers["retry-after"] == "2"
            steps = [job["progress"]["step"] for job in seen]
            assert steps == sorted(steps)
            assert {1, 2, 3} & set(steps), "no step between the first and the last was reported"
            assert all(job["image_url"] is None for job in seen[:-1])

    @pytest.mark.slow
    def test_a_long_poll_that_times_out_returns_the_present_state(self, slow_server: ServerProcess) -> None:
        with slow_server.http() as http:
            job_id = submit(http, steps=4)
            answer = http.get(f"/api/v1/status/{job_id}", headers={"Prefer": "wait=1"})
            assert answer.json()["state"] in ("queued", "running")
            assert answer.headers["preference-applied"] == "wait=1"
            finish(http, job_id)

    @pytest.mark.slow
    def test_queue_positions(self, slow_server: ServerProcess) -> None:
        with slow_server.http() as http:
            ids = [submit(http, steps=2) for _ in range(3)]
            last = http.get(f"/api/v1/status/{ids[2]}").json()
            assert (last["state"], last["queue_position"]) in (("queued", 2), ("queued", 3))
            assert finish(http, ids[2])["queue_position"] is None


class TestKeys:
    @pytest.mark.parametrize(
        "authorization", [None, "", "Bearer", "Bearer wrong", "Basic dTpw", "umr_x", "Bearer \xe9\xe9"]
    )
    def test_requests_without_a_valid_key_are_401(
        self, shared_server: ServerProcess, authorization: str | None
    ) -> None:
        headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
        for method, path in (("POST", "generate"), ("GET", "status/ext_1"), ("GET", "nothing"), ("DELETE", "status/x")):
            answer = httpx2.request(method, f"{shared_server.url}/api/v1/{path}", headers=headers)
            problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")

    def test_a_revoked_key_is_refused_within_a_second(self, shared_server: ServerProcess) -> None:
        made = json.loads(cli("keys", "create", "--state", str(shared_server.state), "--json").stdout)
        url, headers = f"{shared_server.url}/api/v1/status/x", {"Authorization": f"Bearer {made['key']}"}
        assert httpx2.get(url, headers=headers).status_code == 404
        assert cli("keys", "revoke", made["id"], "--state", str(shared_server.state)).returncode == 0
        until(lambda: httpx2.get(url, headers=headers).status_code == 401, seconds=1)
        problem(httpx2.get(url, headers=headers), 401, "unauthorized")


class TestOtherPaths:
    def test_health_needs_no_key(self, shared_server: ServerProcess) -> None:
        for path in ("/healthz", "/readyz"):
            assert httpx2.get(shared_server.url + path).status_code == 200

    def test_unknown_paths_are_404(self, http: httpx2.Client) -> None:
        problem(http.get("/nothing"), 404, "not_found")
        problem(http.get("/api/v1/nothing"), 404, "not_found")
        for method, path, setting in (("POST", "/mcp", "mcp"), ("GET", "/sdapi/v1/options", "a1111")):
            off = http.request(method, path)
            problem(off, 404, "not_found")
            assert off.json()["error"].endswith(f"its operator turns it on with the setting `{setting}`")
        answer = http.put("/api/v1/generate")
        assert answer.status_code in (404, 405)
        assert answer.json()["success"] is False

    @pytest.mark.parametrize(
        "line",
        [
            b"GET /../../etc/passwd HTTP/1.1",
            b"GET //etc/passwd HTTP/1.1",
            b"GET /outputs/%2e%2e/%2e%2e/ledger.sqlite3?session_id=.. HTTP/1.1",
            b"GET /outputs/..%2f..%2f/ledger.sqlite3 HTTP/1.1",
            b"GET /outputs/a\\..\\b/x.png HTTP/1.1",
            b"GET http://evil.example/healthz HTTP/1.1",
            b"NONSENSE",
        ],
    )
    def test_invalid_request_lines_are_never_a_500(self, shared_server: ServerProcess, line: bytes) -> None:
        host, port = shared_server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert b"SQLite" not in answer
        assert b"root:" not in answer
        assert answer.split(b" ")[1][:1] in (b"2", b"4")


def test_a_disconnect_does_not_cancel_the_job(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        job_id = submit(http, steps=3)
        with pytest.raises(httpx2.ReadTimeout):
            http.get(f"/api/v1/status/{job_id}", headers={"Prefer": "wait=30"}, timeout=0.2)
        assert finish(http, job_id)["state"] == "completed"


def test_the_end_of_a_job_answers_all_long_polls(slow_server: ServerProcess) -> None:
    with slow_server.http() as http:
        job_id = submit(http, steps=3)
        with ThreadPoolExecutor(20) as pool:
            states = list(pool.map(lambda _: finish(http, job_id)["state"], range(20)))
    assert states == ["completed"] * 20


def test_a_slow_body_does_not_delay_other_requests(shared_server: ServerProcess, http: httpx2.Client) -> None:
    host, port = shared_server.url.removeprefix("http://").split(":")
    opened, done = threading.Event(), threading.Event()

    def send_slowly() -> None:
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(b"POST /api/v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            opened.set()
            done.wait(30)

    thread = threading.Thread(target=send_slowly)
    thread.start()
    opened.wait()
    assert finish(http, submit(http))["state"] == "completed"
    done.set()
    thread.join()
