"""A run of `make test` that is stopped leaves no process of a server or an engine."""

import json
import os
import pty
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support import clean_environment, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
COMMAND = ("make", "test", "TESTS=tests/slow/waits_for_ever.py")
IN_A_SHELL = ("bash", "-c", " ".join(COMMAND) + "; exit $?")
"""The command in a shell, as in a terminal: when the terminal is closed, the shell gets SIGHUP, and after its end
the other processes of the session do."""


def ctrl_c(make: "subprocess.Popen[bytes]", terminal: int) -> None:
    os.write(terminal, b"\x03")


def closed_terminal(make: "subprocess.Popen[bytes]", terminal: int) -> None:
    os.close(terminal)


def service_manager(make: "subprocess.Popen[bytes]", terminal: int) -> None:
    make.send_signal(signal.SIGTERM)


def killed(make: "subprocess.Popen[bytes]", terminal: int) -> None:
    """Kill pytest's worker with SIGKILL, so that it cannot clean up."""
    worker = json.loads(Path(os.environ["PIDS_FILE"]).read_text())[0]
    os.kill(worker, signal.SIGKILL)
    make.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("stop", [ctrl_c, closed_terminal, service_manager, killed])
def test_a_stopped_run_leaves_no_process(
    stop: Callable[["subprocess.Popen[bytes]", int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setsid = shutil.which("setsid")
    assert setsid, "util-linux is part of every Debian"
    pids_file = tmp_path / "pids"
    monkeypatch.setenv("PIDS_FILE", str(pids_file))
    environment = clean_environment(PIDS_FILE=str(pids_file))
    for name in [name for name in environment if name.startswith(("PYTEST_", "MAKE", "MFLAGS"))]:
        del environment[name]
    terminal, other_end = pty.openpty()
    log = tmp_path / "log"
    with log.open("wb") as output:
        make = subprocess.Popen(
            [setsid, "--ctty", *(IN_A_SHELL if stop is closed_terminal else COMMAND)],
            cwd=ROOT,
            env=environment,
            stdin=other_end,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    os.close(other_end)
    try:
        until(lambda: pids_file.exists() or make.poll() is not None, 120)
        assert pids_file.exists(), log.read_text()
        pids = json.loads(pids_file.read_text())
        assert len(pids) == 3
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        stop(make, terminal)
        make.wait(60)
        until(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], 60)
    finally:
        if make.poll() is None:
            make.kill()
            make.wait()
        if stop is not closed_terminal:
            os.close(terminal)
