"""`umrgen serve` and `umrgen keys` as processes."""

import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from support import (
    GUIDE,
    SMALL,
    ServerProcess,
    Terminal,
    clean_environment,
    cli,
    finish,
    problem,
    server,
    submit,
    tied,
    until,
)
from umrgen.server.services import api_keys
from umrgen.server.services.api_keys import PublicKey, check_usable, hash_key

SERVE = ("-m", "umrgen", "serve", "--port", "0", "--state")


def test_the_first_start_creates_a_key_and_prints_it_once(state: Path) -> None:
    terminal = Terminal(sys.executable, *SERVE, str(state / "deep"))
    terminal.read_until("umrgen generate")
    banner = terminal.shown
    assert terminal.close() == 0, "the end of its terminal is SIGHUP, which drains"
    key = next(word for word in banner.split() if word.startswith("umr_"))
    for file in (state / "deep").rglob("*"):
        if file.is_file():
            assert key.encode() not in file.read_bytes(), f"{file.name} contains the key"
    listed = json.loads(cli("keys", "list", "--state", str(state / "deep"), "--json").stdout)["keys"]
    assert [found["name"] for found in listed] == ["first"]

    with server(state / "deep") as again:
        assert again.key == "", "a second start creates no second key"
        answer = httpx2.get(f"{again.url}/api/v1/status/x", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 404
    assert (state / "deep").stat().st_mode & 0o077 == 0
    assert (state / "deep" / "ledger.sqlite3").stat().st_mode & 0o077 == 0


def test_a_terminal_is_told_how_to_stop_at_once(state: Path) -> None:
    terminal = Terminal(sys.executable, *SERVE, str(state))
    terminal.read_until("umrgen generate")
    terminal.write("\x03")
    assert "Ctrl-C again stops at once" in terminal.read_all()
    assert terminal.close() == 0


def test_a_service_creates_no_key_and_its_log_has_only_log_lines(state: Path) -> None:
    command = [sys.executable, *SERVE, str(state), "--log-format", "json"]
    with subprocess.Popen(tied(*command), stderr=subprocess.PIPE, text=True, env=clean_environment()) as process:
        assert process.stderr is not None
        lines: list[str] = []
        while not any("listening on" in line for line in lines):
            lines.append(process.stderr.readline())
        process.send_signal(signal.SIGTERM)
        lines += process.stderr.readlines()
    messages = [json.loads(line)["message"] for line in lines]
    assert any("umrgen keys create --state" in message for message in messages)
    assert "umr_" not in "".join(lines)
    assert json.loads(cli("keys", "list", "--state", str(state), "--json").stdout) == {"keys": []}


def test_sighup_reloads_the_limits_of_a_service(state: Path, tmp_path: Path) -> None:
    config = tmp_path / "umrgen.toml"
    config.write_text("rate = 50\n")
    with server(state, "--config", str(config)) as running, running.http() as http:
        limit = lambda: http.get("/api/v1/capabilities").json()["limits"]["requests_per_minute"]  # noqa: E731
        assert limit() == 50
        config.write_text("rate = 70\n")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: limit() == 70)
        config.write_text('rate = "many"\n')
        running.process.send_signal(signal.SIGHUP)
        until(lambda: "not reloaded" in running.log())
        assert limit() == 70
        assert "reloaded: rate 50 → 70" in running.log()


@pytest.mark.slow
def test_sighup_reloads_hosts_policy_and_logs_and_names_the_settings_that_need_a_restart(
    state: Path, tmp_path: Path
) -> None:
    config, words = tmp_path / "umrgen.toml", tmp_path / "words.txt"
    words.write_text("dragon\n")
    plain = f'policy = "{words}"\nmetrics_token = "a-token-that-is-hidden-1"\n'
    config.write_text(plain)
    with server(state, "--config", str(config)) as running, running.http() as http:
        there = lambda: httpx2.get(f"{running.url}/healthz", headers={"Host": "new.example"}).status_code  # noqa: E731
        assert there() == 421
        problem(http.post("/api/v1/generate", json={"prompt": "a dragon"} | SMALL), 400, "content_policy")
        words.write_text("unicorn\n")
        changed = 'allowed_hosts = ["new.example"]\naccess_log = "all"\nlog_level = "debug"\nlease = 40\n'
        changed += 'api_key = "hidden-key-of-20-or-more"\n'
        config.write_text(plain.replace("hidden-1", "hidden-2") + changed)
        running.process.send_signal(signal.SIGHUP)
        until(lambda: there() == 200)
        until(lambda: "need a restart" in running.log())
        finish(http, submit(http, "a dragon"))
        problem(http.post("/api/v1/generate", json={"prompt": "a unicorn"} | SMALL), 400, "content_policy")
        assert httpx2.get(f"{running.url}/metrics", headers=bearer("a-token-that-is-hidden-2")).status_code == 200
        config.write_text(plain.replace(str(words), "nowhere.txt"))
        running.process.send_signal(signal.SIGHUP)
        until(lambda: "not reloaded" in running.log())
        assert there() == 200, "none of the settings was applied"
    log = running.log()
    assert "these settings need a restart: api_key (another value), lease 30.0 → 40.0" in log
    assert "allowed_hosts none → new.example, metrics_token (another value), access_log notable → all" in log
    assert "path=/healthz" in log, "requests that change nothing are logged now"
    assert "hidden" not in log


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_client_key_in_the_environment_is_not_a_key_of_the_server(state: Path) -> None:
    foreign = "umr_the-key-of-another-server"
    with server(state, UMRGEN_API_KEY=foreign) as running:
        assert running.key
        answer = httpx2.get(f"{running.url}/api/v1/jobs", headers={"Authorization": f"Bearer {foreign}"})
        assert answer.status_code == 401


