"""The declared requirements agree with the pinned ones and with the imports."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BASE: list[str] = PROJECT["project"]["dependencies"]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
GROUPS: dict[str, list[str]] = PROJECT["dependency-groups"]

BY_ITSELF = {"torch"}
"""Installed at a version of its own: its wheels differ by platform and accelerator, and have no common hash."""
DIFFUSERS = [text for text in EXTRAS["diffusers"] if Requirement(text).name not in BY_ITSELF]

FILES = {
    "base": BASE,
    "server": [*BASE, *EXTRAS["server"], *EXTRAS["comfyui"], *GROUPS["build"]],
    "diffusers": [*BASE, *DIFFUSERS, *GROUPS["torch"]],
    "ray": [*BASE, *EXTRAS["ray"]],
    "dev": [
        *BASE,
        *EXTRAS["server"],
        *EXTRAS["comfyui"],
        *EXTRAS["mcp"],
        *EXTRAS["postgres"],
        *EXTRAS["s3"],
        *EXTRAS["c2pa"],
        *GROUPS["build"],
        *GROUPS["dev"],
    ],
    "clients": GROUPS["clients"],
    "container": [
        *BASE,
        *(text for extra in ("server", "comfyui", "mcp", "postgres", "s3", "c2pa") for text in EXTRAS[extra]),
        *GROUPS["build"],
    ],
    "langchain": GROUPS["langchain"],
    "deploy": GROUPS["deploy"],
    "docs": GROUPS["docs"],
}
"""The requirements that each file of requirements/ pins."""

MODULES = {
    "c2pa-python": "c2pa",
    "pillow": "PIL",
    "python-multipart": "python_multipart",
    "prometheus-client": "prometheus_client",
    "grpcio": "grpc",
}
"""Distributions whose module has another name."""
OPTIONAL = {
    "opentelemetry": "spans are created if its API is installed, for an exporter that the operator configures",
}
"""Modules that are used if they are installed, and required by no extra."""
USED_BY = {"accelerate": "diffusers, to offload weights", "peft": "diffusers, to apply LoRAs"}
"""Distributions that another one imports if they are installed."""

OPTIONAL_IN = {
    "cli/display/pixels.py": {"PIL"},
    "cli/display/sixel.py": {"PIL"},
    "client/conversion.py": {"PIL"},
    "provenance/manifest.py": {"c2pa"},
    "server/signing/__init__.py": {"c2pa"},
    "server/signing/ingredients.py": {"c2pa"},
    "server/signing/certificates.py": {"cryptography"},
    "server/signing/trial.py": {"cryptography"},
}
"""Modules that a file uses if they are installed, and reports otherwise."""


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    found = (re.match(r"([A-Za-z0-9._-]+)==([^ ;\\]+)", line) for line in lines)
    return {canonicalize_name(match[1]): match[2] for match in found if match}


@pytest.mark.parametrize("name", FILES)
def test_each_requirement_is_pinned(name: str) -> None:
    pinned = pins(name)
    for requirement in map(Requirement, FILES[name]):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in requirements/{name}.txt: make lock"
        assert version in requirement.specifier, f"{requirement} does not admit {version}: make lock"


def test_the_files_have_hashes_and_no_index_address() -> None:
    for path in (ROOT / "requirements").iterdir():
        assert path.suffix == ".txt", "pyproject.toml is the only source"
        text = path.read_text()
        assert "://" not in text
        assert "--index" not in text
        assert text.count("==") <= text.count("--hash=sha256:")


def test_torch_is_the_version_that_the_extra_admits() -> None:
    (required,) = [text for text in map(Requirement, EXTRAS["diffusers"]) if text.name == "torch"]
    (pinned,) = re.findall(r"^TORCH := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert pinned in required.specifier
    assert "torch" not in pins("diffusers"), "its dependencies on one accelerator would be pinned for all"


@pytest.mark.parametrize(("one", "other"), [*combinations(["dev", "diffusers", "ray", "docs"], 2)])
def test_the_optional_parts_and_the_tests_share_their_pins(one: str, other: str) -> None:
    """The files are installed into one environment."""
    first, second = pins(one), pins(other)
    assert {name: second[name] for name in first.keys() & second.keys() if first[name] != second[name]} == {}


def foreign_imports(path: Path) -> Iterator[str]:
    """Yield the top-level modules of other distributions that a file imports."""
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


def test_each_import_is_declared() -> None:
    base, server, mcp = declared(BASE), declared([*BASE, *EXTRAS["server"]]), declared([*BASE, *EXTRAS["mcp"]])
    comfyui = declared(EXTRAS["comfyui"])
    diffusers = declared([*BASE, *EXTRAS["server"], *EXTRAS["diffusers"]])
    postgres, s3, c2pa = declared(EXTRAS["postgres"]), declared(EXTRAS["s3"]), declared(EXTRAS["c2pa"])
    ray = declared(EXTRAS["ray"])
    unused = (server | mcp | comfyui | diffusers | postgres | s3 | c2pa | ray) - base - set(USED_BY)
    optional = set(OPTIONAL)
    folders = {"server": server, "mcp": mcp}
    for path in (ROOT / "src" / "umrgen").rglob("*.py"):
        inside = path.relative_to(ROOT / "src" / "umrgen")
        allowed = server | mcp if str(inside) == "server/http/mcp.py" else folders.get(inside.parts[0], base)
        if str(inside).startswith("server/engines/comfyui/"):
            allowed = server | comfyui
        if str(inside.parent) == "server/ledger/postgres":
            allowed = server | postgres
        if str(inside).startswith("server/blobs/s3"):
            allowed = server | s3
        if str(inside.parent) == "server/executors/ray":
            allowed = server | ray
        if "diffusers" in inside.parts:
            allowed = diffusers
        found = set(foreign_imports(path))
        optional -= found
        found -= set(OPTIONAL)
        unused -= found
        found -= OPTIONAL_IN.get(str(inside), set())
        assert found <= allowed, f"{path}: {sorted(found - allowed)}"
    assert unused == set(), "declared, and not imported"
    assert optional == set(), "listed as optional, and not imported"
