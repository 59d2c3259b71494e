"""A short run of the simulator, and proof that its judge can say no."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from simulation.__main__ import shortest
from simulation.choices import Choices, shrink
from simulation.history import Failure, History, drive, play_history

from umrgen.flow import Flow


def test_two_thousand_histories_end_well() -> None:
    outcomes = Counter(type(play_history(seed).outcome).__name__ for seed in range(2000))
    assert {"Status", "WaitTimeout", "JobFailed", "JobNotFound", "OutputMissing", "ConcurrencyLimit"} <= set(outcomes)


def test_a_seed_replays() -> None:
    for seed in (1, 7, 42):
        assert play_history(seed).transcript() == play_history(seed).transcript()


def mutated(change: Any) -> Any:
    """The driver, between a flow that was broken on purpose and the network."""

    def driver(history: History, flow: "Flow[Any]") -> Any:
        def broken() -> "Flow[Any]":
            try:
                step = next(flow)
                while True:
                    try:
                        reply = yield change(step)
                    except Exception as failure:
                        step = flow.throw(failure)
                    else:
                        step = flow.send(reply)
            except StopIteration as end:
                return end.value

        return drive(history, broken())

    return driver


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda step: replace(step, delay=0.0), "asked again after"),
        (lambda step: replace(step, timeout=step.timeout + 500), "outlast the deadline"),
        (lambda step: replace(step, path=f"https://evil.example{step.path}"), "left its origin"),
        (lambda step: replace(step, headers={}), "without a key"),
        (lambda step: replace(step, delay=step.delay + 700), "after the deadline"),
    ],
    ids=["no delays", "a longer timeout", "another origin", "no key", "too late"],
)
def test_a_broken_client_is_caught(change: Any, words: str) -> None:
    caught = []
    for seed in range(400):
        try:
            play_history(seed, mutated(change))
        except Failure as failure:
            caught.append(str(failure))
    assert any(words in failure for failure in caught)


def test_a_failing_list_of_draws_gets_shorter() -> None:
    def fails(draws: list[int]) -> bool:
        return sum(draw > 500_000 for draw in draws) >= 2

    choices = Choices(5)
    for _ in range(60):
        choices.draw()
    best = shrink(choices.taken, fails)
    assert fails(best)
    assert len(best) == 2


def test_a_history_that_ends_well_is_not_shrunk() -> None:
    assert shortest(1) == "history 1 ends well"
