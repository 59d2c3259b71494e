"""The first examples of docs/retrieval.md and docs/agents.md run as they are written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import ServerProcess, clean_environment, cli

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
