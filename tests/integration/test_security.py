"""Security of a running server: keys, limits, isolation of sessions, Host and Origin checks, disclosure."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from support import SMALL, ServerProcess, cli, finish, problem, server, submit, until

PAGE = Path(__file__).parents[2] / "js" / "studio"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the default security settings, and one more host name."""
    state = tmp_path_factory.mktemp("guarded") / "state"
    with server(state, "--allowed-hosts", "pictures.example", "--step-delay", "0.3", "--access-log", "all") as running:
        yield running


def new_key(running: ServerProcess, *options: str) -> dict[str, str]:
    made: dict[str, str] = json.loads(cli("keys", "create", "--state", str(running.state), "--json", *options).stdout)
    return made


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class TestKeys:
    @pytest.mark.slow
    def test_a_key_expires(self, state: Path) -> None:
        with server(state) as running:
            soon = "2026-01-01"
            assert cli("keys", "create", "--state", str(state), "--expires", soon).returncode == 2
            assert cli("keys", "create", "--state", str(state), "--expires", "whenever").returncode == 2
            made = new_key(running, "--expires", "30d")
            expires = int(made["expires_at"]) / 1000
            assert abs(expires - time.time() - 30 * 86_400) < 3600
            assert httpx2.get(f"{running.url}/api/v1/jobs", headers=bearer(made["key"])).status_code == 200

    @pytest.mark.slow
    def test_a_revoked_key_is_refused_within_a_second(self, guarded: ServerProcess) -> None:
        made = new_key(guarded)
        request_jobs = lambda: httpx2.get(f"{guarded.url}/api/v1/jobs", headers=bearer(made["key"]))  # noqa: E731
        assert request_jobs().status_code == 200
        cli("keys", "revoke", made["id"], "--state", str(guarded.state))
        refused = until(lambda: (answer := request_jobs()).status_code == 401 and answer, 5)
        problem(refused, 401, "unauthorized")

    def test_events_end_when_their_key_is_revoked(self, guarded: ServerProcess) -> None:
        made = new_key(guarded)
        with httpx2.Client(base_url=guarded.url, headers=bearer(made["key"]), timeout=30) as http:
            job_id = submit(http, steps=50)
            with http.stream("GET", f"/api/v1/events/{job_id}") as events:
                lines = events.iter_lines()
                assert next(lines) == "event: status"
                cli("keys", "revoke", made["id"], "--state", str(guarded.state))
                seen = [line for line in lines if line.startswith("event:")]
            assert len(seen) < 50, "the stream ended before the job"
        another = new_key(guarded, "--session", made["session_id"])
        with httpx2.Client(base_url=guarded.url, headers=bearer(another["key"])) as http:
            assert http.post(f"/api/v1/cancel/{job_id}").json()["progress"]["step"] < 50

    @pytest.mark.slow
    def test_the_last_use_is_shown(self, state: Path) -> None:
        with server(state) as running, running.http() as http:
            http.get("/api/v1/jobs").raise_for_status()
        listed = json.loads(cli("keys", "list", "--state", str(state), "--json").stdout)["keys"]
        assert time.time() * 1000 - listed[0]["last_used_at"] < 60_000
        assert "hash" not in listed[0]
        table = cli("keys", "list", "--state", str(state)).stdout
        assert "LAST USED" in table
        assert re.search(r"first +20\d\d-\d\d-\d\d \d\d:\d\d +20\d\d-", table)

    def test_a_key_can_replace_another_of_the_same_session(self, guarded: ServerProcess) -> None:
        first = new_key(guarded)
        second = new_key(guarded, "--session", first["session_id"])
        with httpx2.Client(base_url=guarded.url) as http:
            receipt = http.post("/api/v1/generate", json={"prompt": "a boat"} | SMALL, headers=bearer(first["key"]))
            job_id = receipt.json()["job_id"]
            assert http.get(f"/api/v1/status/{job_id}", headers=bearer(second["key"])).status_code == 200
        bad = cli("keys", "create", "--state", str(guarded.state), "--session", "../x")
        assert bad.returncode == 1
        assert "8 to 64 letters" in bad.stderr


