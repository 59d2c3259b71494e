"""A server that fails while it opens leaves nothing open."""

from pathlib import Path

import pytest

from support import open_descriptors
from umrgen.server.app import House
from umrgen.server.config import Settings
from umrgen.server.dispatcher import Dispatcher
from umrgen.server.ledger import LedgerUnavailable
from umrgen.server.ledger.sqlite import SqliteLedger


@pytest.mark.parametrize(("part", "step"), [(SqliteLedger, "recent_runs"), (Dispatcher, "recover")])
async def test_a_failure_after_the_ledger_was_opened_closes_it(
    part: type, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    async def fails(*args: object, **options: object) -> None:
        opened.extend(open_descriptors(tmp_path))
        raise LedgerUnavailable("the ledger cannot be read: disk I/O error")

    monkeypatch.setattr(part, step, fails)
    with pytest.raises(LedgerUnavailable):
        await House(Settings(state=tmp_path)).open()
    assert str(tmp_path / "ledger.sqlite3") in opened
    assert open_descriptors(tmp_path) == []
