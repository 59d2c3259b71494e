"""A short run of `make torture`: see tests/torture.py."""

from pathlib import Path

import pytest
from torture import torture


@pytest.mark.slow
def test_acknowledged_jobs_survive_repeated_kills(state: Path) -> None:
    tally, wrong = torture(state, kills=10, seed=1)
    assert wrong == []
    assert sum(tally.kills.values()) == 10
    assert len(tally.kills) == 2, "the engine and the group were killed"
    assert set(tally.receipts.values()) == set(tally.ended), "every acknowledged job has ended"
    assert any(job["attempt"] > 1 for job in tally.ended.values()), "at least one job was interrupted"
