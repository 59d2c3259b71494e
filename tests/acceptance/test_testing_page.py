"""The test and the command of the section "Testing your own code" in docs/retrieval.md work."""

import re
import subprocess
import sys
from pathlib import Path

import umrgen.testing
from support import SMALL, clean_environment, finish, server, submit

PAGE = (Path(__file__).parents[2] / "docs" / "retrieval.md").read_text()
SECTION = PAGE[PAGE.index("## Testing your own code") :]


def test_the_test_of_the_page(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    (tmp_path / "test_page.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ".", "test_page.py"]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert "1 passed" in done.stdout, done.stdout


def test_the_fake_engine_of_the_page(state: Path) -> None:
    command = re.search(r"umrgen serve (--engine [^`]+)", SECTION)
    assert command
    with server(state, *command[1].split()) as running, running.http() as http:
        assert http.get("/api/v1/capabilities").json()["engine"]["name"] == command[1].split()[1]
        assert finish(http, submit(http, **SMALL))["state"] == "completed"


def test_the_names_of_the_page_exist() -> None:
    names = set(re.findall(r"`([A-Z]\w+)`", SECTION)) - {"Client"}
    assert len(names) > 10
    assert names <= set(umrgen.testing.__all__)
