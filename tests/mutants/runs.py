"""Tests on a changed copy of the sources, in a process that is forked from one that has imported the libraries."""

import compileall
import multiprocessing
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mutants.mutations import Mutation

__all__ = ["copy_of_sources", "prepare", "run_tests"]

ROOT = Path(__file__).parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
LIBRARIES = ["pytest", "pytest_asyncio.plugin", "xdist.plugin", "hypothesis.strategies", "schemathesis.pytest.plugin"]
LIBRARIES += ["httpx2", "msgspec", "numpy", "PIL.Image", "starlette.applications", "uvloop", "click", "psycopg"]
"""Modules that the first process imports; none of them imports umrgen."""


def prepare() -> None:
    """Compile the sources once for all copies, and choose what the first process imports."""
    compileall.compile_dir(ROOT / "src", quiet=2)
    CONTEXT.set_forkserver_preload(LIBRARIES)


def copy_of_sources(folder: Path, mutation: Mutation | None = None) -> Path:
    """Copy src/ and make the mutation in it. Raises ValueError for another file, and a line that is not there once."""
    if mutation is not None and not mutation.file.startswith("src/"):  # the other folders are links
        raise ValueError(f"{mutation.file} is not in src/")
    sources = folder / "src"
    shutil.copytree(ROOT / "src", sources)  # with the compiled files: of the changed file, it is out of date
    (folder / "js").symlink_to(ROOT / "js")  # the server reads the studio's files from here
    (folder / "deploy").symlink_to(ROOT / "deploy")
    if mutation is not None:
        file = folder / mutation.file
        text = file.read_text()
        if text.count(mutation.old) != 1:
            raise ValueError(f"{mutation.file} has this line {text.count(mutation.old)} times: {mutation.old}")
        file.write_text(text.replace(mutation.old, mutation.new))
    return sources


def run_here(sources: Path, tests: Sequence[str], output: Path) -> None:
    """In a new process: run tests on these sources, write their output to a file, and exit with pytest's code."""
    log = os.open(output, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(ROOT)
    os.environ.pop("UMRGEN_NO_SKIP", None)
    os.environ["PYTHONPATH"] = str(sources)  # of the processes that tests start
    sys.path.insert(0, str(sources))
    assert "umrgen" not in sys.modules
    import pytest

    known = "ignore::pytest.PytestAssertRewriteWarning"  # the plugins are imported already
    options = ["--exitfirst", "--no-header", "--durations=0", "--durations-min=99", "-W", known]
    sys.exit(pytest.main([*options, "--hypothesis-profile", "thorough", *tests]))


def run_tests(sources: Path, tests: Sequence[str], seconds: float) -> tuple[int, str]:
    """Return pytest's exit code on these sources and its output. Raises TimeoutError."""
    output = sources.parent / "output"
    process = CONTEXT.Process(target=run_here, args=(sources, tests, output))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(output.read_text(errors="replace"))
    return process.exitcode, output.read_text(errors="replace")
