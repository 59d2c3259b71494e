"""A short run of the simulation, and its checks against clients that are broken on purpose."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from simulation.__main__ import shortest
from simulation.choices import Choices, shrink
from simulation.history import Failure, History, drive, run_choices, run_history

from umrgen.client import protocol
from umrgen.client.flow import Flow, Step
from umrgen.client.flows import submit as submission
from umrgen.client.flows import wait as watch
from umrgen.client.flows.wait import StatusPoller


def test_two_thousand_histories_without_a_violation() -> None:
    outcomes = Counter(type(run_history(seed).outcome).__name__ for seed in range(2000))
    assert {"Status", "WaitTimeout", "JobFailed", "JobNotFound", "OutputMissing", "ConcurrencyLimit"} <= set(outcomes)


def test_a_seed_repeats_its_history() -> None:
    for seed in (1, 7, 42):
        history = run_history(seed)
        assert history.transcript() == run_history(seed).transcript()
        assert history.transcript() == run_choices(Choices(given=history.choices.taken)).transcript()


# --- clients that are broken on purpose ----------------------------------------------------------------


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
    """Yield the violations of the first histories."""
    for seed in range(histories):
        try:
            run_history(seed, driver)
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
        (lambda step, before: replace(step, delay=0.0), "requested again after"),
        (_half, "requested again after"),
        (lambda step, before: replace(step, timeout=step.timeout + 500), "outlast the deadline"),
        (lambda step, before: replace(step, path=f"https://evil.example{step.path}"), "another origin"),
        (lambda step, before: replace(step, path=f"//evil.example{step.path}"), "another origin"),
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


def _repeats_anything(*_: Any) -> "Flow[bool]":
    yield from ()
    return True


def _passes_another_kind_on(self: StatusPoller, error: Exception) -> Exception:
    return ValueError("a flow let an error of another kind through")


@pytest.mark.parametrize(
    ("owner", "name", "value", "words"),
    [
        (submission, "_supports_idempotency", _repeats_anything, "may have arrived was repeated"),
        (submission._Submission, "maybe_created", property(lambda self: False, lambda self, value: None), "denies it"),
        (StatusPoller, "_not_found_error", _passes_another_kind_on, "ValueError"),
        (StatusPoller, "_is_progress", lambda self, status: True, "requested again after 0.250"),
        (watch, "retry_after", lambda reply: None, "requested again after"),
        (watch.RetryBudget, "reset", lambda self: None, "gave up before its patience ended"),
        (
            watch.RetryBudget,
            "next_delay",
            lambda self, error, requested=None, *, job_id=None: 15.0,
            "beyond its patience",
        ),
        (protocol, "is_transient", lambda reply: False, "gave up before its patience ended"),
        (watch, "reports_missing_job", lambda status, data: status == 404, "a known job was reported as unknown"),
    ],
    ids=[
        "resubmits to servers without keys",
        "reports that no job was created",
        "another kind of error",
        "always news",
        "ignores Retry-After",
        "never resets its budget",
        "endless patience",
        "no patience",
        "takes any 404 for the server's",
    ],
)
def test_a_broken_rule_is_caught(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, value: Any, words: str
) -> None:
    monkeypatch.setattr(owner, name, value, raising=False)
    assert any(words in violation for violation in _violations(2500))


# --- shrinking a failing history -----------------------------------------------------------------------


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
    text = shortest(failing, seconds=2.0)
    found, drawn = re.match(r"(\d+) draws \(of (\d+)\)", text).groups()  # type: ignore[union-attr]
    assert 0 < int(found) < int(drawn)
    assert "Violation: requested again after" in text
    assert "GET /api/v1/status/ext_1" in text


def _fails(seed: int) -> bool:
    try:
        run_history(seed)
    except Failure:
        return True
    return False


def test_a_history_without_a_violation_is_not_shrunk() -> None:
    assert shortest(1) == "history 1 has no violation"
