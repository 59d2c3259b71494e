"""Whole lives of a server, in a short form of `make simulate`: see tests/simulation/lives.py."""

import logging

import pytest
from simulation.lives import play

from umrgen.server.ledger import queries
from umrgen.server.ledger.sqlite import _SQL


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.mark.parametrize("hundred", range(5))
def test_every_acknowledged_job_ends_once(hundred: int) -> None:
    ends = sum(sum(play(seed).values()) for seed in range(100 * hundred, 100 * hundred + 100))
    assert ends > 500, "hardly anything happened"


def test_a_seed_plays_the_same_history_again() -> None:
    assert play(11) == play(11)


def test_a_queue_without_turns_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_SQL, "next_session", queries.load_queries("sqlite")["next_session"].replace("served, ", ""))
    with pytest.raises(AssertionError, match="waits behind more than one job"):
        for seed in range(100):
            play(seed)
