"""Operation of a server: settings, metrics, logs, content policy, retention, proxies, maintenance of the ledger."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support import SMALL, ServerProcess, clean_environment, cli, finish, problem, server, submit, until
from umrgen.server.settings import Settings

HERE = Path(__file__).parents[1]


def metrics(text: str) -> dict[str, float]:
    """Parse the metrics as Prometheus does; return the samples by name and labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()) if value)
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


class TestMetrics:
    @pytest.mark.slow
    def test_metrics_count_jobs_and_requests(self, state: Path) -> None:
        with server(state, "--step-delay", "0.3") as running, running.http() as http:
            finish(http, submit(http))
            slow, waiting = submit(http, steps=50), submit(http)
            until(lambda: http.get(f"/api/v1/status/{slow}").json()["state"] == "running")
            http.get("/api/v1/nothing")
            values = metrics(http.get("/metrics").text)
            assert values["umrgen_jobs_queued"] == 1
            assert values["umrgen_jobs_running"] == 1
            assert values["umrgen_jobs_ended_total{state=completed}"] == 1
            assert values["umrgen_job_run_seconds_count{engine=procedural}"] == 1
            assert values["umrgen_job_wait_seconds_count{engine=procedural}"] == 2
            assert values["umrgen_ledger_commit_seconds_count"] >= 6
            assert values["umrgen_requests_total{status=202}"] == 3
            assert values["umrgen_requests_total{status=404}"] == 1
            assert values["umrgen_requests_total{status=200}"] >= 2
            assert values["umrgen_images_bytes"] > 1000
            assert values["umrgen_disk_free_bytes"] > 0
            assert values["umrgen_engine_up"] == values["umrgen_ready"] == 1
            assert values["umrgen_queue_age_seconds"] > 0
            assert values["umrgen_ledger_bytes"] > 1000
            assert values["umrgen_disk_reserve_bytes"] == 512 << 20
            (key,) = json.loads(cli("keys", "list", "--state", str(state), "--json").stdout)["keys"]
            assert values[f"umrgen_key_jobs_total{{key={key['id']}}}"] == 3
            assert values[f"umrgen_key_requests_total{{key={key['id']}}}"] > 3
            for job_id in (waiting, slow):
                http.post(f"/api/v1/cancel/{job_id}")
            values = metrics(http.get("/metrics").text)
            assert values["umrgen_jobs_ended_total{error_code=cancelled,state=failed}"] == 2

    def test_every_metric_is_documented(self, http: httpx2.Client) -> None:
        page = (HERE.parent / "docs" / "monitoring.md").read_text()
        families = text_string_to_metric_families(http.get("/metrics").text)
        names = {family.name for family in families if not family.name.endswith("_created")}
        assert len(names) >= 10
        assert {name for name in names if name not in page} == set()

    def test_a_key_sees_its_own_use_only(self, http: httpx2.Client, other_key: str) -> None:
        def keys_in(**headers: str) -> set[str]:
            return set(
                re.findall(r'umrgen_key_requests_total\{key="(\w+)"\}', http.get("/metrics", headers=headers).text)
            )

        other = {"Authorization": f"Bearer {other_key}"}
        for headers in ({}, other):
            http.get("/api/v1/jobs", headers=headers)
        assert len(keys_in()) == len(keys_in(**other)) == 1
        assert keys_in() != keys_in(**other)

    def test_the_metrics_token_opens_only_the_metrics(self, state: Path) -> None:
        with server(state, "--metrics-token", "for-the-scraper-alone-x") as running, running.http() as http:
            http.get("/api/v1/jobs")
            problem(http.get("/metrics"), 401, "unauthorized")
            scraper = {"Authorization": "Bearer for-the-scraper-alone-x"}
            shown = httpx2.get(f"{running.url}/metrics", headers=scraper)
            assert shown.status_code == 200
            assert 'umrgen_key_requests_total{key="key_' in shown.text, "the token sees all keys"
            problem(httpx2.get(f"{running.url}/api/v1/jobs", headers=scraper), 401, "unauthorized")


