"""The webhook receivers of docs/webhooks.md, run unchanged against a server."""

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from support import ServerProcess, clean_environment, cli, finish, server, submit, tied, until

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
MODULES = Path(__file__).parent / "js" / "node_modules"


def sample(language: str, name: str) -> str:
    (code,) = re.findall(rf"```{language} {name}\n(.*?)```", PAGE, re.DOTALL)
    return str(code)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server(tmp_path_factory.mktemp("samples") / "state", "--webhook-allow", "127.0.0.1") as running:
        yield running


@pytest.fixture(scope="module")
def key(running: ServerProcess) -> dict[str, str]:
    created: dict[str, str] = json.loads(cli("keys", "create", "--state", str(running.state), "--json").stdout)
    return created


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def started(command: list[str], folder: Path, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            tied(*command),
            cwd=folder,
            env=clean_environment(**environment),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=10)


@pytest.mark.parametrize("language", ["python", "js"])
def test_a_receiver(running: ServerProcess, key: dict[str, str], tmp_path: Path, language: str) -> None:
    program = sys.executable if language == "python" else shutil.which("node")
    if program is None or (language == "js" and not (MODULES / "standardwebhooks").is_dir()):
        pytest.skip("Node or standardwebhooks is not installed: npm ci --prefix tests/acceptance/js")
    (tmp_path / "receiver.cjs").write_text(sample(language, "receiver"))
    port = free_port()
    environment = {"WEBHOOK_SECRET": key["webhook_secret"], "PORT": str(port), "NODE_PATH": str(MODULES)}
    url = f"http://127.0.0.1:{port}/"
    with started([program, "receiver.cjs"], tmp_path, **environment) as process:
        until(lambda: httpx2.post(url, content=b"{}").status_code == 401)
        with running.http(Authorization=f"Bearer {key['key']}") as http:
            job = finish(http, submit(http, webhook_url=url))
            assert process.stdout is not None
            assert process.stdout.readline().split() == ["job.completed", job["job_id"]]
            until(lambda: http.get("/api/v1/jobs").json()["jobs"][0]["webhook"]["state"] == "delivered")


def test_the_webhook_secret_is_derived_from_the_key(key: dict[str, str]) -> None:
    command = [sys.executable, "-c", sample("python", "secret")]
    done = subprocess.run(command, env=clean_environment(UMRGEN_API_KEY=key["key"]), capture_output=True, text=True)
    assert done.stdout.strip() == key["webhook_secret"], done.stderr
