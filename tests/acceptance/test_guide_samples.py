"""The founding guide's own samples, as they stand, against the running server.

They are read from the guide when the test runs; only the base URL is replaced (the key is an argument
of both). `test_own_loops.py` has loops in the same manner that always run.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from support import ServerProcess, clean_environment, founding_guide, submit
from umrgen.images import verify

JS = Path(__file__).parent / "js"


def sample(language: str, url: str) -> str:
    code = re.search(rf"```{language}\n(.*?)```", founding_guide(), re.DOTALL)
    assert code, f"the guide has no {language} sample"
    printed = re.search(r"https://[a-z.]+", code[1])
    assert printed
    return code[1].replace(printed[0], url)


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=clean_environment(**environment), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python(shared_server: ServerProcess, http: httpx2.Client, tmp_path: Path) -> None:
    job_id = submit(http)
    script = sample("python", shared_server.url) + "\nimport sys\nassert wait_and_download(*sys.argv[1:]) is True\n"
    (tmp_path / "sample.py").write_text(script)
    out = run([sys.executable, "sample.py", job_id, shared_server.key], tmp_path)
    assert "Download started" in out
    assert verify((tmp_path / f"{job_id}.png").read_bytes()).width == 512


def test_javascript(shared_server: ServerProcess, http: httpx2.Client, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    if not (JS / "node_modules" / "axios").is_dir():
        pytest.skip("axios is not installed: npm ci --prefix tests/acceptance/js")
    job_id = submit(http)
    script = sample("javascript", shared_server.url) + "\npollAndDownload(...process.argv.slice(2));\n"
    (tmp_path / "sample.cjs").write_text(script)
    out = run([node, "sample.cjs", job_id, shared_server.key], tmp_path, NODE_PATH=str(JS / "node_modules"))
    assert "Image saved!" in out
    assert verify((tmp_path / f"{job_id}.png").read_bytes()).width == 512
