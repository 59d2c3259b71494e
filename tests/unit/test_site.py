"""The site of docs/: its navigation and its references are complete, and its commands and calls exist."""

import re
import shlex
import sys
from pathlib import Path

import click
import pytest

import umrgen
from umrgen.cli import COMMANDS, LazyGroup
from umrgen.server.http.openapi import document

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ROLES = (
    *("first-picture", "with-a-gpu", "with-a-server", "write-a-program"),
    *("run-a-service", "as-an-agent", "move-over"),
)

sys.path.append(str(ROOT / "scripts" / "site"))

import additions  # noqa: E402
import http_reference  # noqa: E402
import python_reference  # noqa: E402


def test_the_navigation_has_every_page_once() -> None:
    pages = re.findall(r"^([\w-]+)$", additions.navigation((DOCS / "index.md").read_text()), re.MULTILINE)
    assert sorted(pages) == sorted({path.stem for path in DOCS.glob("*.md")} - {"index"}), (
        "see the lists of docs/index.md"
    )


def test_the_navigation_has_a_chapter_for_each_heading_with_pages() -> None:
    index = (
        "# A\n\n- [A](a.md)\n\n## One\n\ntext\n\n- [B](b.md): b\n- [C](c-d.md)\n\n## Empty\n\n## Two\n\n- [E](e.md)\n"
    )
    shown = additions.navigation(index)
    assert re.findall(r":caption: (.*)\n\n((?:[\w-]+\n)*)", shown) == [("One", "b\nc-d\n"), ("Two", "e\n")]


def test_the_reference_of_the_api_has_every_call_parameter_and_type() -> None:
    shown = http_reference.page()
    api = document()
    for path, methods in api["paths"].items():
        for method, call in methods.items():
            section = shown.split(f"### {method.upper()} {path}\n")[1].split("\n### ")[0]
            assert call["summary"] in section
            for parameter in call["parameters"]:
                assert f"| `{parameter['name']}` |" in section
            for status in call["responses"]:
                assert f"| {status} |" in section
    for name, schema in api["components"]["schemas"].items():
        section = shown.split(f"### {name}\n")[1].split("\n### ")[0]
        for field in schema.get("properties", ()):
            assert f"| `{field}` |" in section


def test_the_links_between_types_have_a_target() -> None:
    shown = http_reference.page()
    headings = {name.lower() for name in re.findall(r"^### (\w+)$", shown, re.MULTILINE)}
    links = set(re.findall(r"\]\(#(\w+)\)", shown))
    assert len(links) > 10
    assert links <= headings


def test_the_reference_of_python_has_every_public_name() -> None:
    shown = python_reference.page()
    for name in umrgen.__all__:
        assert re.search(rf"^\.\. auto\w+:: umrgen\.{name}$", shown, re.MULTILINE), name


def test_a_new_public_name_is_in_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(umrgen, "__all__", [*umrgen.__all__, "__version__"])
    assert "## Further names" in python_reference.page()


def test_the_page_of_the_javascript_client_has_its_readme() -> None:
    text = additions.complete("javascript", (DOCS / "javascript.md").read_text())
    assert "../js/README.md" not in text
    for heading in re.findall(r"^#(#+ .*)$", (ROOT / "js" / "README.md").read_text(), re.MULTILINE):
        assert f"\n##{heading}\n" in text


def commands(text: str) -> list[str]:
    """Return the commands of `umrgen` in blocks of code, and those with an option elsewhere."""
    blocks = "".join(re.findall(r"^ *```(?:sh|console)\n(.*?)```", text, re.DOTALL | re.MULTILINE))
    lines = re.findall(r"^ *(?:\$ )?(?:sudo -u \w+ )?(?:\w+=\S* )*(?:\S*/)?umrgen (.*)", blocks, re.MULTILINE)
    lines += re.findall(r"\$\(umrgen ([^)]*)\)", blocks)
    prose = re.sub(r"^ *```.*?```", "", text, flags=re.DOTALL | re.MULTILINE)
    return lines + [" ".join(code.split()) for code in re.findall(r"`umrgen ([^`]*? -[^`]*)`", prose)]


def refuse_unknown_options(line: str) -> None:
    name, *arguments = shlex.split(line.split(" | ")[0].split(" > ")[0], comments=True)
    command: click.Command | None = LazyGroup(name="umrgen").get_command(click.Context(LazyGroup()), name)
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), arguments.pop(0))
    assert command, line
    command.make_parser(click.Context(command)).parse_args(arguments)


@pytest.mark.parametrize("page", ["../README.md", *sorted(path.name for path in DOCS.glob("*.md"))])
def test_the_commands_of_the_pages_have_their_options(page: str) -> None:
    for line in commands((DOCS / page).read_text()):
        if line.split()[0] in COMMANDS:
            refuse_unknown_options(line)


@pytest.mark.parametrize("line", ["generate 'a boat' --widht 512", "keys create --nmae ada", "keys crate"])
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        refuse_unknown_options(line)


def test_the_pages_by_role_have_commands() -> None:
    assert sum(len(commands((DOCS / f"{page}.md").read_text())) for page in ROLES) > 30


@pytest.mark.parametrize("page", [*ROLES, "http-api"])
def test_the_calls_of_the_pages_exist(page: str) -> None:
    calls = {(method.upper(), path) for path, methods in document()["paths"].items() for method in methods}
    found = re.findall(
        r"`(GET|POST|DELETE) (/(?:api|openapi|healthz|readyz|metrics)[\w/{}.-]*)", (DOCS / f"{page}.md").read_text()
    )
    for method, path in found:
        assert (method, path) in calls, f"{method} {path}"