class TestLogs:
    def test_json_lines_have_no_prompts_keys_or_queries(self, state: Path) -> None:
        with server(state, "--log-format", "json") as running, running.http() as http:
            job_id = submit(http, "a secret garden\n{}")
            finish(http, job_id)
            http.get("/api/v1/jobs?state=nothing&private=query")
        lines = [json.loads(line) for line in running.log().splitlines()]
        assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
        requests = [line for line in lines if line["message"] == "request"]
        assert [(line["method"], line["path"], line["status"]) for line in requests] == [
            ("POST", "/api/v1/generate", 202),
            ("GET", "/api/v1/jobs", 400),
        ]
        assert requests[0]["key_id"].startswith("key_")
        assert requests[0]["address"] == "127.0.0.1"
        for hidden in ("secret garden", running.key, "private=query"):
            assert hidden not in running.log()
        assert job_id in running.log()

    def test_prompts_are_logged_only_when_enabled(self, state: Path) -> None:
        options = ("--log-prompts", "yes", "--access-log", "none")
        with server(state, *options) as running, running.http() as http:
            finish(http, submit(http, "a secret\ngarden"))
        assert 'prompt="a secret\\ngarden"' in running.log()
        assert "request method" not in running.log()

    @pytest.mark.slow
    def test_keys_and_image_urls_are_not_logged(self, state: Path) -> None:
        with server(state, "--access-log", "all") as running, running.http() as http:
            job_id = submit(http)
            done = finish(http, job_id)
            http.get(done["image_url"])
            for _ in range(3):
                http.get(f"/api/v1/status/{job_id}")
            httpx2.get(f"{running.url}/{running.key}")
            httpx2.get(f"{running.url}/x%20status=200%20key_id=key_admin")
        log = running.log()
        assert log.count(f"path=/api/v1/status/{job_id}") == 4, "status calls too"
        assert "path=/outputs/…" in log
        assert done["results"]["images"][0]["filename"] not in log
        assert running.key not in log
        assert 'path="/x status=200 key_id=key_admin"' in log

    def test_the_errors_of_strangers_are_counted_and_not_logged_one_by_one(self, state: Path) -> None:
        with server(state) as running, running.http() as http:
            for _ in range(50):
                httpx2.get(f"{running.url}/x")
            http.get("/api/v1/jobs?state=nothing")
            assert 'umrgen_refused_strangers_total{status="404"} 50.0' in http.get("/metrics").text
        assert "path=/x" not in running.log()
        assert "path=/api/v1/jobs" in running.log(), "errors of a caller with a key are logged"

    @pytest.mark.slow
    def test_a_throttled_address_is_logged_once(self, state: Path) -> None:
        with server(state, "--failed-logins", "5") as running:
            for _ in range(30):
                httpx2.get(f"{running.url}/api/v1/jobs", headers={"Authorization": "Bearer wrong"})
        assert running.log().count("an address is throttled after 5 wrong API keys") == 1


