"""`umrgen resume`: the job of a killed command is finished, exactly once."""

import json
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from http_to import http_to
from support import ServerProcess, clean_environment, cli, finish, tied, until
from umrgen.client.journal import Journal
from umrgen.image_files import verify
from umrgen.testing import FaultServer, Respond

SMALL = ["--width", "512", "--height", "512", "--steps", "1"]


@pytest.fixture
def environment(shared_server: ServerProcess, tmp_path: Path) -> dict[str, str]:
    return {
        "UMRGEN_BASE_URL": shared_server.url,
        "UMRGEN_API_KEY": shared_server.key,
        "XDG_DATA_HOME": str(tmp_path / "home"),
    }


def journal(environment: dict[str, str]) -> Journal:
    return Journal(Path(environment["XDG_DATA_HOME"]) / "umrgen" / "journal.ndjson")


def killed_after(lines: int, pause: float, target: Path, environment: dict[str, str]) -> None:
    """Start `generate`, and send SIGKILL `pause` seconds after its first `lines` events."""
    command = [sys.executable, "-m", "umrgen", "generate", target.stem, "-o", str(target), "--events", *SMALL]
    with subprocess.Popen(
        tied(*command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=clean_environment(**environment)
    ) as process:
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        try:
            process.wait(pause)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)


@pytest.mark.slow
def test_resume_after_a_hundred_kills_at_random_times(state: Path, tmp_path: Path) -> None:
    from support import server

    rng = random.Random(20261123)
    folder = tmp_path / "images"
    folder.mkdir()
    plan = []
    for number in range(100):
        lines = rng.choice([0, 1, 1, 1, 2, 2, 3])
        start = 0.2 if lines == 0 else 0.0  # the interpreter must start before it can be interrupted
        plan.append((lines, start + rng.random() * 0.12, folder / f"boat-{number}.png"))
    with server(state) as running:
        environment = {
            "UMRGEN_BASE_URL": running.url,
            "UMRGEN_API_KEY": running.key,
            "XDG_DATA_HOME": str(tmp_path / "home"),
        }
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda row: killed_after(*row, environment), plan))
        begun = journal(environment).entries()
        interrupted = journal(environment).unfinished()
        assert len(interrupted) >= 25, "too few kills hit a running command"

        rows = json.loads(cli("resume", "--json", timeout=110, **environment).stdout)["jobs"]
        assert [row["state"] for row in rows] == ["completed"] * len(interrupted)
        assert journal(environment).unfinished() == []

        images = sorted(folder.iterdir())
        assert [path.name for path in images] == sorted(Path(entry.target or "").name for entry in begun)
        for path in images:
            assert verify(path.read_bytes()).width == 512
        with running.http() as http:
            jobs = http.get("/api/v1/jobs", params={"limit": 200}).json()["jobs"]
    assert len(jobs) == len(begun), "a job was created twice or lost"
    assert {job["attempt"] for job in jobs} == {1}


def test_a_submit_without_a_known_id_is_not_repeated(
    shared_server: ServerProcess, environment: dict[str, str], tmp_path: Path
) -> None:
    log = journal(environment)
    request = {"prompt": "a boat", "width": 512, "height": 512, "steps": 1}
    log.begin(shared_server.url, request, "resume-1", target=tmp_path / "boat.png")
    with shared_server.http() as http:  # the server has received it
        job_id = http.post("/api/v1/generate", json=request, headers={"Idempotency-Key": "resume-1"}).json()["job_id"]
    resumed = json.loads(cli("resume", "--json", **environment).stdout)["jobs"]
    assert resumed == [{"job_id": job_id, "state": "completed", "path": str(tmp_path / "boat.png")}]


