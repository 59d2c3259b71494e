import json
from collections.abc import Iterator

import pytest

from support import UNLIMITED, ServerProcess, cli, server


@pytest.fixture(scope="session")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose engine takes its time between steps."""
    with server(tmp_path_factory.mktemp("slow") / "state", *UNLIMITED, "--step-delay", "0.6") as running:
        yield running


@pytest.fixture
def other_key(shared_server: ServerProcess) -> str:
    """A second key, so a second session, on the shared server."""
    made = cli("keys", "create", "--state", str(shared_server.state), "--json")
    key: str = json.loads(made.stdout)["key"]
    return key