class TestSettings:
    @pytest.mark.slow
    def test_a_key_of_the_settings_is_revoked_when_they_change(self, state: Path) -> None:
        old, new = "a" * 30, "b" * 30

        def opens(running: ServerProcess, key: str) -> bool:
            headers = {"Authorization": f"Bearer {key}"}
            return httpx2.get(f"{running.url}/api/v1/jobs", headers=headers).status_code == 200

        with server(state, UMRGEN_SERVER_KEY=old) as running:
            assert opens(running, old)
        with server(state, UMRGEN_SERVER_KEY=new) as running:
            assert (opens(running, old), opens(running, new)) == (False, True)
        with server(state, UMRGEN_SERVER_KEY=old) as running:
            assert (opens(running, old), opens(running, new)) == (True, False)
        with server(state) as running:
            assert (opens(running, old), opens(running, new)) == (False, False)

    @pytest.mark.slow
    def test_settings_from_a_file(self, state: Path, tmp_path: Path) -> None:
        file = tmp_path / "umrgen.toml"
        file.write_text('daily = 1\nlog_format = "json"\nstep-delay = 0.0\n')
        with server(state, "--config", str(file)) as running, running.http() as http:
            assert http.get("/api/v1/capabilities").json()["limits"]["daily"] == 1
        with server(state, UMRGEN_CONFIG=str(file), UMRGEN_DAILY="2") as again:
            again.key = running.key
            with again.http() as http:
                assert http.get("/api/v1/capabilities").json()["limits"]["daily"] == 2

    def test_an_invalid_settings_file_prevents_the_start(self, state: Path, tmp_path: Path) -> None:
        file = tmp_path / "umrgen.toml"
        file.write_text("dayly = 1\n")
        refused = cli("serve", "--config", str(file), "--state", str(state), "--port", "0")
        assert refused.returncode == 1
        assert "unknown settings: dayly" in refused.stderr
        assert not state.exists()

    def test_the_settings_file_in_deploy_is_valid(self) -> None:
        from umrgen.server.settings import Settings

        settings = Settings.load({}, {}, HERE.parent / "deploy" / "umrgen.toml")
        assert settings.trusted_proxies == ("127.0.0.1/32", "::1/128")


class TestPolicy:
    def test_a_list_of_terms(self, state: Path, tmp_path: Path) -> None:
        terms = tmp_path / "words.txt"
        terms.write_text("# not here\nkid\nbad idea\n")
        with server(state, "--policy", str(terms)) as running, running.http() as http:
            body = {"prompt": "a bad  IDEA on a hill"} | SMALL
            problem(http.post("/api/v1/generate", json=body), 400, "content_policy")
            finish(http, submit(http, "a kidney of a minority"))
        assert "the content policy refused a prompt" in running.log()
        assert "on a hill" not in running.log()

    @pytest.mark.slow
    def test_a_policy_that_blocks_does_not_delay_other_requests(self, state: Path, tmp_path: Path) -> None:
        (tmp_path / "policies.py").write_text(
            "import time\ndef check(prompt):\n    time.sleep(60 if 'sleep' in prompt else 0)\n"
        )
        with server(state, "--policy", "policies:check", PYTHONPATH=str(tmp_path)) as running, running.http() as http:
            done = finish(http, submit(http))
            refused = http.post("/api/v1/generate", json={"prompt": "sleep"} | SMALL)
            assert refused.status_code == 500, "the policy timed out"
            assert http.get(done["image_url"]).status_code == 200
            running.kill()

    @pytest.mark.slow
    def test_a_policy_function(self, state: Path, tmp_path: Path) -> None:
        (tmp_path / "policies.py").write_text(
            "async def check(prompt):\n    if 'crash' in prompt: raise ValueError(prompt)\n"
            "    return 'no dragons' if 'dragon' in prompt else None\n"
        )
        path = {"PYTHONPATH": str(tmp_path)}
        with server(state, "--policy", "policies:check", **path) as running, running.http() as http:
            refused = http.post("/api/v1/generate", json={"prompt": "a dragon"} | SMALL)
            assert problem(refused, 400, "content_policy")["error"] == "no dragons"
            assert http.post("/api/v1/generate", json={"prompt": "crash"} | SMALL).status_code == 500
            assert http.get("/api/v1/jobs").json()["jobs"] == [], "a policy that fails accepts nothing"
            finish(http, submit(http))
        assert "the policy failed: ValueError" in running.log()
        missing = cli("serve", "--policy", "policies:nothing", "--state", str(state), "--port", "0", **path)
        assert missing.returncode == 1
        assert "cannot be imported" in missing.stderr


