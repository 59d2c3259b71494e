"""The documents are up to date with the options, errors, events and commands in the code."""

import re
from dataclasses import fields
from pathlib import Path

import cli_page
import gateways

import state_machine
from umrgen import errors
from umrgen.cli import COMMANDS, verify
from umrgen.cli.common import EXIT_CODES, exit_code
from umrgen.client.flow import Options

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str) -> dict[str, list[str]]:
    """Return the rows of a page's tables by their first cell, which is in back-quotes."""
    found = {}
    for line in (DOCS / page).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `"):
            found[cells[0].strip("`| ")] = cells
    return found


def test_every_option_is_documented_with_its_default() -> None:
    table = rows("retrieval.md")
    assert set(table) == {option.name for option in fields(Options)}
    for option in fields(Options):
        documented = table[option.name][1].strip("`")
        assert eval(documented) == option.default, option.name  # noqa: S307 - our own page


def test_every_error_is_documented_with_its_code_and_exit_code() -> None:
    table = rows("errors.md")
    kinds = {name: getattr(errors, name) for name in errors.__all__ if name[0].isupper()}
    assert set(table) == set(kinds)
    for name, kind in kinds.items():
        code, exit_, retryable = (cell.strip("`") for cell in table[name][1:4])
        assert (code, int(exit_), retryable == "yes") == (kind.code, exit_code(kind()), kind.retryable), name


def test_every_event_is_documented() -> None:
    source = Path(errors.__file__).parent
    kinds = {
        kind
        for path in (source / "client").rglob("*.py")
        for kind in re.findall(r'Event\(\s*"(\w+)"', path.read_text())
    }
    page = (DOCS / "retrieval.md").read_text()
    assert kinds
    for kind in kinds:
        assert f"`{kind}`" in page, kind


def test_the_page_of_the_state_machine_is_the_transition_table() -> None:
    shown = (DOCS / "state-machine.md").read_text()
    assert shown == state_machine.page(), "python tests/state_machine.py > docs/state-machine.md"


def test_the_page_of_the_command_line_is_that_of_the_commands() -> None:
    assert (DOCS / "cli.md").read_text() == cli_page.page(), "python tests/cli_page.py > docs/cli.md"


def test_every_exit_code_is_documented() -> None:
    codes = {exit_code(getattr(errors, name)()) for name in errors.__all__ if name[0].isupper()}
    assert codes | set(verify.EXIT_CODES.values()) | {0, 1, 2, 130} == set(EXIT_CODES)


def test_the_glossary_is_sorted_and_defines_each_term_once() -> None:
    terms = re.findall(r"^\| (?!term|---)([^|]+) \|", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert len(terms) > 30
    assert terms == sorted(set(terms))


def test_the_paths_in_the_guide_for_agents_exist() -> None:
    page = (DOCS.parent / "AGENTS.md").read_text()
    paths = re.findall(r"`((?:src|tests|docs)/[\w./-]+)`", page)
    assert len(paths) > 10
    for path in paths:
        assert (DOCS.parent / path).exists(), path


def test_the_commands_in_the_pages_exist() -> None:
    for page in DOCS.glob("*.md"):
        for name in re.findall(r"^umrgen (\w+)", page.read_text(), re.MULTILINE):
            assert name in COMMANDS, f"{page.name}: umrgen {name}"


def test_the_responses_of_gateways_are_those_of_the_tests() -> None:
    page = (DOCS / "retrieval.md").read_text()
    assert gateways.table() in page, "python tests/gateways.py prints the table"
