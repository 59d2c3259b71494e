"""A short run of the simulator, and proof that its judge can say no."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from simulation.__main__ import shortest
from simulation.choices import Choices, shrink
from simulation.history import Failure, History, drive, play_choices, play_history

from umrgen.client.flow import Flow, Step
from umrgen.client.flows import submit as submission
from umrgen.client.flows import wait as watch
from umrgen.client.flows.wait import StatusPoller


def test_two_thousand_histories_end_well() -> None:
    outcomes = Counter(type(play_history(seed).outcome).__name__ for seed in range(2000))
    assert {"Status", "WaitTimeout", "JobFailed", "JobNotFound", "OutputMissing", "ConcurrencyLimit"} <= set(outcomes)


def test_a_seed_replays() -> None:
    for seed in (1, 7, 42):
        played = play_history(seed)
        assert played.transcript() == play_history(seed).transcript()
        assert played.transcript() == play_choices(Choices(given=played.choices.taken)).transcript()


# --- clients that were broken on purpose ---------------------------------------------------------------


def mutated(change: Callable[[Step, list[Step]], Step]) -> Any:
    """The driver, between the network and a flow whose steps are changed; `change` knows those before."""

    def driver(history: History, flow: "Flow[Any]") -> Any:
        before = [exchange.step for exchange in history.exchanges]

        def broken() -> "Flow[Any]":
            try:
                step = next(flow)
                while True:
                    changed = change(step, before)
                    before.append(changed)
                    try:
                        reply = yield changed
                    except Exception as failure:
                        step = flow.throw(failure)
                    else:
                        step = flow.send(reply)
            except StopIteration as end:
                return end.value

        return drive(history, broken())

    return driver


def _violations(histories: int, driver: Any = drive) -> Iterator[str]:
    """What the judge says of the first histories, where it says no."""
    for seed in range(histories):
        try:
            play_history(seed, driver)
        except Failure as failure:
            yield str(failure).splitlines()[0]


def _new_key(step: Step, before: list[Step]) -> Step:
    key = {"Idempotency-Key": f"key-{len(before)}"}
    return replace(step, headers={**step.headers, **key}) if step.path.endswith("/generate") else step


def _half(step: Step, before: list[Step]) -> Step:
    return replace(step, delay=step.delay / 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda step, before: replace(step, delay=0.0), "asked again after"),
        (_half, "asked again after"),
        (lambda step, before: replace(step, timeout=step.timeout + 500), "outlast the deadline"),
        (lambda step, before: replace(step, path=f"https://evil.example{step.path}"), "left its origin"),
        (lambda step, before: replace(step, path=f"//evil.example{step.path}"), "left its origin"),
        (lambda step, before: replace(step, headers={}), "without a key"),
        (_new_key, "another key or body"),
        (lambda step, before: replace(step, delay=step.delay + 700), "after the deadline"),
    ],
    ids=[
        "no delays",
        "half the delays",
        "a longer timeout",
        "another origin",
        "an origin without a scheme",
        "no key",
        "new keys",
        "too late",
    ],
)
def test_a_broken_client_is_caught(change: Any, words: str) -> None:
    assert any(words in violation for violation in _violations(400, mutated(change)))


def _repeats_anything(*_: Any) -> "Flow[None]":
    yield from ()


def _passes_another_kind_on(self: StatusPoller, error: Exception) -> Exception:
    return ValueError("a flow let an error of another kind through")


@pytest.mark.parametrize(
    ("owner", "name", "value", "words"),
    [
        (submission, "_check_repeatable", _repeats_anything, "may have arrived was repeated"),
        (submission._Submission, "maybe_created", property(lambda self: False, lambda self, value: None), "none was"),
        (StatusPoller, "_not_found_error", _passes_another_kind_on, "ValueError"),
        (StatusPoller, "_is_progress", lambda self, status: True, "asked again after 0.250"),
        (watch, "retry_after", lambda reply: None, "asked again after"),
        (watch.RetryBudget, "reset", lambda self: None, "lost patience too soon"),
        (
            watch.RetryBudget,
            "next_delay",
            lambda self, error, requested=None, *, job_id=None: 15.0,
            "patience has no end",
        ),
        (watch, "is_transient", lambda reply: False, "lost patience too soon"),
    ],
    ids=[
        "resubmits to servers without keys",
        "says that nothing was made",
        "another kind of error",
        "always news",
        "deaf to Retry-After",
        "forgives nothing",
        "endless patience",
        "no patience",
    ],
)
def test_a_broken_rule_is_caught(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, value: Any, words: str
) -> None:
    monkeypatch.setattr(owner, name, value, raising=False)
    assert any(words in violation for violation in _violations(2500))


# --- making a failing history short --------------------------------------------------------------------


def test_a_failing_list_of_draws_gets_shorter() -> None:
    def fails(draws: list[int]) -> bool:
        return sum(draw > 500_000 for draw in draws) >= 2

    choices = Choices(5)
    for _ in range(60):
        choices.draw()
    best = shrink(choices.taken, fails)
    assert fails(best)
    assert len(best) == 2


def test_a_failing_history_gets_shorter_and_prints_what_replays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StatusPoller, "_is_progress", lambda self, status: True)
    failing = next(seed for seed in range(500) if _fails(seed))
    told = shortest(failing, seconds=2.0)
    found, drawn = re.match(r"(\d+) draws \(of (\d+)\)", told).groups()  # type: ignore[union-attr]
    assert 0 < int(found) < int(drawn)
    assert "Violation: asked again after" in told
    assert "GET /api/v1/status/ext_1" in told


def _fails(seed: int) -> bool:
    try:
        play_history(seed)
    except Failure:
        return True
    return False


def test_a_history_that_ends_well_is_not_shrunk() -> None:
    assert shortest(1) == "history 1 ends well"
