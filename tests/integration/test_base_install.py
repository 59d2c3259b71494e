"""The base installation has the client and the command line; server commands report missing packages."""

import subprocess
import sys
from pathlib import Path

import pytest

from support import ServerProcess, clean_environment
from umrgen.image_files import verify

# A module that is None in sys.modules cannot be imported, as if it were not installed.
WITHOUT = (
    "import sys; sys.modules.update(dict.fromkeys("
    "('msgspec', 'numpy', 'PIL', 'starlette', 'granian', 'uvloop'))); "
    "sys.argv = ['umrgen', *sys.argv[1:]]; from umrgen.cli import main; main()"
)


def run(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", WITHOUT, *arguments]
    env = clean_environment(**environment)
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


def test_the_client_needs_no_server_package(shared_server: ServerProcess, tmp_path: Path) -> None:
    environment = {"UMRGEN_BASE_URL": shared_server.url, "UMRGEN_API_KEY": shared_server.key}
    arguments = ["generate", "a boat", "-o", "boat.png", "--width", "512", "--height", "512", "--steps", "1"]
    done = run(*arguments, cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert verify((tmp_path / "boat.png").read_bytes()).width == 512


def test_generate_without_a_server_prints_both_remedies(tmp_path: Path) -> None:
    done = run("generate", "a boat", cwd=tmp_path, XDG_DATA_HOME=str(tmp_path / "home"))
    assert done.returncode == 1
    assert "UMRGEN_BASE_URL" in done.stderr
    assert "pip install 'umrgen[server]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists(), "a folder was created"


@pytest.mark.parametrize("command", [["serve"], ["keys", "list"], ["keys", "create"]])
def test_server_commands_report_the_missing_package(command: list[str], tmp_path: Path) -> None:
    done = run(*command, "--state", str(tmp_path / "state"), cwd=tmp_path)
    assert done.returncode == 1
    assert "pip install 'umrgen[server]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["--help"], ["serve", "--help"], ["keys", "--help"], ["--version"]])
def test_help_needs_no_server_package(command: list[str], tmp_path: Path) -> None:
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
