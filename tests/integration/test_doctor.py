"""`umrgen doctor`: what is wrong, one line each, with a remedy; and no job is started."""

import json
import socket
from pathlib import Path

import pytest

from support import ServerProcess, cli
from umrgen.testing import Answer, FaultServer, Page


def examine(url: str, key: str, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = cli("doctor", "--json", *arguments, UMRGEN_BASE_URL=url, UMRGEN_API_KEY=key)
    told = json.loads(done.stdout)
    assert told["ok"] is (done.returncode == 0)
    checks = {check["check"]: check for check in told["checks"]}
    for check in checks.values():
        assert check["words"]
        assert check["verdict"] != "bad" or check["remedy"], "a failure without a remedy"
    return done.returncode, checks


def verdicts(checks: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: check["verdict"] for name, check in checks.items()}


def test_all_is_well(shared_server: ServerProcess, tmp_path: Path) -> None:
    with shared_server.http() as http:
        before = http.get("/api/v1/jobs?limit=1").json()["jobs"][:1]
        code, checks = examine(shared_server.url, shared_server.key, "-o", str(tmp_path))
        assert http.get("/api/v1/jobs?limit=1").json()["jobs"][:1] == before, "it started a job"
    assert code == 0
    assert set(verdicts(checks).values()) == {"good"}
    assert set(checks) == {"folder", "address", "api", "key", "clock", "abilities"}
    for ability in ("wait", "batch_status", "cancel", "digests"):
        assert ability in checks["abilities"]["words"]


def test_a_picture_when_told(shared_server: ServerProcess) -> None:
    code, checks = examine(shared_server.url, shared_server.key, "--draw")
    assert (code, checks["picture"]["verdict"]) == (0, "good")


def test_an_older_server_is_fine(tmp_path: Path) -> None:
    with FaultServer("legacy") as server:
        code, checks = examine(server.url, server.key)
        assert not server.jobs
    assert code == 0
    assert "older server" in checks["abilities"]["words"]


def test_a_tunnels_page_stands_in_the_way() -> None:
    with FaultServer() as server:
        server.on("GET /api/v1/status/*", Page(), times=None)
        code, checks = examine(server.url, server.key)
    assert code == 1
    assert "HTML" in checks["api"]["words"]
    assert "tunnel" in checks["api"]["remedy"]


@pytest.mark.parametrize("mode", ["modern", "legacy"])
@pytest.mark.parametrize("key", ["", "wrong"])
def test_the_key_is_not_accepted(mode: str, key: str) -> None:
    with FaultServer(mode) as server:
        code, checks = examine(server.url, key)
    assert code == 1
    assert checks["key"]["verdict"] == "bad"
    assert "umrgen keys create" in checks["key"]["remedy"]


def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    code, checks = examine(url, "k")
    assert code == 1
    assert "umrgen serve" in checks["address"]["remedy"]
    assert examine("", "k")[1]["address"]["verdict"] == "bad"
    assert examine("ftp://x", "k")[1]["address"]["verdict"] == "bad"


def test_a_clock_that_is_wrong() -> None:
    with FaultServer() as server:
        late = {"Date": "Tue, 24 Nov 2020 08:00:00 GMT"}
        server.on("GET /api/v1/status/*", Answer(404, {"error": "Job not found"}, late), times=None)
        _, checks = examine(server.url, server.key)
    assert checks["clock"]["verdict"] == "note"
    assert "ahead of" in checks["clock"]["words"]


def test_a_folder_that_cannot_be_written(shared_server: ServerProcess) -> None:
    code, checks = examine(shared_server.url, shared_server.key, "-o", "/proc")
    assert (code, checks["folder"]["verdict"]) == (1, "bad")


def test_its_words(shared_server: ServerProcess) -> None:
    done = cli("doctor", UMRGEN_BASE_URL=shared_server.url, UMRGEN_API_KEY="wrong-key-in-here")
    assert done.returncode == 1
    assert "✗ key" in done.stdout
    assert "→" in done.stdout
    assert "wrong-key-in-here" not in done.stdout + done.stderr
