"""The client in unusual surroundings: no home, closed descriptors, a fork, a second event loop, other systems."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import clean_environment, cli, tied
from umrgen import AsyncClient, Client, UmrgenError
from umrgen.client.journal import Journal, JournalUnusable
from umrgen.image_files import verify
from umrgen.testing import FaultServer


@pytest.fixture(scope="module")
def fault_server() -> Iterator[FaultServer]:
    with FaultServer(job_seconds=0) as running:
        yield running


@pytest.fixture
def environment(fault_server: FaultServer, tmp_path: Path) -> dict[str, str]:
    return {
        "UMRGEN_BASE_URL": fault_server.url,
        "UMRGEN_API_KEY": fault_server.key,
        "XDG_DATA_HOME": str(tmp_path / "home"),
    }


def shell(script: str, environment: dict[str, str], folder: Path) -> "subprocess.CompletedProcess[bytes]":
    """Run a shell script, in which `$0 -m umrgen` is the command line, in `folder`."""
    command = tied("sh", "-c", script.replace("umrgen", '"$0" -m umrgen'), sys.executable)
    return subprocess.run(command, cwd=folder, env=clean_environment(**environment), capture_output=True, timeout=60)


class TestWithoutAHome:
    def test_a_warning_and_no_journal(self, environment: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "home").write_text("a file where the folder should be")
        done = cli("generate", "a boat", "-o", str(tmp_path / "x.png"), "--json", **environment)
        assert done.returncode == 0, done.stderr
        assert verify((tmp_path / "x.png").read_bytes())
        assert [line.startswith("umrgen: warning: the journal") for line in done.stderr.splitlines()] == [True]
        assert json.loads(done.stdout)["path"] == str(tmp_path / "x.png")

    def test_an_unknown_user(self, fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_home(path: Path) -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "expanduser", no_home)
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        with pytest.warns(RuntimeWarning, match="no home folder") as warned:
            client = Client(fault_server.url, fault_server.key)
            with client:
                client.submit("a boat").wait()
                client.submit("another boat").wait()
        assert len(warned) == 1

    def test_a_journal_that_was_asked_for_must_be_writable(self, fault_server: FaultServer, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        journal = Journal(tmp_path / "file" / "journal")
        with Client(fault_server.url, fault_server.key, journal=journal) as client, pytest.raises(JournalUnusable):
            client.submit("a boat")

    def test_an_embedded_server(self, tmp_path: Path) -> None:
        (tmp_path / "home").write_text("")
        options = ["--width", "512", "--height", "512", "--steps", "1", "--json"]
        done = cli("generate", "boat", *options, "-o", str(tmp_path / "x.png"), XDG_DATA_HOME=str(tmp_path / "home"))
        assert done.returncode == 0, done.stderr


class TestDescriptors:
    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
    def test_closed(self, environment: dict[str, str], tmp_path: Path, closed: str) -> None:
        done = shell(f"umrgen generate boat -o x.png {closed}", environment, tmp_path)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert verify((tmp_path / "x.png").read_bytes())

    @pytest.mark.parametrize("command", ["--help", "generate boat", "generate boat --json", "jobs --local"])
    def test_a_full_disk_for_stdout_is_one_error(
        self, environment: dict[str, str], tmp_path: Path, command: str
    ) -> None:
        done = shell(f"umrgen {command} > /dev/full", environment, tmp_path)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == b"umrgen: stdout cannot be written: No space left on device."
        assert b"Traceback" not in done.stderr

    def test_a_full_disk_for_stderr(self, environment: dict[str, str], tmp_path: Path) -> None:
        assert shell("umrgen status ../x 2> /dev/full", environment, tmp_path).returncode == 1

    def test_a_reader_that_closes(self, environment: dict[str, str], tmp_path: Path) -> None:
        done = shell("umrgen --help | true", environment, tmp_path)
        assert done.stderr == b""


class TestText:
    def test_a_prompt_that_is_no_utf_8(self, environment: dict[str, str], tmp_path: Path) -> None:
        done = shell("umrgen generate $(printf 'boat\\377')", environment | {"LANG": "C"}, tmp_path)
        assert done.returncode == 2
        assert b"UTF-8" in done.stderr

    @pytest.mark.parametrize("utf8", ["0", "1"])
    def test_a_path_that_is_no_utf_8(self, environment: dict[str, str], tmp_path: Path, utf8: str) -> None:
        language = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": utf8}
        done = shell("umrgen generate b -o $(printf 'b\\377.png')", environment | language, tmp_path)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert (tmp_path / os.fsdecode(b"b\xff.png")).is_file()

    def test_a_dumb_terminal_gets_no_escapes(self, environment: dict[str, str], tmp_path: Path) -> None:
        script = "script -qec '\"'$0'\" -m umrgen generate boat -o x.png' /dev/null"
        command = tied("sh", "-c", script, sys.executable)
        variables = clean_environment(**environment, TERM="dumb")
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stdout
        assert b"\x1b" not in done.stdout


def test_an_ignored_sigint(environment: dict[str, str], tmp_path: Path) -> None:
    done = shell("trap '' INT; umrgen generate boat -o x.png", environment, tmp_path)
    assert done.returncode == 0
    assert verify((tmp_path / "x.png").read_bytes())


def test_a_umask_for_one_user(environment: dict[str, str], tmp_path: Path) -> None:
    shell("umask 077; umrgen generate boat -o x.png", environment, tmp_path)
    assert (tmp_path / "x.png").stat().st_mode & 0o777 == 0o600


def test_a_client_after_a_fork(fault_server: FaultServer) -> None:
    with Client(fault_server.url, fault_server.key, journal=None) as client:
        client.submit("a boat").wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads
            child = os.fork()
        if child == 0:
            signal.alarm(20)
            code = 1
            try:
                client.submit("another boat")
            except UmrgenError as error:
                client.close()
                code = 0 if error.code == "forked" else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        client.submit("a third boat").wait()


def test_one_client_on_several_event_loops(fault_server: FaultServer) -> None:
    client = AsyncClient(fault_server.url, fault_server.key, journal=None)

    async def once() -> str:
        return (await (await client.submit("a boat")).wait()).state

    async def last() -> str:
        async with client:
            return await once()

    assert [asyncio.run(once()), asyncio.run(once()), asyncio.run(last())] == ["completed"] * 3
    gc.collect()


WITHOUT_POSIX = """
import sys
for name in ("fcntl", "resource", "termios", "pwd", "grp", "tty", "pty", "syslog"):
    sys.modules[name] = None
import os
for name in ("fork", "getuid", "geteuid", "mkfifo", "chown", "O_NONBLOCK", "O_NOCTTY"):
    if hasattr(os, name):
        delattr(os, name)
"""


@pytest.mark.parametrize(
    "command", ["generate boat -o x.png", "submit boat", "resume", "jobs", "doctor", "generate b -n 2"]
)
def test_without_the_modules_of_posix(environment: dict[str, str], tmp_path: Path, command: str) -> None:
    code = f"{WITHOUT_POSIX}\nfrom umrgen.cli import main\nmain()"
    done = subprocess.run(
        tied(sys.executable, "-c", code, *command.split()),
        cwd=tmp_path,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