class TestRetention:
    @pytest.mark.slow
    def test_retention_by_size_keeps_the_records(self, state: Path) -> None:
        with server(state) as running, running.http() as http:
            jobs = [finish(http, submit(http, seed=seed)) for seed in range(3)]
            sizes = [job["results"]["images"][0]["bytes"] for job in jobs]
        keep = (sizes[1] + sizes[2] + 100) / 2**30
        with server(state, "--retain-gib", f"{keep:.12f}") as again:
            again.key = running.key
            with again.http() as http:
                gone = until(lambda: (answer := http.get(jobs[0]["image_url"])).status_code == 410 and answer)
                problem(gone, 410, "output_expired")
                assert [http.get(job["image_url"]).status_code for job in jobs[1:]] == [200, 200]
                assert http.get(f"/api/v1/status/{jobs[0]['job_id']}").json()["state"] == "completed"
        folder = next((state / "outputs").glob("sid_*"))
        assert len(list(folder.iterdir())) == 4, "two images and their thumbnails"
        assert cli("ledger", "check", "--state", str(state)).returncode == 0

    @pytest.mark.slow
    def test_a_nearly_full_disk_refuses_new_jobs(self, state: Path) -> None:
        running = ServerProcess(state, "--disk-reserve", str(1 << 23))  # 8 TiB
        running.launch()
        with running.http() as http:
            until(lambda: "the server is not ready: " in running.log())
            until(lambda: http.get("/api/v1/capabilities").json().get("engine"))
            assert http.get("/readyz").status_code == 503
            refused = http.post("/api/v1/generate", json={"prompt": "a boat"} | SMALL)
            problem(refused, 503, "storage_full")
            assert int(refused.headers["retry-after"]) >= 1
        assert running.stop() == 0


class TestSignedURLs:
    @pytest.mark.slow
    def test_signed_urls_expire_and_cannot_be_altered(self, state: Path) -> None:
        with server(state, "--url-ttl", "1") as running, running.http() as http:
            done = finish(http, submit(http))
            url = done["image_url"]
            assert re.search(r"&expires=\d+&signature=[\w-]{24}$", url)
            assert done["results"]["images"][0]["url"] == url
            assert http.get(url).status_code == 200
            plain = url.partition("&")[0]
            for wrong in (plain, f"{url}x", url.replace("expires=1", "expires=2"), f"{plain}&expires=x&signature=y"):
                problem(http.get(wrong), 403, "forbidden_output")
            until(lambda: http.get(url).status_code == 410)
            problem(http.get(url), 410, "output_expired")
            fresh = http.get(f"/api/v1/status/{done['job_id']}").json()["image_url"]
            assert http.get(fresh).status_code == 200
        with server(state, "--url-ttl", "3600") as again:
            assert httpx2.get(f"{again.url}{fresh}").status_code in (200, 410), "the secret is the same after a restart"