@pytest.mark.slow
def test_an_image_that_was_already_saved_is_recognised(environment: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "boat.png"
    cli("generate", "a boat", "-o", str(target), *SMALL, **environment)
    (entry,) = journal(environment).entries()
    path = journal(environment).path
    path.write_bytes(b"".join(line for line in path.read_bytes().splitlines(True) if b'"end"' not in line))
    before = target.stat().st_mtime_ns
    resumed = json.loads(cli("resume", "--json", **environment).stdout)["jobs"]
    assert resumed == [{"job_id": entry.job_id, "state": "completed", "path": str(target)}]
    assert target.stat().st_mtime_ns == before


@pytest.mark.slow
def test_another_file_at_the_target_is_not_replaced(environment: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "boat.png"
    killed_after(1, 0.0, target, environment)
    target.write_bytes(b"another file")
    refused = cli("resume", "--json", **environment)
    assert refused.returncode == 1
    assert target.read_bytes() == b"another file"
    (entry,) = journal(environment).unfinished()
    done = cli("resume", str(entry.job_id), "-o", str(tmp_path / "other.png"), **environment)
    assert done.returncode == 0, done.stderr
    assert verify((tmp_path / "other.png").read_bytes()).width == 512


@pytest.mark.slow
def test_a_partial_file_is_continued(environment: dict[str, str], tmp_path: Path) -> None:
    from umrgen.client.flows.download import partial_name

    target = tmp_path / "boat.png"
    job_id = cli("submit", "a boat", *SMALL, **environment).stdout.strip()
    server_url = environment["UMRGEN_BASE_URL"]
    import httpx2

    with httpx2.Client(
        base_url=server_url, headers={"Authorization": f"Bearer {environment['UMRGEN_API_KEY']}"}
    ) as http:
        image = http.get(finish(http, job_id)["image_url"])
    half = target.with_name(partial_name(target.name, job_id, image.headers["etag"]))
    half.write_bytes(image.content[: len(image.content) // 2])
    done = cli("fetch", job_id, "-o", str(target), **environment)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == image.content
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["boat.png"]


@pytest.mark.slow
def test_the_job_of_an_embedded_server_is_finished(tmp_path: Path) -> None:
    home, target = tmp_path / "home", tmp_path / "boat.png"
    environment = clean_environment(XDG_DATA_HOME=str(home), UMRGEN_STEP_DELAY="0.5")
    command = [sys.executable, "-m", "umrgen", "generate", "a boat", "-o", str(target), "--steps", "4", *SMALL[:4]]
    with subprocess.Popen(tied(*command), stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        while "running" not in process.stderr.readline():
            pass
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
    until(lambda: not Path(f"/proc/{child}").exists())
    done = cli("resume", XDG_DATA_HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert verify(target.read_bytes()).width == 512
    assert list((home / "umrgen" / "embedded").iterdir()) == []
    assert cli("resume", XDG_DATA_HOME=str(home)).stdout.strip() == "no unfinished jobs"


def test_jobs_on_another_server_are_listed_but_not_resumed(environment: dict[str, str]) -> None:
    journal(environment).begin("http://elsewhere.example", {"prompt": "x"}, "k")
    done = cli("resume", "--json", **environment)
    assert json.loads(done.stdout)["jobs"] == [{"job_id": None, "state": "elsewhere", "path": None}]
    assert len(journal(environment).unfinished()) == 1
    assert cli("resume", "ext_none", **environment).returncode == 1


def test_the_journal_does_not_contain_the_api_key(environment: dict[str, str], tmp_path: Path) -> None:
    cli("generate", "a boat", "-o", str(tmp_path / "x.png"), *SMALL, **environment)
    for path in Path(environment["XDG_DATA_HOME"]).rglob("*"):
        if path.is_file():
            assert environment["UMRGEN_API_KEY"].encode() not in path.read_bytes()
            assert os.stat(path).st_mode & 0o077 == 0


class TestWhatCannotBeFinished:
    """Each ends in the journal, is reported once, and does not stop the others."""

    def resumed_twice(self, server: FaultServer, home: Path) -> tuple[int, list[dict[str, Any]], str]:
        """Return the exit code, the rows and the messages of `resume`; check that a second one has nothing to do."""
        environment = {"UMRGEN_BASE_URL": server.url, "UMRGEN_API_KEY": server.key, "XDG_DATA_HOME": str(home)}
        first, second = cli("resume", "--json", **environment), cli("resume", **environment)
        assert (second.returncode, second.stdout) == (0, "no unfinished jobs\n")
        return first.returncode, json.loads(first.stdout)["jobs"], first.stderr

    def begun(self, server: FaultServer, home: Path, job_id: str, target: str) -> None:
        log = Journal(home / "umrgen" / "journal.ndjson", wall=lambda: 1_790_000_000.0)
        log.submitted(log.begin(server.url, {"prompt": "a boat"}, job_id, target=home / target), job_id)

    def test_an_unknown_job_does_not_stop_the_others(self, tmp_path: Path) -> None:
        with FaultServer("legacy", job_seconds=0) as server, http_to(server) as http:
            good = http.post("/api/v1/generate", json={"prompt": "a boat"}).json()["job_id"]
            for job_id in ("ext_gone", good, "../bad"):
                self.begun(server, tmp_path, job_id, f"{len(job_id)}.png")
            log = Journal(tmp_path / "umrgen" / "journal.ndjson")
            (bad,) = [entry for entry in log.unfinished() if entry.job_id == "../bad"]
            dropped = cli("forget", bad.id, "--json", XDG_DATA_HOME=str(tmp_path))
            assert json.loads(dropped.stdout) == {"forgotten": ["../bad"]}
            code, rows, messages = self.resumed_twice(server, tmp_path)
        assert code == 1
        assert {row["job_id"]: row["state"] for row in rows} == {"ext_gone": "gone", good: "completed"}
        assert verify((tmp_path / f"{len(good)}.png").read_bytes())
        assert "job ext_gone was submitted to" in messages
        assert "on 2026-09-21" in messages

    def test_a_job_without_an_image(self, tmp_path: Path) -> None:
        with FaultServer("legacy", job_seconds=0, images=0) as server, http_to(server) as http:
            job_id = http.post("/api/v1/generate", json={"prompt": "a boat"}).json()["job_id"]
            self.begun(server, tmp_path, job_id, "a.png")
            code, rows, _ = self.resumed_twice(server, tmp_path)
        assert (code, [row["state"] for row in rows]) == (6, ["missing"])

    @pytest.mark.parametrize("status", [404, 410])
    def test_a_deleted_image(self, tmp_path: Path, status: int) -> None:
        with FaultServer("legacy", job_seconds=0) as server, http_to(server) as http:
            server.on("GET /outputs/*", Respond(status, b""), times=None)
            job_id = http.post("/api/v1/generate", json={"prompt": "a boat"}).json()["job_id"]
            self.begun(server, tmp_path, job_id, "a.png")
            code, rows, _ = self.resumed_twice(server, tmp_path)
        assert (code, [row["state"] for row in rows]) == (6, ["missing"])

    def test_a_refused_key_ends_nothing(self, environment: dict[str, str], shared_server: ServerProcess) -> None:
        journal(environment).begin(shared_server.url, {"prompt": "a boat"}, "resume-401")
        done = cli("resume", "--json", **environment | {"UMRGEN_API_KEY": "umr_of-another-server-000"})
        assert done.returncode == 4
        assert [entry.idempotency_key for entry in journal(environment).unfinished()] == ["resume-401"]

    def test_the_job_of_another_key_stays(
        self, environment: dict[str, str], shared_server: ServerProcess, tmp_path: Path
    ) -> None:
        made = cli("keys", "create", "--state", str(shared_server.state), "--json")
        other = environment | {"UMRGEN_API_KEY": json.loads(made.stdout)["key"]}
        size = ["--width", "512", "--height", "512", "--steps", "1"]
        job_id = cli("submit", "a boat", *size, **environment).stdout.strip()
        refused = cli("resume", "--json", **other)
        assert refused.returncode == 1
        assert [row["state"] for row in json.loads(refused.stdout)["jobs"]] == ["unfinished"]
        assert "with another API key" in cli("status", job_id, **other).stderr
        assert environment["UMRGEN_API_KEY"] not in journal(environment).path.read_text()
        done = cli("resume", "-o", f"{tmp_path}/x.png", **environment)
        assert (done.returncode, done.stdout.split()[0]) == (0, job_id)

    def test_a_submit_with_another_key_is_not_repeated_unless_it_is_named(
        self, environment: dict[str, str], shared_server: ServerProcess, tmp_path: Path
    ) -> None:
        """Its response was lost: with this key, the server would not find the job of the first submit."""
        request = {"prompt": "a boat"} | {"width": 512, "height": 512, "steps": 1}
        target = tmp_path / "x.png"
        entry = journal(environment).begin(shared_server.url, request, "resume-key", target=target, key_mark="0badc0de")
        skipped = cli("resume", "--json", **environment)
        assert skipped.returncode == 0
        assert [(row["entry"], row["state"]) for row in json.loads(skipped.stdout)["jobs"]] == [(entry, "other_key")]
        assert "with another API key" in cli("resume", **environment).stdout
        assert [entry.id for entry in journal(environment).unfinished()] == [entry]
        done = cli("resume", entry, **environment)
        assert (done.returncode, verify(target.read_bytes()).width) == (0, 512)

    def test_an_unreachable_server_ends_nothing(self, tmp_path: Path) -> None:
        with FaultServer("legacy") as server:
            self.begun(server, tmp_path, "ext_1", "a.png")
        environment = {"UMRGEN_BASE_URL": server.url, "UMRGEN_API_KEY": server.key, "XDG_DATA_HOME": str(tmp_path)}
        done = cli("resume", "--json", "--timeout", "1", **environment)
        assert json.loads(done.stdout)["jobs"][0]["state"] == "unfinished"
        assert len(Journal(tmp_path / "umrgen" / "journal.ndjson").unfinished()) == 1


@pytest.mark.slow
def test_images_that_a_killed_command_did_not_submit(tmp_path: Path) -> None:
    with FaultServer("legacy", job_seconds=2) as server, http_to(server) as http:
        environment = {"UMRGEN_BASE_URL": server.url, "UMRGEN_API_KEY": server.key, "XDG_DATA_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "umrgen", "generate", "a boat", "-n", "3", "-o", str(tmp_path), "--events"]
        with subprocess.Popen(
            tied(*command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=clean_environment(**environment)
        ) as process:
            assert process.stdout is not None
            while b'"status"' not in process.stdout.readline():
                pass
            process.kill()
        (first,) = server.jobs
        http.post(f"/api/cancel/{first.id}")
        cli("forget", first.id, XDG_DATA_HOME=str(tmp_path))
        listed = cli("resume", "--json", **environment)
        rows = json.loads(listed.stdout)["jobs"]
        assert [(row["job_id"], row["state"], row["prompt"]) for row in rows] == [(None, "not_submitted", "a boat")] * 2
        assert "umrgen resume --all" in cli("resume", **environment).stderr
        assert len(server.jobs) == 1
        cli("forget", rows[0]["entry"], XDG_DATA_HOME=str(tmp_path))
        done = cli("resume", "--all", "--json", **environment)
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(done.stdout)["jobs"]
        assert row["state"] == "completed"
        assert [job.id for job in server.jobs] == [first.id, row["job_id"]]
        assert verify(Path(row["path"]).read_bytes())
