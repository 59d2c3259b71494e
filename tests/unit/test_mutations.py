"""The list of mutations is valid, and docs/reliability.md has the same list."""

import ast
import re
from pathlib import Path

from mutants.mutations import MUTATIONS, table

ROOT = Path(__file__).parents[2]


def test_there_are_at_least_forty_mutations_with_unique_names() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 40


def test_each_line_occurs_exactly_once() -> None:
    wrong = [m.name for m in MUTATIONS if (ROOT / m.file).read_text().count(m.old) != 1]
    assert wrong == []


def test_each_line_is_in_the_folder_that_is_copied() -> None:
    assert [mutation.name for mutation in MUTATIONS if not mutation.file.startswith("src/")] == []


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


def test_the_page_has_the_list() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    shown = re.search(r"<!-- mutants: begin -->\n(.*?)<!-- mutants: end -->", page, re.DOTALL)
    assert shown
    assert shown[1].strip() == table(), "replace it by the output of `python tests/mutants --table`"
