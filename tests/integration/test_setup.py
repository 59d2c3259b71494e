"""`umrgen setup`: it makes only the changes that it announced and that were confirmed."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from support import clean_environment, server, tied, until
from umrgen.cli.setup import write_new
from umrgen.errors import UmrgenError
from umrgen.server.settings import Settings

SETUP = (sys.executable, "-m", "umrgen", "setup")


class Home:
    """The home folder of a user, with a `systemctl` that notes its arguments."""

    def __init__(self, folder: Path, *, systemd: bool) -> None:
        self.folder = folder / "home"
        self.calls = folder / "calls"
        self.config = self.folder / ".config" / "umrgen" / "umrgen.toml"
        self.unit = self.folder / ".config" / "systemd" / "user" / "umrgen.service"
        programs = folder / "programs"
        for made in (self.folder, programs, folder / "run" / "systemd"):
            made.mkdir(parents=True)
        (programs / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {self.calls}\n')
        (programs / "systemctl").chmod(0o755)
        plain = {"HOME": str(self.folder), "PATH": f"{programs}:{os.environ['PATH']}", "DISPLAY": "", "BROWSER": "true"}
        without = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "WAYLAND_DISPLAY")
        self.environment = {name: value for name, value in clean_environment(**plain).items() if name not in without}
        if systemd:
            self.environment["XDG_RUNTIME_DIR"] = str(folder / "run")

    def files(self) -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in self.folder.rglob("*") if file.is_file()}

    def setup(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            tied(*SETUP, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
        )

    def in_terminal(self, answers: str) -> str:
        """Run it in a terminal with these answers; return its output."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(tied(*SETUP), stdin=theirs, stdout=theirs, stderr=theirs, env=self.environment)
        os.close(theirs)
        os.write(ours, answers.encode())
        shown = b""
        with suppress(OSError):  # the other end of the terminal is closed
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
        assert process.wait(30) == 0, shown
        return shown.decode()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, systemd=False)


def test_without_a_terminal_it_needs_a_decision(home: Home) -> None:
    refused = home.setup()
    assert refused.returncode == 1
    assert "standard input is not a terminal. Run it in a terminal, or take every default: umrgen setup --yes" in (
        refused.stderr
    )
    assert home.files() == {}


@pytest.mark.slow
def test_a_second_run_changes_nothing(home: Home) -> None:
    done = home.setup("--yes")
    assert done.returncode == 0, done.stderr
    made = home.files()
    assert Path(home.config).stat().st_mode & 0o777 == 0o600
    assert {file for file in made if file not in done.stdout} == set(), "each file was announced"
    assert done.stdout.count("umr_") == 1
    assert "umrgen login --base-url http://127.0.0.1:" in done.stdout
    again = home.setup("--yes")
    assert again.returncode == 0, again.stderr
    assert home.files() == made
    assert "umr_" not in again.stdout


@pytest.mark.slow
def test_a_file_that_exists_is_used_and_kept(home: Home) -> None:
    home.config.parent.mkdir(parents=True)
    home.config.write_text(f'state = "{home.folder / "elsewhere"}"\nmodel = "procedural"\n')
    done = home.setup("--yes")
    assert f"The settings file {home.config} exists. It is used as it is." in done.stdout
    assert (home.folder / "elsewhere" / "ledger.sqlite3").exists()
    assert home.config.read_text().count("\n") == 2


def test_a_file_that_exists_by_then_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "umrgen.toml").write_text("of another program")
    with pytest.raises(UmrgenError, match="cannot be written: File exists"):
        write_new(tmp_path / "umrgen.toml", "ours")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["of another program"]


@pytest.mark.slow
def test_a_model_that_cannot_be_used_yet_does_not_end_it(home: Home) -> None:
    done = home.setup("--yes", "--model", "owner/of-no-known-family")
    assert done.returncode == 0, done.stderr
    assert "The model cannot be used yet: " in done.stdout
    assert "Before the first image: umrgen engine pull owner/of-no-known-family" in done.stdout
    assert 'model = "owner/of-no-known-family"' in home.config.read_text()
    assert done.stdout.count("umr_") == 1


@pytest.mark.slow
def test_a_server_that_uses_the_state_folder_is_not_touched(tmp_path: Path) -> None:
    home = Home(tmp_path, systemd=True)
    state = home.folder / "state"
    with server(state) as running:
        done = home.setup("--yes", "--state", str(state))
        assert done.returncode == 0, done.stderr
        assert f"Another server (process {running.process.pid}) uses the state folder {state}." in done.stdout
        assert "There is an API key already" in done.stdout
        assert running.process.poll() is None
    assert not home.unit.exists()
    assert not home.calls.exists()


@pytest.mark.slow
def test_every_step_can_be_declined(tmp_path: Path) -> None:
    home = Home(tmp_path, systemd=True)
    shown = home.in_terminal("procedural\nn\nn\n")
    assert "Write this to" in shown
    assert "Create an API key" in shown
    assert home.files() == {}
    shown = home.in_terminal("procedural\ny\nn\nn\n")
    assert f"Install the service {home.unit}?" in shown
    assert set(home.files()) == {str(home.config)}
    shown = home.in_terminal("n\ny\nn\n")
    assert "Start it now, and at each login" in shown
    assert set(home.files()) == {str(home.config), str(home.unit)}
    assert not home.calls.exists()


@contextmanager
def started_by(home: Home) -> Iterator[None]:
    """Start the server when `systemctl` was called, as systemd would."""
    until(lambda: home.calls.exists() and "enable" in home.calls.read_text(), 40)
    command = (sys.executable, "-m", "umrgen", "serve", "--config", str(home.config))
    running = subprocess.Popen(tied(*command), env=home.environment, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        running.terminate()
        assert running.wait(30) == 0


@pytest.mark.slow
def test_the_service_is_installed_and_started(tmp_path: Path) -> None:
    home = Home(tmp_path, systemd=True)
    process = subprocess.Popen(
        tied(*SETUP, "--yes"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=home.environment
    )
    with started_by(home):
        shown, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        key = next(word for word in shown.split() if word.startswith("umr_"))
        url = f"http://127.0.0.1:{Settings.load({}, {}, home.config).port}"
        answer = httpx2.get(f"{url}/api/v1/capabilities", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200
    assert home.calls.read_text().splitlines() == ["--user daemon-reload", "--user enable --now umrgen.service"]
    assert f"serve --config {home.config}" in home.unit.read_text()
    assert "The server runs." in shown
    assert f"Open the studio, {url}, in the browser? no" in shown, "there is no display"
