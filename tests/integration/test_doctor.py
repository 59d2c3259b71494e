"""`umrgen doctor`: one line per check, with a remedy for a failure, and no job is created."""

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from support import ServerProcess, cli
from umrgen.client.config import Profile, Profiles
from umrgen.client.journal import Journal
from umrgen.client.local_checks import check_proxy, local_checks
from umrgen.testing import FaultServer, HtmlPage, Respond


def doctor(url: str, key: str, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = cli("doctor", "--json", *arguments, UMRGEN_BASE_URL=url, UMRGEN_API_KEY=key)
    report = json.loads(done.stdout)
    assert report["ok"] is (done.returncode == 0)
    checks = {check["check"]: check for check in report["checks"]}
    for check in checks.values():
        assert check["words"]
        assert check["verdict"] != "bad" or check["remedy"], "a failure without a remedy"
    return done.returncode, checks


def verdicts(checks: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: check["verdict"] for name, check in checks.items()}


def newest(http: httpx2.Client) -> list[str]:
    """Return the id of the newest job, which may still run; none without jobs."""
    return [job["job_id"] for job in http.get("/api/v1/jobs?limit=1").json()["jobs"]]


def test_all_checks_are_good_and_create_no_job(shared_server: ServerProcess, tmp_path: Path) -> None:
    with shared_server.http() as http:
        before = newest(http)
        code, checks = doctor(shared_server.url, shared_server.key, "-o", str(tmp_path))
        assert newest(http) == before, "a job was created"
    assert code == 0
    assert set(verdicts(checks).values()) == {"good"}
    here = {"folder", "disk", "journal", "proxy"}
    assert set(checks) == here | {"address", "api", "key", "clock", "abilities", "version"}
    assert checks["folder"]["words"].startswith(str(tmp_path))
    assert "UMRGEN_BASE_URL" in checks["address"]["words"]
    for ability in ("wait", "batch_status", "cancel", "digests"):
        assert ability in checks["abilities"]["words"]


def test_draw_creates_an_image(shared_server: ServerProcess) -> None:
    code, checks = doctor(shared_server.url, shared_server.key, "--draw")
    assert (code, checks["picture"]["verdict"]) == (0, "good")


def test_an_older_server_passes(tmp_path: Path) -> None:
    with FaultServer("legacy") as server:
        code, checks = doctor(server.url, server.key)
        assert not server.jobs
    assert code == 0
    assert "older server" in checks["abilities"]["words"]


def test_an_html_page_of_a_tunnel_is_reported() -> None:
    with FaultServer() as server:
        server.on("GET /api/v1/status/*", HtmlPage(), times=None)
        code, checks = doctor(server.url, server.key)
    assert code == 1
    assert "HTML" in checks["api"]["words"]
    assert "tunnel" in checks["api"]["remedy"]


@pytest.mark.parametrize("mode", ["modern", "legacy"])
@pytest.mark.parametrize("key", ["", "wrong"])
def test_an_invalid_key_is_reported(mode: str, key: str) -> None:
    with FaultServer(mode) as server:
        code, checks = doctor(server.url, key)
    assert code == 1
    assert checks["key"]["verdict"] == "bad"
    assert "umrgen keys create" in checks["key"]["remedy"]


def test_an_unreachable_or_invalid_address_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    code, checks = doctor(url, "k")
    assert code == 1
    assert "umrgen serve" in checks["address"]["remedy"]
    assert doctor("", "k")[1]["address"]["verdict"] == "bad"
    assert doctor("ftp://x", "k")[1]["address"]["verdict"] == "bad"


def test_a_wrong_clock_is_noted() -> None:
    with FaultServer() as server:
        past = {"Date": "Tue, 24 Nov 2020 08:00:00 GMT"}
        server.on("GET /api/v1/status/*", Respond(404, {"error": "Job not found"}, past), times=None)
        _, checks = doctor(server.url, server.key)
    assert checks["clock"]["verdict"] == "note"
    assert "ahead of" in checks["clock"]["words"]


def test_an_unwritable_folder_is_reported(shared_server: ServerProcess) -> None:
    code, checks = doctor(shared_server.url, shared_server.key, "-o", "/proc")
    assert (code, checks["folder"]["verdict"]) == (1, "bad")


@pytest.mark.slow
def test_another_version_an_unfinished_job_and_a_proxy_are_notes() -> None:
    with FaultServer() as server:
        server.on("GET /api/v1/capabilities", Respond(200, {"version": "9.0.0"}), times=None)
        journal = Journal()
        journal.begin(server.url, {"prompt": "a boat"}, "k")
        code, checks = doctor(server.url, server.key)
    assert code == 0
    assert "9.0.0" in checks["version"]["words"]
    assert "1 unfinished" in checks["journal"]["words"]
    assert verdicts(checks)["version"] == verdicts(checks)["journal"] == "note"


def test_what_this_machine_has_is_checked_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = Profiles()
    profiles.save(Profile("work", "http://127.0.0.1:1", "k"))
    profiles.path.chmod(0o644)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "umrgen").write_bytes(b"a file, not the folder")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 << 20))
    monkeypatch.chdir(tmp_path)
    checks = {check.name: check for check in local_checks(Path())}
    assert {name: check.verdict for name, check in checks.items()} == {
        "folder": "good",
        "disk": "bad",
        "journal": "bad",
        "profiles": "bad",
    }
    assert checks["folder"].message == f"{tmp_path} is writable"
    assert "chmod 600" in checks["profiles"].remedy
    profiles.path.write_bytes(b"{")
    assert "damaged" in {check.name: check for check in local_checks(Path())}["profiles"].message
    monkeypatch.setenv("HTTPS_PROXY", "http://u:secret@proxy:3128")
    proxy = check_proxy("https://umrgen.example.org")
    assert (proxy.verdict, "secret" in proxy.message) == ("note", False)


def test_the_text_output(shared_server: ServerProcess) -> None:
    done = cli("doctor", UMRGEN_BASE_URL=shared_server.url, UMRGEN_API_KEY="wrong-key-in-here")
    assert done.returncode == 1
    assert "✗ key" in done.stdout
    assert "→" in done.stdout
    assert "wrong-key-in-here" not in done.stdout + done.stderr
