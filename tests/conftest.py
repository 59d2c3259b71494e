import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, settings

from support import PATIENT, ServerProcess, server

# Machines are shared, and a first run builds its tables of characters: slowness is no verdict on a test.
settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
# `make test` tries the same examples on every run, so that its result depends on the code alone. `make check` runs the
# slow tests, and the unit and conformance tests again, with random examples.
settings.register_profile("fixed", settings.get_profile("random"), derandomize=True)
settings.load_profile("fixed")

# A shell starts `make test &` with SIGINT ignored, and children inherit that. Here Ctrl-C means what it says.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for the tests that leave nothing behind but jobs."""
    with server(tmp_path_factory.mktemp("shared") / "state", *PATIENT) as running:
        yield running


@pytest.fixture
def http(shared_server: ServerProcess) -> Iterator[httpx2.Client]:
    with shared_server.http() as client:
        yield client


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own folders or settings."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in ("UMRGEN_BASE_URL", "UMRGEN_API_KEY", "UMRGEN_STATE"):
        monkeypatch.delenv(name, raising=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Where every optional part is present (CI), a test that skips has failed."""
    report = yield
    if report.skipped and os.environ.get("UMRGEN_NO_SKIP"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be missing: {report.longrepr[2]}"
    return report
