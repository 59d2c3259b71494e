"""`make torture` in a short form: see tests/torture.py."""

from pathlib import Path

import pytest
from torture import torture


@pytest.mark.slow
def test_nothing_acknowledged_is_lost(state: Path) -> None:
    tally, wrong = torture(state, kills=10, seed=1)
    assert wrong == []
    assert sum(tally.kills.values()) == 10
    assert len(tally.kills) == 2, "both ways of dying"
    assert set(tally.receipts.values()) == set(tally.ended), "every 202 came to its end"
    assert any(job["attempt"] > 1 for job in tally.ended.values()), "nothing was interrupted"