class TestProxies:
    @pytest.mark.slow
    def test_only_a_trusted_proxy_can_forward_an_address(self, state: Path) -> None:
        forwarded = {"X-Forwarded-For": "203.0.113.9"}
        with server(state / "a", "--trusted-proxies", "127.0.0.0/8") as trusting, trusting.http() as http:
            http.get("/api/v1/nothing", headers=forwarded)
        assert "address=203.0.113.9" in trusting.log()
        with server(state / "b") as plain, plain.http() as http:
            http.get("/api/v1/nothing", headers=forwarded)
        assert "address=127.0.0.1" in plain.log()

    @pytest.mark.slow
    def test_wrong_keys_are_counted_by_the_callers_address(self, state: Path) -> None:
        with server(state, "--trusted-proxies", "127.0.0.1", "--failed-logins", "3") as running:

            def send_wrong_key(address: str) -> int:
                headers = {"X-Forwarded-For": address, "Authorization": "Bearer wrong"}
                return httpx2.get(f"{running.url}/api/v1/jobs", headers=headers).status_code

            assert [send_wrong_key("203.0.113.9") for _ in range(4)] == [401, 401, 401, 429]
            assert send_wrong_key("203.0.113.10") == 401
            # One subscriber has all addresses of a /64 network.
            assert [send_wrong_key(f"2001:db8::{number}") for number in range(1, 5)] == [401, 401, 401, 429]

    @pytest.mark.slow
    def test_a_path_prefix(self, state: Path) -> None:
        with server(state, "--prefix", "/umrgen") as running, running.http() as http:
            for base in ("/umrgen", ""):
                receipt = http.post(f"{base}/api/v1/generate", json={"prompt": "a boat"} | SMALL)
                assert receipt.headers["location"] == f"/umrgen/api/v1/status/{receipt.json()['job_id']}"
                assert receipt.json()["status_url"].startswith("/api/v1/status/"), "relative to the base URL"
                done = http.get(
                    f"{base}/api/v1/status/{receipt.json()['job_id']}", headers={"Prefer": "wait=60"}
                ).json()
                assert http.get(f"{base}{done['image_url']}").status_code == 200
            assert http.get("/umrgenx/healthz").status_code == 404
            assert http.get("/umrgen/openapi.json").json()["servers"] == [{"url": "/umrgen"}]