class TestSessionIsolation:
    def test_no_call_discloses_data_of_another_session(self, guarded: ServerProcess) -> None:
        mine, other = new_key(guarded), new_key(guarded)
        with httpx2.Client(base_url=guarded.url, headers=bearer(mine["key"]), timeout=70) as http:
            job_id = submit(http)
            done = finish(http, job_id)
            image = http.get(done["image_url"]).content
            name = http.post("/api/v1/upload-reference", files={"file": image}).json()["filename"]
            running = submit(http, steps=50)
        with httpx2.Client(base_url=guarded.url, headers=bearer(other["key"]), timeout=70) as http:
            problem(http.get(f"/api/v1/status/{job_id}"), 404, "job_not_found")
            problem(http.get(f"/api/v1/status/{running}", headers={"Prefer": "wait=5"}), 404, "job_not_found")
            problem(http.get(f"/api/v1/events/{running}"), 404, "job_not_found")
            problem(http.post(f"/api/v1/cancel/{running}"), 404, "job_not_found")
            assert http.get("/api/v1/jobs").json()["jobs"] == []
            changes = http.post("/api/v1/status", json={"job_ids": [job_id, running]}).json()
            assert (changes["jobs"], changes["unknown"]) == ([], [job_id, running])
            assert http.get("/api/v1/upload-reference").json()["references"] == []
            problem(http.delete(f"/api/v1/upload-reference/{name}"), 404, "reference_not_found")
            body = {"prompt": "a boat", "reference_images": [name]} | SMALL
            problem(http.post("/api/v1/generate", json=body), 400, "invalid_request")
            elsewhere = done["image_url"].replace(mine["session_id"], other["session_id"])
            problem(http.get(elsewhere), 404, "output_not_found")
        with httpx2.Client(base_url=guarded.url, headers=bearer(mine["key"])) as http:
            http.post(f"/api/v1/cancel/{running}").raise_for_status()


class TestLimits:
    def test_the_rate_limit_of_a_key(self, guarded: ServerProcess) -> None:
        made = new_key(guarded, "--rate", "5")
        with httpx2.Client(base_url=guarded.url, headers=bearer(made["key"])) as http:
            receipt = http.post("/api/v1/generate", json={"prompt": "a boat"} | SMALL)
            assert receipt.headers["ratelimit-policy"] == '"minute";q=5;w=60'
            assert receipt.headers["ratelimit"].startswith('"minute";r=4;t=')
            job_id = receipt.json()["job_id"]
            # A long poll counts as one request.
            assert finish(http, job_id)["state"] == "completed"
            codes = [http.get(f"/api/v1/status/{job_id}").status_code for _ in range(4)]
            assert codes == [200, 200, 200, 429]
            refused = http.get(f"/api/v1/status/{job_id}")
            error = problem(refused, 429, "rate_limited")
            assert error["retryable"] is True
            assert 1 <= int(refused.headers["retry-after"]) <= 12
            assert refused.headers["ratelimit"].startswith('"minute";r=0;t=')
            problem(http.get("/api/v1/jobs"), 429, "rate_limited")

    def test_the_limit_of_concurrent_jobs(self, guarded: ServerProcess) -> None:
        made = new_key(guarded, "--concurrent", "1")
        with httpx2.Client(base_url=guarded.url, headers=bearer(made["key"]), timeout=70) as http:
            first = submit(http, steps=50)
            refused = http.post("/api/v1/generate", json={"prompt": "a boat"} | SMALL)
            assert problem(refused, 429, "concurrent_limit")["job_id"] == first
            assert int(refused.headers["retry-after"]) >= 1
            http.post(f"/api/v1/cancel/{first}")
            assert finish(http, submit(http))["state"] == "completed"

    def test_the_daily_limit_of_jobs(self, guarded: ServerProcess) -> None:
        made = new_key(guarded, "--daily", "2")
        with httpx2.Client(base_url=guarded.url, headers=bearer(made["key"]), timeout=70) as http:
            used = {"Idempotency-Key": "today-1"}
            body = {"prompt": "a boat"} | SMALL
            first = http.post("/api/v1/generate", json=body, headers=used)
            submit(http)
            refused = http.post("/api/v1/generate", json=body)
            problem(refused, 429, "rate_limited")
            assert 1 <= int(refused.headers["retry-after"]) <= 86_400
            again = http.post("/api/v1/generate", json=body, headers=used)
            assert again.content == first.content, "a repeated submit makes no new job"

    def test_capabilities_report_the_limits_of_the_key(self, guarded: ServerProcess) -> None:
        made = new_key(guarded, "--rate", "0", "--concurrent", "3", "--daily", "70")
        limits = httpx2.get(f"{guarded.url}/api/v1/capabilities", headers=bearer(made["key"])).json()["limits"]
        assert limits["requests_per_minute"] is None
        assert (limits["concurrent"], limits["daily"]) == (3, 70)

    def test_failed_logins_are_throttled_and_a_valid_key_is_not(self, state: Path) -> None:
        with server(state, "--failed-logins", "5") as running, running.http() as good:
            with httpx2.Client(base_url=running.url, headers=bearer("umr_wrong")) as http:
                codes = [http.get("/api/v1/jobs").status_code for _ in range(6)]
                assert codes == [401] * 5 + [429]
                refused = http.get("/api/v1/jobs")
                problem(refused, 429, "rate_limited")
                assert int(refused.headers["retry-after"]) >= 1
                assert refused.headers["connection"] == "close"
            assert good.get("/api/v1/jobs").status_code == 200

    def test_keys_above_their_limit_do_not_affect_other_keys(self, guarded: ServerProcess) -> None:
        """Refused calls cost little, so others are served; benchmarks/checks.py measures how little."""
        noisy = [new_key(guarded, "--rate", "60")["key"] for _ in range(3)]
        quiet = new_key(guarded)
        with httpx2.Client(base_url=guarded.url) as http:
            for key in noisy:
                codes = [http.get("/api/v1/jobs", headers=bearer(key)).status_code for _ in range(80)]
                assert codes.count(429) >= 18
            assert http.get("/api/v1/jobs", headers=bearer(quiet["key"])).status_code == 200


