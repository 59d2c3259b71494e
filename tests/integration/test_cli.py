"""The command line: data on stdout, messages on stderr, the documented exit codes."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support import ServerProcess, clean_environment, cli, finish, submit, tied, until
from umrgen.image_files import verify


@pytest.fixture
def environment(shared_server: ServerProcess) -> dict[str, str]:
    return {"UMRGEN_BASE_URL": shared_server.url, "UMRGEN_API_KEY": shared_server.key}


SMALL = ["--width", "512", "--height", "512", "--steps", "1"]


class TestGenerate:
    def test_against_a_server(self, environment: dict[str, str], tmp_path: Path) -> None:
        target = tmp_path / "boat.png"
        done = cli("generate", "a boat", "-o", str(target), "--seed", "7", "--json", *SMALL, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        result = json.loads(done.stdout)
        facts = verify(target.read_bytes(), sha256=result["sha256"])
        assert result["path"] == str(target)
        assert (result["bytes"], result["width"], result["height"]) == (facts.bytes, 512, 512)
        assert (result["seed"], result["engine"]) == (7, "procedural")
        assert result["job_id"].startswith("ext_")
        assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["boat.png"]

    def test_the_text_output(self, environment: dict[str, str], tmp_path: Path) -> None:
        done = cli("generate", "a boat", *SMALL, cwd=tmp_path, **environment)
        path = tmp_path / done.stdout.splitlines()[0]
        assert verify(path.read_bytes()).width == 512
        assert path.stem in done.stderr, "the job's id is printed before the wait"
        assert "sha256" in done.stdout
        assert "seed" in done.stdout

    def test_into_a_folder(self, environment: dict[str, str], tmp_path: Path) -> None:
        done = cli("generate", "a boat", "-o", str(tmp_path), "--json", *SMALL, **environment)
        result = json.loads(done.stdout)
        assert Path(result["path"]) == tmp_path / f"{result['job_id']}.png"

    def test_without_a_server_it_starts_a_temporary_one_and_removes_it(self, tmp_path: Path) -> None:
        target = tmp_path / "boat.png"
        done = cli("generate", "a boat", "-o", str(target), *SMALL, XDG_DATA_HOME=str(tmp_path / "data"))
        assert done.returncode == 0, done.stderr
        assert "starting one" in done.stderr
        assert verify(target.read_bytes()).width == 512
        assert list((tmp_path / "data" / "umrgen" / "embedded").iterdir()) == []
        assert (tmp_path / "data" / "umrgen").stat().st_mode & 0o077 == 0  # else `umrgen serve` warns of it

    def test_several_images(self, environment: dict[str, str], tmp_path: Path) -> None:
        done = cli(
            "generate",
            "a boat",
            "-n",
            "3",
            "-o",
            str(tmp_path / "b.png"),
            "--seed",
            "5",
            "--json",
            *SMALL,
            **environment,
        )
        result = json.loads(done.stdout)
        assert sorted(image["seed"] for image in result["images"]) == [5, 6, 7]
        assert {path.name for path in tmp_path.glob("*.png")} == {"b-1.png", "b-2.png", "b-3.png"}

    def test_events(self, environment: dict[str, str], tmp_path: Path) -> None:
        done = cli("generate", "a boat", "-o", str(tmp_path / "x.png"), "--events", *SMALL, **environment)
        events = [json.loads(line) for line in done.stdout.splitlines()]
        kinds = [event["event"] for event in events]
        assert kinds[0] == "submitted"
        assert kinds[-1] == "done"
        assert kinds.count("done") == 1


class TestBadInput:
    def one_line(self, done: "subprocess.CompletedProcess[str]", code: int, *parts: str) -> None:
        assert done.returncode == code, done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("umrgen: ")]
        assert len(lines) == 1, done.stderr
        assert "Traceback" not in done.stderr
        for part in parts:
            assert part in lines[0]

    def test_a_missing_folder_or_an_existing_target_is_refused(
        self, environment: dict[str, str], tmp_path: Path
    ) -> None:
        self.one_line(cli("generate", "x", "-o", "/no/such/dir/x.png", **environment), 1, "/no/such/dir", "mkdir -p")
        taken = tmp_path / "taken.png"
        taken.write_bytes(b"mine")
        self.one_line(cli("generate", "x", "-o", str(taken), **environment), 1, "exists", "--overwrite")
        assert taken.read_bytes() == b"mine"
        assert cli("generate", "x", "-o", str(taken), "--overwrite", *SMALL, **environment).returncode == 0
        assert verify(taken.read_bytes()).width == 512
        assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["taken.png"]

    def test_an_unwritable_folder(self, environment: dict[str, str]) -> None:
        # Even root cannot write into /proc.
        self.one_line(cli("generate", "x", "-o", "/proc/x.png", *SMALL, **environment), 1, "/proc")

    @pytest.mark.slow
    def test_an_unreachable_server(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        target = tmp_path / "x.png"
        done = cli("generate", "x", "-o", str(target), "--timeout", "2", UMRGEN_BASE_URL=url, UMRGEN_API_KEY="k" * 20)
        self.one_line(done, 7, f"the server {url} cannot be reached", "UMRGEN_BASE_URL")
        assert not target.exists()

    def test_a_wrong_key(self, environment: dict[str, str]) -> None:
        done = cli("generate", "x", **environment | {"UMRGEN_API_KEY": "wrong-key-in-here"})
        self.one_line(done, 4, "UMRGEN_API_KEY")
        assert "wrong-key-in-here" not in done.stderr

    def test_an_invalid_request(self, environment: dict[str, str]) -> None:
        done = cli("generate", "x", "--width", "100", "--json", **environment)
        self.one_line(done, 1, "width")
        assert json.loads(done.stdout)["code"] == "invalid_request"

    @pytest.mark.slow
    def test_usage(self) -> None:
        for arguments in (["generate"], ["nonsense"], ["status"], ["generate", "x", "--width", "wide"], []):
            assert cli(*arguments).returncode == 2

    def test_no_server_configured(self) -> None:
        self.one_line(cli("status", "ext_1"), 1, "UMRGEN_BASE_URL")
        self.one_line(cli("status", "ext_1", "--base-url", "ftp://x"), 1, "http://host:port")

    @pytest.mark.slow
    def test_an_unknown_job(self, environment: dict[str, str]) -> None:
        for command in ("status", "wait", "fetch"):
            self.one_line(cli(command, "ext_none", **environment), 1, "ext_none")
        self.one_line(cli("status", "../../etc", **environment), 1, "job id")


class TestJobs:
    @pytest.mark.slow
    def test_submit_status_wait_fetch(self, environment: dict[str, str], tmp_path: Path) -> None:
        job_id = cli("submit", "a boat", *SMALL, **environment).stdout.strip()
        waited = cli("wait", job_id, "--json", **environment)
        assert json.loads(waited.stdout)["state"] == "completed"
        result = json.loads(cli("status", job_id, "--json", **environment).stdout)
        assert (result["job_id"], result["state"], result["success"]) == (job_id, "completed", True)
        fetched = cli("fetch", job_id, cwd=tmp_path, **environment)
        assert fetched.stdout.strip() == f"{job_id}.png"
        assert verify((tmp_path / f"{job_id}.png").read_bytes()).width == 512
        again = cli("fetch", job_id, cwd=tmp_path, **environment)
        assert again.returncode == 1

    @pytest.mark.slow
    def test_watch_prints_each_change(self, environment: dict[str, str]) -> None:
        job_id = cli("submit", "a boat", *SMALL, **environment).stdout.strip()
        output = cli("watch", job_id, **environment)
        assert output.stdout.splitlines()[-1].startswith("completed")
        events = [json.loads(line) for line in cli("watch", job_id, "--events", **environment).stdout.splitlines()]
        assert [event["event"] for event in events] == ["status", "done"]

    @pytest.mark.slow
    def test_waiting_for_many(self, environment: dict[str, str]) -> None:
        ids = [cli("submit", "a boat", *SMALL, **environment).stdout.strip() for _ in range(2)]
        done = cli("wait", *ids, **environment)
        assert done.returncode == 0
        assert sorted(line.split()[0] for line in done.stdout.splitlines()) == sorted(ids)
        partly = cli("wait", *ids, "ext_none", "--json", **environment)
        assert partly.returncode == 1
        result = json.loads(partly.stdout)
        assert len(result["jobs"]) == 2
        assert result["errors"][0]["code"] == "job_not_found"

    @pytest.mark.slow
    def test_search_and_delete(self, shared_server: ServerProcess, environment: dict[str, str]) -> None:
        with shared_server.http() as http:
            first, second = submit(http, "a walrus on the commandline"), submit(http, "a seal on the commandline")
            finish(http, first)
            http.patch(f"/api/v1/jobs/{first}", json={"favorite": True}).raise_for_status()
        found = json.loads(cli("jobs", "--search", "COMMANDLINE walrus", "--json", **environment).stdout)["jobs"]
        assert [job["job_id"] for job in found] == [first]
        options = ("--search", "commandline", "--after", "2020-01-01", "--favorite")
        assert second not in cli("jobs", *options, **environment).stdout
        assert (
            cli("jobs", "--search", "commandline", "--before", "2020-01-01T10:00", **environment).stdout
            == "There are no jobs.\n"
        )
        deleted = cli("delete", first, second, **environment)
        assert (deleted.returncode, deleted.stdout) == (0, f"{first}  deleted\n{second}  deleted\n")
        again = cli("delete", first, "ext_unknown", "--json", **environment)
        assert again.returncode == 1
        assert json.loads(again.stdout.splitlines()[0])["deleted"] == [first]
        assert "ext_unknown" in again.stderr
        assert cli("jobs", "--search", "commandline", **environment).stdout == "There are no jobs.\n"

    def test_cancel_and_list(self, slow_server: ServerProcess) -> None:
        environment = {"UMRGEN_BASE_URL": slow_server.url, "UMRGEN_API_KEY": slow_server.key}
        job_id = cli("submit", "a boat\nin the mist", "--steps", "20", **environment).stdout.strip()
        assert json.loads(cli("cancel", job_id, "--json", **environment).stdout)["error_code"] == "cancelled"
        waited = cli("wait", job_id, **environment)
        assert waited.returncode == 5
        assert "cancelled" in waited.stderr
        listed = cli("jobs", "--state", "failed", **environment).stdout.splitlines()
        assert job_id in listed[0]
        assert "a boat in the mist" in listed[0]
        assert cli("jobs", "--local", **environment).returncode == 0

    @pytest.mark.slow
    def test_one_idempotency_key_makes_one_job(self, environment: dict[str, str]) -> None:
        ids = {cli("submit", "x", "--idempotency-key", "cli-1", *SMALL, **environment).stdout for _ in range(2)}
        assert len(ids) == 1

    @pytest.mark.slow
    def test_a_wait_that_is_too_short(self, slow_server: ServerProcess) -> None:
        with slow_server.http() as http:
            job_id = submit(http, steps=10)
            environment = {"UMRGEN_BASE_URL": slow_server.url, "UMRGEN_API_KEY": slow_server.key}
            done = cli("wait", job_id, "--timeout", "3", **environment)
            assert done.returncode == 3
            assert f"umrgen wait {job_id}" in done.stderr
            assert finish(http, job_id)["state"] == "completed"

    @pytest.mark.slow
    def test_ctrl_c_prints_how_to_continue_and_does_not_cancel_the_job(
        self, slow_server: ServerProcess, tmp_path: Path
    ) -> None:
        environment = clean_environment(UMRGEN_BASE_URL=slow_server.url, UMRGEN_API_KEY=slow_server.key)
        command = [sys.executable, "-m", "umrgen", "generate", "a boat", "--steps", "5", "-o", str(tmp_path / "x.png")]
        with subprocess.Popen(tied(*command), stderr=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stderr is not None
            first = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
        assert process.returncode == 130
        job_id = first.split()[1]
        assert "umrgen resume" in rest
        with slow_server.http() as http:
            assert finish(http, job_id)["state"] == "completed"
        assert not (tmp_path / "x.png").exists()


@pytest.mark.slow
def test_every_command_has_help() -> None:
    from umrgen.cli import COMMANDS

    overview = cli("--help").stdout
    for name in COMMANDS:
        assert name in overview
        help = cli(name, "--help")
        assert help.returncode == 0
        assert "Usage: umrgen" in help.stdout
    assert cli("--version").stdout.startswith("umrgen 0.")


@pytest.mark.slow
def test_an_embedded_server_ends_when_its_command_is_killed(tmp_path: Path) -> None:
    environment = clean_environment(XDG_DATA_HOME=str(tmp_path), UMRGEN_STEP_DELAY="30")
    command = [
        sys.executable,
        "-m",
        "umrgen",
        "generate",
        "a boat",
        "-o",
        str(tmp_path / "x.png"),
        *SMALL,
        "--steps",
        "4",
    ]
    with subprocess.Popen(tied(*command), stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        while "running" not in process.stderr.readline():
            pass
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
    until(lambda: not Path(f"/proc/{child}").exists())
