"""What is declared, what is pinned and what is imported agree."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BASE: list[str] = PROJECT["project"]["dependencies"]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
GROUPS: dict[str, list[str]] = PROJECT["dependency-groups"]

FILES = {
    "base": BASE,
    "server": [*BASE, *EXTRAS["server"], *GROUPS["build"]],
    "dev": [*BASE, *EXTRAS["server"], *GROUPS["build"], *GROUPS["dev"]],
}
"""What each file of requirements/ pins."""

MODULES = {"pillow": "PIL", "python-multipart": "python_multipart", "prometheus-client": "prometheus_client"}
"""Distributions whose module has another name."""
OPTIONAL = {
    "opentelemetry": "spans are made where its API is installed, for the operator's own exporter",
}
"""Modules that are used where they are installed, and asked for by no extra."""


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    found = (re.match(r"([A-Za-z0-9._-]+)==([^ ;\\]+)", line) for line in lines)
    return {canonicalize_name(match[1]): match[2] for match in found if match}


@pytest.mark.parametrize("name", FILES)
def test_what_is_declared_is_pinned(name: str) -> None:
    pinned = pins(name)
    for requirement in map(Requirement, FILES[name]):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in requirements/{name}.txt: make lock"
        assert version in requirement.specifier, f"{requirement} does not admit {version}: make lock"


def test_the_files_name_no_index_and_have_hashes() -> None:
    for path in (ROOT / "requirements").iterdir():
        assert path.suffix == ".txt", "pyproject.toml is the one source"
        text = path.read_text()
        assert "://" not in text
        assert "--index" not in text
        assert text.count("==") <= text.count("--hash=sha256:")


def foreign_imports(path: Path) -> Iterator[str]:
    """Top-level modules that a file imports, neither ours nor the standard library's."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top != "umrgen":
                yield top


def declared(requirements: list[str]) -> set[str]:
    names = {canonicalize_name(Requirement(text).name) for text in requirements}
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def test_what_is_imported_is_declared() -> None:
    base, server = declared(BASE), declared([*BASE, *EXTRAS["server"]])
    unused, optional = server - base, set(OPTIONAL)
    for path in (ROOT / "src" / "umrgen").rglob("*.py"):
        inside = path.relative_to(ROOT / "src" / "umrgen").parts[0]
        allowed = server if inside == "server" else base
        found = set(foreign_imports(path))
        optional -= found
        found -= set(OPTIONAL)
        assert found <= allowed, f"{path}: {sorted(found - allowed)}"
        unused -= found
    assert unused == set(), "declared, and imported nowhere"
    assert optional == set(), "called optional, and imported nowhere"