class TestHostsAndOrigins:
    CALLS = (
        ("POST", "/api/v1/generate"),
        ("POST", "/api/v1/status"),
        ("POST", "/api/v1/cancel/ext_1"),
        ("POST", "/api/v1/upload-reference"),
        ("DELETE", "/api/v1/upload-reference/x"),
        ("GET", "/api/v1/status/ext_1"),
        ("GET", "/api/v1/jobs"),
        ("GET", "/healthz"),
    )

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:3088", "127.0.0.1.evil.example", "localhost.evil"])
    def test_a_foreign_host_is_refused_on_every_call(self, guarded: ServerProcess, host: str) -> None:
        with guarded.http() as http:
            for method, path in self.CALLS:
                answer = http.request(
                    method, path, headers={"Host": host}, json={"prompt": "a boat"} if method == "POST" else None
                )
                problem(answer, 421, "forbidden_host")

    @pytest.mark.parametrize("wait", [{}, {"Prefer": "wait=5"}])
    def test_a_foreign_host_receives_no_job_data(self, slow_server: ServerProcess, wait: dict[str, str]) -> None:
        """Status calls are handled ahead of the router, on a server that does not log every request."""
        where = urlsplit(slow_server.url)
        with slow_server.http() as http:
            done = finish(http, submit(http))
            alive = submit(http, steps=20)
            for job_id in (done["job_id"], alive):
                for host, status in (("localhost", 200), ("evil.example", 421)):
                    with closing(HTTPConnection(str(where.hostname), where.port, timeout=20)) as plain:
                        headers = bearer(slow_server.key) | {"Host": host} | wait
                        plain.request("GET", f"/api/v1/status/{job_id}", headers=headers)
                        answer = plain.getresponse()
                        assert (host, answer.status) == (host, status)
                        assert (job_id.encode() in answer.read()) == (status == 200)
            http.post(f"/api/v1/cancel/{alive}").raise_for_status()

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80", "192.168.1.5", "pictures.example"]
    )
    def test_own_names_and_addresses_are_accepted(self, guarded: ServerProcess, host: str) -> None:
        with guarded.http() as http:
            assert http.get("/api/v1/jobs", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "https://localhost.evil"])
    def test_a_foreign_origin_is_refused_on_every_change(self, guarded: ServerProcess, origin: str) -> None:
        with guarded.http(Origin=origin) as http:
            before = len(http.get("/api/v1/jobs").json()["jobs"])
            for method, path in self.CALLS:
                if method != "GET":
                    body = {"prompt": "a boat"} if method == "POST" else None
                    problem(http.request(method, path, json=body), 403, "forbidden_origin")
            assert len(http.get("/api/v1/jobs").json()["jobs"]) == before

    def test_a_page_of_the_own_origin_may_call(self, guarded: ServerProcess) -> None:
        with guarded.http(Origin=guarded.url) as http:
            assert finish(http, submit(http))["state"] == "completed"

    def test_a_page_of_an_allowed_origin_may_call(self, state: Path) -> None:
        page = {"Origin": "https://studio.example"}
        with server(state, "--allowed-origins", "https://studio.example") as running, running.http(**page) as http:
            preflight_headers = {
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization",
            }
            preflight = http.options("/api/v1/generate", headers=page | preflight_headers)
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == page["Origin"]
            job_id = submit(http)
            finish(http, job_id)
            answer = http.get(f"/api/v1/status/{job_id}")
            assert answer.headers["access-control-allow-origin"] == page["Origin"]
            foreign = http.get(f"/api/v1/status/{job_id}", headers={"Origin": "https://evil.example"})
            assert "access-control-allow-origin" not in foreign.headers


