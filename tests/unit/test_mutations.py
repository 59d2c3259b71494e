"""The list of mutations is sound, and docs/reliability.md shows it as it is."""

import ast
import re
from pathlib import Path

from mutants.mutations import MUTATIONS, table

ROOT = Path(__file__).parents[2]


def test_there_are_forty_or_more_and_each_has_a_name_of_its_own() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 40


def test_each_line_is_there_exactly_once() -> None:
    wrong = [m.name for m in MUTATIONS if (ROOT / m.file).read_text().count(m.old) != 1]
    assert wrong == []


def test_each_test_exists() -> None:
    for test in {test for mutation in MUTATIONS for test in mutation.tests}:
        file, *names = test.split("[")[0].split("::")
        scope: list[ast.stmt] = ast.parse((ROOT / file).read_text()).body
        for name in names:
            found = [
                node
                for node in scope
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
            ]
            assert found, test
            scope = found[0].body


def test_the_page_shows_the_list() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    shown = re.search(r"<!-- mutants: begin -->\n(.*?)<!-- mutants: end -->", page, re.DOTALL)
    assert shown
    assert shown[1].strip() == table(), "python tests/mutants --table prints what belongs there"
