"""A short run of the client's simulation, and tests that its judge detects violations."""

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


def test_two_thousand_histories_violate_no_rule() -> None:
    outcomes = Counter(type(play_history(seed).outcome).__name__ for seed in range(2000))
    assert {"Status", "WaitTimeout", "JobFailed", "JobNotFound", "OutputMissing", "ConcurrencyLimit"} <= set(outcomes)


def test_a_seed_or_its_draws_repeat_a_history() -> None:
    for seed in (1, 7, 42):
        played = play_history(seed)
        assert played.transcript() == play_history(seed).transcript()
        assert played.transcript() == play_choices(Choices(given=played.choices.taken)).transcript()


# --- clients with a defect -----------------------------------------------------------------------------


def mutated(change: Callable[[Step, list[Step]], Step]) -> Any:
    """Return a driver that changes each step of a flow; `change` receives the step and those before it."""

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
    """Yield the judge's message for each violation in the first histories."""
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
    ("change", "message"),
    [
        (lambda step, before: replace(step, delay=0.0), "repeated after"),
        (_half, "repeated after"),
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
def test_the_judge_detects_a_wrong_step(change: Any, message: str) -> None:
    assert any(message in violation for violation in _violations(400, mutated(change)))


def _no_check(*_: Any) -> "Flow[None]":
    yield from ()


def _raise_another_type(self: StatusPoller, error: Exception) -> Exception:
    return ValueError("an error that is no UmrgenError")


@pytest.mark.parametrize(
    ("owner", "name", "value", "message"),
    [
        (submission, "_check_repeatable", _no_check, "may have arrived was repeated"),
        (submission._Submission, "maybe_created", property(lambda self: False, lambda self, value: None), "sent=False"),
        (StatusPoller, "_not_found_error", _raise_another_type, "ValueError"),
        (StatusPoller, "_is_progress", lambda self, status: True, "repeated after 0.250"),
        (watch, "retry_after", lambda reply: None, "repeated after"),
        (watch.RetryBudget, "reset", lambda self: None, "before the budget was spent"),
        (
            watch.RetryBudget,
            "next_delay",
            lambda self, error, requested=None, *, job_id=None: 15.0,
            "after the budget was spent",
        ),
        (watch, "is_transient", lambda reply: False, "before the budget was spent"),
    ],
    ids=[
        "repeats submits without keys",
        "denies that a job was created",
        "another type of error",
        "every status is progress",
        "ignores Retry-After",
        "never resets the budget",
        "unlimited budget",
        "no retries",
    ],
)
def test_the_judge_detects_a_defect_of_a_flow(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, value: Any, message: str
) -> None:
    monkeypatch.setattr(owner, name, value, raising=False)
    assert any(message in violation for violation in _violations(2500))


# --- shrinking a failing history -----------------------------------------------------------------------


def test_shrink_returns_the_shortest_failing_draws() -> None:
    def fails(draws: list[int]) -> bool:
        return sum(draw > 500_000 for draw in draws) >= 2

    choices = Choices(5)
    for _ in range(60):
        choices.draw()
    best = shrink(choices.taken, fails)
    assert fails(best)
    assert len(best) == 2


def test_a_failing_history_is_shrunk_and_printed_with_its_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StatusPoller, "_is_progress", lambda self, status: True)
    failing = next(seed for seed in range(500) if _fails(seed))
    report = shortest(failing, seconds=2.0)
    found, drawn = re.match(r"(\d+) draws \(of (\d+)\)", report).groups()  # type: ignore[union-attr]
    assert 0 < int(found) < int(drawn)
    assert "Violation: repeated after" in report
    assert "GET /api/v1/status/ext_1" in report


def _fails(seed: int) -> bool:
    try:
        play_history(seed)
    except Failure:
        return True
    return False


def test_a_history_without_violation_is_not_shrunk() -> None:
    assert shortest(1) == "history 1 violates no rule"
