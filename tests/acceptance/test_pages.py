"""The examples of docs/retrieval.md, docs/agents.md and the pages by role run as they are written."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import ServerProcess, clean_environment, cli, tied
from umrgen.image_files import verify

DOCS = Path(__file__).parents[2] / "docs"


def first_code(page: str, language: str) -> str:
    """Return the first block of code in this language."""
    found = re.search(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert found
    return found[1]


def test_the_first_example_of_the_page_about_retrieval(shared_server: ServerProcess, tmp_path: Path) -> None:
    environment = clean_environment(
        UMRGEN_BASE_URL=shared_server.url, UMRGEN_API_KEY=shared_server.key, XDG_DATA_HOME=str(tmp_path / "data")
    )
    code = first_code("retrieval.md", "python") + "\nprint(image.job_id, flush=True)"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    saved = {path.name for path in tmp_path.glob("*.png")}
    assert {"lighthouse.png", "again.png"} < saved
    assert len(saved) >= 6  # the second image and the three studies are named after their jobs


def test_the_example_of_openais_client(shared_server: ServerProcess) -> None:
    openai = pytest.importorskip("openai")
    code = first_code("agents.md", "python").replace("http://127.0.0.1:3088", shared_server.url)
    names = {"openai": openai}
    exec(code.replace("umr_...", shared_server.key), names)  # noqa: S102 - our own page
    (image,) = names["answer"].data
    assert image.b64_json


def test_the_settings_of_an_mcp_host_name_a_command_that_exists() -> None:
    (settings,) = json.loads(first_code("agents.md", "json"))["mcpServers"].values()
    assert settings["command"] == "umrgen"
    command, option = settings["args"][:2]
    assert option in cli(command, "--help").stdout
    assert set(settings["env"]) == {"UMRGEN_BASE_URL", "UMRGEN_API_KEY"}


# The tests of the wheel and of the login run these: tests/slow/test_wheel.py, tests/integration/test_login.py.
NOT_RUN = re.compile(r"^ *(pip install|umrgen login|umrgen serve$|export UMRGEN_BASE_URL).*\n", re.MULTILINE)


def run_commands(page: str, folder: Path, *, blocks: slice = slice(None), **environment: str) -> str:
    """Run the shell commands of a page in `folder`, and return their output."""
    found = re.findall(r"^ *```sh\n(.*?)```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    script = "set -euo pipefail\n" + NOT_RUN.sub("", "".join(found[blocks]))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = tied("bash", "-c", script)
    everything = clean_environment(PATH=path, HOME=str(folder), **environment)
    done = subprocess.run(command, cwd=folder, env=everything, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_commands_of_the_first_picture(shared_server: ServerProcess, tmp_path: Path) -> None:
    shown = run_commands("first-picture.md", tmp_path, blocks=slice(2))
    assert "a lighthouse at dusk" in shown
    assert verify((tmp_path / "lighthouse.png").read_bytes()).width == 1024
    address = {"UMRGEN_BASE_URL": shared_server.url, "UMRGEN_API_KEY": shared_server.key}
    run_commands("first-picture.md", tmp_path, blocks=slice(2, None), **address)
    assert {"boat.png", "night.png"} < {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "files"),
    [
        ("with-a-server.md", {"lighthouse.png", "boats", "winter.png", "storm.png"}),
        ("as-an-agent.md", {"lighthouse.png"}),
    ],
)
def test_the_commands_of_the_users_of_a_server(
    page: str, files: set[str], shared_server: ServerProcess, tmp_path: Path
) -> None:
    run_commands(page, tmp_path, UMRGEN_BASE_URL=shared_server.url, UMRGEN_API_KEY=shared_server.key)
    assert files < {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_the_commands_of_the_operator(shared_server: ServerProcess, tmp_path: Path) -> None:
    shown = run_commands("run-a-service.md", tmp_path, UMRGEN_STATE=str(shared_server.state))
    assert "ada" in shown
    assert {"umrgen.toml", "umrgen.service", "ledger-copy.sqlite3"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_the_python_samples_of_a_program(shared_server: ServerProcess, tmp_path: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / "write-a-program.md").read_text(), re.DOTALL))
    environment = clean_environment(UMRGEN_BASE_URL=shared_server.url, UMRGEN_API_KEY=shared_server.key)
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert verify((tmp_path / "lighthouse.png").read_bytes()).sha256 in first
    assert len(others) == 3


@pytest.mark.slow
def test_the_javascript_sample_of_a_program(shared_server: ServerProcess, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "umrgen").symlink_to(DOCS.parent / "js")
    (tmp_path / "sample.mjs").write_text(first_code("write-a-program.md", "js"))
    environment = clean_environment(UMRGEN_BASE_URL=shared_server.url, UMRGEN_API_KEY=shared_server.key)
    command = [node, "sample.mjs"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "from-node.png").exists()