@pytest.mark.timeout(40)  # without the line that it guards, it waits without end
def test_a_reader_of_the_log_that_stops_does_not_stop_the_server(state: Path) -> None:
    command = [sys.executable, *SERVE, str(state), "--json", "--access-log", "all", "--rate", "0"]
    with subprocess.Popen(
        tied(*command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment()
    ) as process:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        headers = {"Authorization": f"Bearer {started['key']}"}
        with httpx2.Client(base_url=started["url"], headers=headers, timeout=20) as http:
            for _ in range(1500):  # some 200 KB of log; a pipe has 64
                assert http.get("/api/v1/nothing").status_code == 404
            assert http.get("/healthz").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_damaged_ledger_is_one_line_with_the_remedy(state: Path) -> None:
    with server(state) as running, running.http() as http:
        finish(http, submit(http))
    path = state / "ledger.sqlite3"
    whole = path.read_bytes()
    for damaged in (b"x" + whole[1:], whole[: len(whole) // 2], b"not a database" * 100):
        path.write_bytes(damaged)
        for command in (("serve", "--port", "0"), ("keys", "list")):
            refused = cli(*command, "--state", str(state))
            assert refused.returncode == 1, refused
            (line,) = [line for line in refused.stderr.splitlines() if line.startswith("umrgen: ")]
            assert "umrgen ledger check" in line
            assert "Traceback" not in refused.stderr


def test_the_keys_command_does_not_invent_a_server(tmp_path: Path) -> None:
    for command in (("list",), ("revoke", "key_1")):
        refused = cli("keys", *command, "--state", str(tmp_path / "none"))
        assert refused.returncode == 1
        assert str(tmp_path / "none") in refused.stderr
        assert not (tmp_path / "none").exists()
    made = cli("keys", "create", "--state", str(tmp_path / "new"))
    assert made.returncode == 0
    assert "a new ledger is created" in made.stderr
    config = tmp_path / "umrgen.toml"
    config.write_text(f'state = "{tmp_path / "new"}"\n')
    again = cli("keys", "create", "--config", str(config))
    assert "a new ledger" not in again.stderr
    assert str(tmp_path / "new") in again.stderr


def test_a_state_folder_that_others_can_enter_is_a_warning(state: Path) -> None:
    state.mkdir(mode=0o755)
    with server(state) as running:
        assert "chmod 700" in running.log()


@pytest.mark.slow
def test_a_short_key_is_refused(state: Path) -> None:
    assert cli("serve", "--port", "0", "--state", str(state), "--api-key", "short").returncode == 1
    assert not state.exists(), "nothing was made"


def test_a_published_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a substitute: the real key is printed in the guide, and in no file of this repository."""
    printed = "a-secret-key-printed-in-a-guide"
    check_usable(printed)
    monkeypatch.setattr(api_keys, "_PRINTED_IN_THE_GUIDE", hash_key(printed))
    with pytest.raises(PublicKey) as refused:
        check_usable(printed)
    assert printed not in str(refused.value)


if GUIDE.is_file():

    @pytest.mark.slow
    def test_the_key_of_the_guide_is_refused(state: Path) -> None:
        guide_key = re.search(r"Bearer (\S+)", GUIDE.read_text())[1]  # type: ignore[index]
        refused = cli("serve", "--port", "0", "--state", str(state), UMRGEN_SERVER_KEY=guide_key)
        assert refused.returncode == 1
        assert "guide" in refused.stderr
        assert guide_key not in refused.stderr
        assert not state.exists(), "nothing was made"


@pytest.mark.slow
def test_a_key_from_the_environment(state: Path) -> None:
    own = hashlib.sha256(b"any").hexdigest()
    with server(state, UMRGEN_SERVER_KEY=own) as running:
        assert running.key == ""
        answer = httpx2.get(f"{running.url}/api/v1/status/x", headers={"Authorization": f"Bearer {own}"})
        assert answer.status_code == 404


@pytest.mark.slow
def test_a_public_bind_needs_a_key_first(state: Path) -> None:
    for host in ("0.0.0.0", "::"):
        refused = cli("serve", "--host", host, "--port", "0", "--state", str(state))
        assert refused.returncode == 1
        assert "umrgen keys create" in refused.stderr
    assert json.loads(cli("keys", "list", "--state", str(state), "--json").stdout) == {"keys": []}


@pytest.mark.slow
def test_two_servers_do_not_share_a_state_folder(state: Path) -> None:
    with server(state):
        second = cli("serve", "--port", "0", "--state", str(state))
    assert second.returncode == 1
    assert "another server already runs" in second.stderr


@pytest.mark.slow
def test_a_port_that_is_taken_is_refused(state: Path, tmp_path: Path) -> None:
    """The HTTP server listens with SO_REUSEPORT, so a second one could share the port without an error."""
    with server(state) as running:
        port = running.url.rpartition(":")[2]
        second = cli("serve", "--port", port, "--state", str(tmp_path / "other"))
        assert second.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in second.stderr
        with running.http() as http:
            assert http.get("/healthz").status_code == 200


def test_ipv6(state: Path) -> None:
    with server(state, "--host", "::1") as running:
        assert running.url.startswith("http://[::1]:")
        with running.http() as http:
            assert http.get("/api/v1/jobs").status_code == 200


def test_a_start_that_fails_prints_one_line(state: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        occupied = cli("serve", "--port", port, "--state", str(state))
    file = tmp_path / "file"
    file.write_text("")
    for refused in (
        occupied,
        cli("serve", "--port", "0", "--state", str(file / "x")),
        cli("serve", "--port", "many", "--state", str(state)),
        cli("serve", "--port", "70000", "--state", str(state)),
        cli("serve", "--host", "no.such.host.invalid", "--state", str(state)),
        cli("serve", "--max-attempts", "0", "--state", str(state)),
    ):
        assert refused.returncode == 1, refused
        messages = [line for line in refused.stderr.splitlines() if line.startswith("umrgen: ")]
        assert len(messages) == 1, refused.stderr
        assert "Traceback" not in refused.stderr


def test_no_job_is_accepted_while_the_engine_cannot_start(state: Path) -> None:
    engine = ("--engine", "fake_engines:FakeRemoteEngine", "--engine-option", "failures=1000")
    running = ServerProcess(state, *engine, PYTHONPATH=str(Path(__file__).parents[1]))
    running.launch()
    with running.http() as http:
        submitting = lambda: http.post("/api/v1/generate", json={"prompt": "a lighthouse"})  # noqa: E731
        answer = until(lambda: (refused := submitting()).status_code == 503 and refused)
        assert answer.json()["code"] == "engine_unavailable"
        assert http.get("/readyz").status_code == 503
        assert http.get("/healthz").status_code == 200
    assert running.stop() == 0


@pytest.mark.slow
def test_keys_are_created_listed_and_revoked(state: Path) -> None:
    made = json.loads(cli("keys", "create", "--name", "mine", "--state", str(state), "--json").stdout)
    assert set(made) >= {"key", "id", "session_id", "name"}
    assert len(made["key"]) >= 43
    other = cli("keys", "create", "--state", str(state))
    assert other.stdout.strip().startswith("umr_")
    listed = cli("keys", "list", "--state", str(state))
    assert made["key"] not in listed.stdout
    assert made["id"] in listed.stdout
    assert cli("keys", "revoke", made["id"], "--state", str(state)).returncode == 0
    assert cli("keys", "revoke", "key_none", "--state", str(state)).returncode == 1
    found = json.loads(cli("keys", "list", "--state", str(state), "--json").stdout)["keys"]
    assert {key["id"]: key["revoked_at"] is not None for key in found}[made["id"]]


@pytest.mark.slow
def test_a_key_is_rotated_and_limited_while_the_server_runs(state: Path) -> None:
    with server(state) as running, running.http() as http:
        finish(http, submit(http))
        place = ("--state", str(state))
        (old,) = json.loads(cli("keys", "list", *place, "--json").stdout)["keys"]
        rotated = json.loads(cli("keys", "rotate", old["id"], "--grace", "1h", *place, "--json").stdout)
        limited = cli("keys", "limits", rotated["id"], "--rate", "70", *place)
        assert (limited.returncode, limited.stdout) == (0, f"{rotated['id']}: 70/min\n")
        with running.http(**bearer(rotated["key"])) as new:
            until(lambda: new.get("/api/v1/capabilities").json()["limits"]["requests_per_minute"] == 70)
            assert len(new.get("/api/v1/jobs").json()["jobs"]) == 1, "it has the session's jobs"
        assert http.get("/api/v1/jobs").status_code == 200, "within the grace period"
        gone = json.loads(cli("keys", "rotate", rotated["id"], *place, "--json").stdout)
        until(lambda: httpx2.get(f"{running.url}/api/v1/jobs", headers=bearer(rotated["key"])).status_code == 401)
        assert httpx2.get(f"{running.url}/api/v1/jobs", headers=bearer(gone["key"])).status_code == 200
    for command in (("rotate", "key_none"), ("limits", "key_none", "--rate", "1")):
        refused = cli("keys", *command, *place)
        assert (refused.returncode, "there is no key key_none" in refused.stderr) == (1, True)
