"""The test vectors of both clients are up to date with the Python flows."""

import json

import pytest
from vectors import make


@pytest.mark.parametrize("name", make.FILES)
def test_the_flows_produce_the_vectors_on_file(name: str) -> None:
    on_file = (make.FOLDER / f"{name}.json").read_text()
    assert make.text(name) == on_file, "a rule has changed; if that is intended, run: python tests/vectors/make.py"


@pytest.mark.parametrize("name", make.FILES)
def test_the_names_of_cases_are_unique(name: str) -> None:
    for cases in json.loads((make.FOLDER / f"{name}.json").read_text()).values():
        names = [json.dumps([case.get("name"), case.get("flow")] if "name" in case else case) for case in cases]
        assert len(names) == len(set(names))


def test_every_file_is_generated_by_the_script() -> None:
    assert {path.stem for path in make.FOLDER.glob("*.json")} == set(make.FILES)
