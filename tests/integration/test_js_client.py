"""The JavaScript client: its types, and its tests, which start servers with this Python interpreter."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import ServerProcess, clean_environment
from umrgen.image_files import verify
from umrgen.testing import png_bytes

ROOT = Path(__file__).parents[2]
JS = ROOT / "js"


def node() -> str:
    """Return the path of Node, or skip the test when it is not installed."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("Node is not installed")
    if not (JS / "node_modules" / "typescript").is_dir():
        pytest.skip("the JavaScript tools are not installed: npm ci --prefix js")
    return found


def run(*command: str, cwd: Path = JS, timeout: float = 280, **environment: str) -> str:
    environment = clean_environment(**environment)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("project", ["tsconfig.json", "studio/tsconfig.json"])
def test_types(project: str) -> None:
    node()
    run(str(JS / "node_modules" / ".bin" / "tsc"), "--project", project, "--noEmit")


SLOW_SUITES = ("faults.test.js", "package.test.js")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "suite",
    [
        pytest.param(path.name, marks=[pytest.mark.slow] if path.name in SLOW_SUITES else [])
        for path in sorted((JS / "test").glob("*.test.js"))
    ],
)
def test_suite(suite: str) -> None:
    out = run(node(), "--test", f"test/{suite}", UMRGEN_PYTHON=sys.executable)
    counts = dict(line.removeprefix("# ").split(" ", 1) for line in out.splitlines() if line.startswith("# "))
    assert int(counts["tests"]) > 0
    assert counts["pass"] == counts["tests"], "a test was skipped"


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_a_hundred_thousand_wild_responses() -> None:
    out = run(node(), "--max-old-space-size=64", "test/support/wild.js", "100000", timeout=1200)
    assert int(out.splitlines()[-2].split()[0]) >= 100_000
    assert int(out.splitlines()[-1].removeprefix("peak memory ").removesuffix(" MB")) < 500


EXAMPLES = (ROOT / "docs" / "javascript.md").read_text().split("```js\n")[1:]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_of_the_documents(number: int, shared_server: ServerProcess, tmp_path: Path) -> None:
    installed = tmp_path / "node_modules" / "umrgen"
    installed.parent.mkdir()
    installed.symlink_to(JS)
    (tmp_path / "boat.png").write_bytes(png_bytes())
    (tmp_path / "example.mjs").write_text(EXAMPLES[number].split("```")[0])
    address = {"UMRGEN_BASE_URL": shared_server.url, "UMRGEN_API_KEY": shared_server.key}
    run(node(), "example.mjs", cwd=tmp_path, **address)


def test_the_sample_of_the_main_readme(shared_server: ServerProcess, tmp_path: Path) -> None:
    (code,) = (ROOT / "README.md").read_text().split("```js\n")[1:]
    installed = tmp_path / "node_modules" / "umrgen"
    installed.parent.mkdir()
    installed.symlink_to(JS)
    (tmp_path / "sample.mjs").write_text(code.split("```")[0])
    address = {"UMRGEN_BASE_URL": shared_server.url, "UMRGEN_API_KEY": shared_server.key}
    out = run(node(), "sample.mjs", cwd=tmp_path, **address)
    assert out.split()[-1] == "completed"
    assert verify((tmp_path / "lighthouse.png").read_bytes()).width == 1024
