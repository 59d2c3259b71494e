"""The commands and samples of the README work, and its links exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import ServerProcess, clean_environment, cli
from umrgen.image_files import verify

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_relative_link_exists() -> None:
    for page in [README, *(path.read_text() for path in (ROOT / "docs").glob("*.md"))]:
        folder = ROOT if page is README else ROOT / "docs"
        for target in re.findall(r"\]\(([^)#]+)\)", page):
            if not target.startswith("http"):
                assert (folder / target).exists(), target


def test_the_samples_of_the_waiting_page(shared_server: ServerProcess) -> None:
    """Run the samples of docs/waiting.md as one program."""
    program = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "waiting.md").read_text(), re.DOTALL))
    address = {"UMRGEN_BASE_URL": shared_server.url, "UMRGEN_API_KEY": shared_server.key}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=clean_environment(**address), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    one, *three, kind, data = done.stdout.splitlines()
    assert re.fullmatch(r"completed /outputs/\S+ None", one)
    assert sorted(line.split()[1] for line in three) == ["completed"] * 3
    assert (kind, data[:24]) == ("event: status", 'data: {"success":true,"j')


def test_every_make_target_exists() -> None:
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE):
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_an_image_takes_two_typed_commands_with_a_server_of_ones_own_and_three_with_a_login() -> None:
    """That they work is a test of the wheel: tests/slow/test_wheel.py."""
    first = [block.split("\n") for block in blocks("sh") if block.startswith("pip install")]
    assert [[line.split(" ")[:2] for line in lines if line] for lines in first] == [
        [["pip", "install"], ["umrgen", "login"], ["umrgen", "generate"]],
        [["pip", "install"], ["umrgen", "generate"]],
    ]


@pytest.mark.slow
def test_the_commands_with_a_configured_server(shared_server: ServerProcess, tmp_path: Path) -> None:
    commands = re.findall(r"^umrgen ((?!serve|login).*)$", README, re.MULTILINE)
    assert len(commands) >= 4
    environment = {"UMRGEN_BASE_URL": shared_server.url, "UMRGEN_API_KEY": shared_server.key}
    for command in commands:
        arguments = [part.strip('"') for part in re.findall(r'"[^"]*"|\S+', command)]
        done = cli(*arguments, cwd=tmp_path, **environment)
        assert done.returncode == 0, done.stderr
    assert verify((tmp_path / "lighthouse.png").read_bytes()).width == 1024
    assert len({verify((tmp_path / f"boats-{n}.png").read_bytes()).sha256 for n in range(1, 9)}) == 8


def test_the_python_sample(shared_server: ServerProcess, tmp_path: Path) -> None:
    (code,) = blocks("python")
    environment = clean_environment(UMRGEN_BASE_URL=shared_server.url, UMRGEN_API_KEY=shared_server.key)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert verify((tmp_path / "lighthouse.png").read_bytes()).sha256 in done.stdout


@pytest.mark.parametrize("name", ["lighthouse", "neon-city", "mountains"])
def test_the_images_are_drawn_by_the_procedural_engine(name: str) -> None:
    data = (ROOT / "docs" / "images" / f"{name}.png").read_bytes()
    assert verify(data).width == 1024
    assert b'"engine": {"name": "procedural"' in data


def test_every_dependency_is_explained() -> None:
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    for path in (ROOT / "requirements").glob("*.in"):
        for line in path.read_text().splitlines():
            name = re.match(r"[A-Za-z0-9-]+", line)
            if name and not line.startswith("-r"):
                assert name[0] in explained, f"{name[0]} of {path.name}"


def test_requirements_are_pinned_with_hashes_and_name_no_index() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "--hash=sha256:" in text
        assert not re.search(r"^(-i|--index-url|--extra-index-url|--find-links|-f)\b", text, re.MULTILINE)
        assert "://" not in text
