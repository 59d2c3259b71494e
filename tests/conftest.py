import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, settings

from postgres import PostgresDatabases, shared_databases
from support import UNLIMITED, ServerProcess, server

# No deadlines: machines are shared, and the first run builds hypothesis's tables of characters.
settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
# `make test` uses the same examples in every run, so that its result depends only on the code, and fewer of them. `make
# check` runs the slow tests, and the unit and conformance tests again, with random examples; `make mutants` uses more
# of the fixed ones.
settings.register_profile("thorough", settings.get_profile("random"), derandomize=True)
settings.register_profile("fixed", settings.get_profile("thorough"), max_examples=40)
settings.load_profile("fixed")

# A shell starts `make test &` with SIGINT ignored, and child processes inherit that: restore the default handlers.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for the tests that change nothing but jobs."""
    with server(tmp_path_factory.mktemp("shared") / "state", *UNLIMITED) as running:
        yield running


@pytest.fixture
def http(shared_server: ServerProcess) -> Iterator[httpx2.Client]:
    with shared_server.http() as client:
        yield client


@pytest.fixture
def postgres() -> Iterator[PostgresDatabases]:
    """The PostgreSQL of the tests; the databases that a test creates are dropped after it."""
    databases = shared_databases()
    yield databases
    databases.drop()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redirect the user's folders and settings to a folder of the test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("UMRGEN_BASE_URL", "UMRGEN_API_KEY", "UMRGEN_PROFILE", "UMRGEN_STATE"):
        monkeypatch.delenv(name, raising=False)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files whose tests may take longest first, so that at the end of `make slow` none runs alone."""
    longest: dict[Path, float] = {}
    for item in items:
        timeout = item.get_closest_marker("timeout")
        longest[item.path] = max(longest.get(item.path, 0), timeout.args[0] if timeout else 0)
    items.sort(key=lambda item: -longest[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Report a skipped test as failed with UMRGEN_NO_SKIP, in CI, where every optional part is present."""
    report = yield
    if report.skipped and os.environ.get("UMRGEN_NO_SKIP"):
        report.outcome = "failed"
        report.longrepr = f"skipped although UMRGEN_NO_SKIP is set: {report.longrepr[2]}"
    return report