class TestUnauthenticatedClients:
    @pytest.mark.parametrize("query", ["api_key={}", "key={}", "x={}", "token=abc", "Authorization=Bearer%20{}"])
    def test_a_key_in_a_query_is_refused_and_not_logged(self, guarded: ServerProcess, query: str) -> None:
        answer = httpx2.get(f"{guarded.url}/api/v1/jobs?{query.format(guarded.key)}", headers=bearer(guarded.key))
        problem(answer, 400, "key_in_url")
        assert guarded.key not in guarded.log()

    def test_unauthenticated_calls_disclose_nothing(self, guarded: ServerProcess) -> None:
        with httpx2.Client(base_url=guarded.url) as http:
            assert http.get("/healthz").json() == {"status": "ok", "server": "umrgen"}
            assert http.get("/readyz").json() == {"status": "ready"}
            page = re.sub(r"studio/[0-9a-f]{16}/", "studio/", http.get("/", headers={"Accept": "text/html"}).text)
            assert page == (PAGE / "index.html").read_text(), "the studio's page has no data"
            for path in ("/docs", "/api", "/admin", "/outputs", "/.env", "/server.lock", "/x"):
                answer = http.get(path)
                assert answer.status_code in (401, 404), path
            for path in ("/metrics", "/openapi.json", "/api/v1/capabilities", "/api/v1/jobs", "/api/v1/nothing"):
                problem(http.get(path), 401, "unauthorized")
            headers = {name: value for name, value in http.get("/healthz").headers.items() if name != "date"}
            assert set(headers) == {
                "content-length",
                "content-type",
                "cache-control",
                "x-content-type-options",
                "server",
            }
            assert headers["server"] == "http", "neither a product nor a version"

    def test_a_log_line_cannot_be_forged(self, guarded: ServerProcess) -> None:
        with guarded.http() as http:
            job_id = submit(http, "a boat\r\n2026-01-01 00:00:00,000 INFO umrgen: forged \x1b[31mred")
            http.get("/api/v1/jobs%0d%0aforged-path%1b[31m")
        until(lambda: job_id in guarded.log())
        until(lambda: "forged-path" in guarded.log())
        log = guarded.log()
        assert "forged \x1b" not in log
        assert not [line for line in log.splitlines() if line.startswith("forged") or "INFO umrgen: forged" in line]
        assert "a boat" not in log, "prompts are logged only when enabled"
        assert "\x1b" not in log
