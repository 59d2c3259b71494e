from collections.abc import Iterator
from pathlib import Path

import pytest

from fault_cases import CaseRun, FaultCase, RunCase, foreign_server
from umrgen.testing import FaultServer


@pytest.fixture(scope="module")
def foreign_origin() -> Iterator[FaultServer]:
    yield from foreign_server()


@pytest.fixture
def run_case(tmp_path: Path, foreign_origin: FaultServer, monkeypatch: pytest.MonkeyPatch) -> RunCase:
    foreign_origin.requests.clear()
    folder = tmp_path / "images"
    folder.mkdir()

    def run(phase: str, case: FaultCase, mode: str, driver: str) -> None:
        case_run = CaseRun(mode, case, phase, folder, foreign_origin, monkeypatch)
        with case_run.server:
            case_run.execute(driver)

    return run
