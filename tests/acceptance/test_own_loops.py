"""The four steps of the guide with only `requests`, and with only `fetch`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import ServerProcess, clean_environment
from umrgen.image_files import verify

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(command: list[str], folder: Path, server: ServerProcess) -> Path:
    environment = clean_environment(UMRGEN_BASE_URL=server.url, UMRGEN_API_KEY=server.key)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


def test_requests(shared_server: ServerProcess, tmp_path: Path) -> None:
    path = run([sys.executable, str(EXAMPLES / "plain_requests.py"), "a small boat"], tmp_path, shared_server)
    assert verify(path.read_bytes()).width == 1024


def test_fetch(shared_server: ServerProcess, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    path = run([node, str(EXAMPLES / "plain_fetch.mjs"), "a small boat"], tmp_path, shared_server)
    assert verify(path.read_bytes()).width == 1024


def test_a_failed_job_ends_the_loops(shared_server: ServerProcess, tmp_path: Path) -> None:
    environment = clean_environment(UMRGEN_BASE_URL=shared_server.url, UMRGEN_API_KEY="wrong")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "plain_requests.py"), "x"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert list(tmp_path.iterdir()) == []
