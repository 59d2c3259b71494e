"""The polling loops of the guide, run against the server.

`loops/` has ours, with the same statements; those of the guide itself run when its text is next to this checkout. Only
the base URL is replaced; the key is an argument of both.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from support import GUIDE, ServerProcess, clean_environment, submit, tied
from umrgen.image_files import verify

HERE = Path(__file__).parent
SOURCES = ["ours", "guide"] if GUIDE.is_file() else ["ours"]


def sample(source: str, language: str, url: str) -> str:
    if source == "ours":
        name = {"python": "loop.py.txt", "javascript": "loop.cjs.txt"}[language]
        return (HERE / "loops" / name).read_text().replace("BASE_URL", url)
    code = re.search(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert code, f"the guide has no {language} sample"
    printed = re.search(r"https://[a-z.]+", code[1])
    assert printed
    return code[1].replace(printed[0], url)


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        tied(*command), cwd=folder, env=clean_environment(**environment), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("source", SOURCES)
def test_python(shared_server: ServerProcess, http: httpx2.Client, tmp_path: Path, source: str) -> None:
    job_id = submit(http)
    call = "\nimport sys\nassert wait_and_download(*sys.argv[1:]) is True\n"
    (tmp_path / "sample.py").write_text(sample(source, "python", shared_server.url) + call)
    out = run([sys.executable, "sample.py", job_id, shared_server.key], tmp_path)
    assert "Download started" in out
    assert verify((tmp_path / f"{job_id}.png").read_bytes()).width == 512


@pytest.mark.parametrize("source", SOURCES)
def test_javascript(shared_server: ServerProcess, http: httpx2.Client, tmp_path: Path, source: str) -> None:
    node, modules = shutil.which("node"), HERE / "js" / "node_modules"
    if node is None:
        pytest.skip("Node is not installed")
    if not (modules / "axios").is_dir():
        pytest.skip("axios is not installed: npm ci --prefix tests/acceptance/js")
    job_id = submit(http)
    call = "\npollAndDownload(...process.argv.slice(2));\n"
    (tmp_path / "sample.cjs").write_text(sample(source, "javascript", shared_server.url) + call)
    out = run([node, "sample.cjs", job_id, shared_server.key], tmp_path, NODE_PATH=str(modules))
    assert "Image saved!" in out
    assert verify((tmp_path / f"{job_id}.png").read_bytes()).width == 512