class TestLedgerMaintenance:
    @pytest.fixture
    def used(self, state: Path) -> ServerProcess:
        with server(state) as running, running.http() as http:
            finish(http, submit(http))
        return running

    @pytest.mark.slow
    def test_check_finds_missing_images_and_wrong_counts(self, used: ServerProcess) -> None:
        state = used.state
        sound = cli("ledger", "check", "--state", str(state))
        assert (sound.returncode, sound.stdout) == (0, "1 completed; 1 images\nsound\n")
        values = json.loads(cli("ledger", "check", "--state", str(state), "--json").stdout)
        assert values == {"jobs": {"completed": 1}, "images": 1, "errors": [], "sound": True}
        image = next((state / "outputs").glob("*/*.png"))
        image.unlink()
        broken = cli("ledger", "check", "--state", str(state))
        assert broken.returncode == 1
        assert f"the image {image.name} has a record but no file" in broken.stdout
        with closing(sqlite3.connect(state / "ledger.sqlite3")) as connection, connection:
            connection.execute("UPDATE sessions SET queued = 7")
        assert "the counts of session" in cli("ledger", "check", "--state", str(state)).stdout
        (state / "ledger.sqlite3").write_bytes(b"SQLite format 3\0" + bytes(5000))
        assert cli("ledger", "check", "--state", str(state)).returncode == 1

    def test_a_backup_is_private_whatever_the_umask(self, used: ServerProcess, tmp_path: Path) -> None:
        before = os.umask(0o022)
        try:
            assert cli("ledger", "backup", str(tmp_path / "copy"), "--state", str(used.state)).returncode == 0
        finally:
            os.umask(before)
        assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600

    @pytest.mark.slow
    def test_backup_while_the_server_runs(self, state: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        copy.mkdir()
        with server(state) as running, running.http() as http:
            done = finish(http, submit(http))
            made = cli("ledger", "backup", str(copy / "ledger.sqlite3"), "--state", str(state))
            assert made.returncode == 0, made.stderr
            finish(http, submit(http))
        assert cli("ledger", "backup", str(copy / "ledger.sqlite3"), "--state", str(state)).returncode == 1
        (state / "outputs").rename(copy / "outputs")
        assert cli("ledger", "check", "--state", str(copy)).returncode == 0
        with server(copy) as restored:
            restored.key = running.key
            with restored.http() as http:
                assert http.get(f"/api/v1/status/{done['job_id']}").json()["state"] == "completed"
                assert http.get(done["image_url"]).status_code == 200

    @pytest.mark.slow
    def test_vacuum_needs_a_stopped_server(self, used: ServerProcess) -> None:
        compacted = cli("ledger", "vacuum", "--state", str(used.state), "--json")
        assert set(json.loads(compacted.stdout)) == {"before", "after"}
        assert cli("ledger", "check", "--state", str(used.state)).returncode == 0
        with server(used.state):
            refused = cli("ledger", "vacuum", "--state", str(used.state))
        assert refused.returncode == 1
        assert "another server already runs" in refused.stderr

    @pytest.mark.slow
    def test_a_folder_without_a_ledger_is_refused(self, tmp_path: Path) -> None:
        for command in (("check",), ("vacuum",), ("backup", str(tmp_path / "x"))):
            refused = cli("ledger", *command, "--state", str(tmp_path))
            assert refused.returncode == 1
            assert "there is no ledger" in refused.stderr
        assert not (tmp_path / "x").exists()
        assert not (tmp_path / "ledger.sqlite3").exists()


SPANS = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
provider = TracerProvider()
as_a_line = lambda span: span.to_json(indent=None) + "\\n"
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr, formatter=as_a_line)))
trace.set_tracer_provider(provider)
from umrgen.cli import main
main()
"""


@pytest.mark.slow
def test_spans_are_exported(state: Path, tmp_path: Path) -> None:
    script = tmp_path / "traced.py"
    script.write_text(SPANS)
    running = ServerProcess(state)
    running.command = (sys.executable, str(script))  # type: ignore[misc]  # as opentelemetry-instrument would start it
    running.start()
    parent = "0af7651916cd43dd8448eb211c80319c"
    try:
        with running.http(traceparent=f"00-{parent}-b7ad6b7169203331-01") as http:
            job_id = submit(http)
            finish(http, job_id)
    finally:
        running.stop()
    spans = {
        span["name"]: span for line in running.log().splitlines() if line.startswith("{") and (span := json.loads(line))
    }
    assert set(spans) == {"POST /api/v1/generate", "draw", "store"}
    assert spans["POST /api/v1/generate"]["context"]["trace_id"] == f"0x{parent}"
    assert {span["attributes"]["umrgen.job_id"] for span in spans.values()} == {job_id}


def test_the_example_of_settings_is_printed_and_can_be_loaded(tmp_path: Path) -> None:
    printed = cli("serve", "--print-config")
    assert printed.returncode == 0
    assert printed.stdout == (HERE.parent / "deploy" / "umrgen.toml").read_text()
    (tmp_path / "umrgen.toml").write_text(printed.stdout)
    settings = Settings.load({}, {}, tmp_path / "umrgen.toml")
    assert (settings.port, settings.log_format) == (3088, "json")


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    printed = cli("serve", "--print-unit")
    assert printed.returncode == 0
    text, unit = printed.stdout, tmp_path / "umrgen.service"
    unit.write_text(text)
    (program,) = re.findall(r"^ExecStart=(\S+) serve", text, re.MULTILINE)
    assert os.access(program, os.X_OK), "the unit starts the program that printed it"
    assert "umrgen serve --config /etc/umrgen/umrgen.toml" in text
    analyze = subprocess.run(["which", "systemd-analyze"], capture_output=True, text=True)
    if analyze.returncode != 0:
        pytest.skip("systemd-analyze is not installed")
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, env=clean_environment()
    )
    complaints = [line for line in verified.stderr.splitlines() if unit.name in line and "not executable" not in line]
    assert complaints == []


@pytest.mark.slow
def test_an_expired_url_does_not_count_as_a_wrong_url(state: Path) -> None:
    """410 is the response to a URL that was valid; it does not throttle the address."""
    with server(state, "--missed-outputs", "2", "--url-ttl", "1") as running, running.http() as http:
        url = finish(http, submit(http))["image_url"]
        until(lambda: http.get(url).status_code == 410)
        for _ in range(10):
            assert httpx2.get(f"{running.url}{urlsplit(url).path}?{urlsplit(url).query}").status_code == 410
