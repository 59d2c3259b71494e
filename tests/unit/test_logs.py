"""Log lines: one line for each event, with any characters in its message."""

import json
import logging

import hypothesis.strategies as st
from hypothesis import given

from umrgen.server.logs import JsonFormatter, RepeatLimit, TextFormatter


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "umrgen", "levelno": 20, "levelname": "INFO", "msg": "%s", "args": (message,)}
    )
    vars(made).update(extra)
    return made


@given(st.text(), st.text())
def test_a_text_line_is_one_line_of_printable_characters(message: str, prompt: str) -> None:
    line = TextFormatter().format(record(message, prompt=prompt))
    assert line.isprintable()
    assert " INFO umrgen: " in line


@given(st.text(), st.text())
def test_a_json_line_has_the_message_the_level_and_the_extra_fields(message: str, prompt: str) -> None:
    line = JsonFormatter().format(record(message, prompt=prompt))
    assert "\n" not in line
    event = json.loads(line)
    assert (event["message"], event["prompt"], event["level"]) == (message, prompt, "info")


def test_a_traceback_is_logged() -> None:
    try:
        raise ValueError("why\nnot")
    except ValueError as error:
        failed = record("it failed")
        failed.exc_info = (ValueError, error, error.__traceback__)
    assert "ValueError: why" in TextFormatter().format(failed)
    assert "ValueError: why" in json.loads(JsonFormatter().format(failed))["exception"]


def lines_that_pass(limit: RepeatLimit, seconds: list[float], at: list[float], kind: str = "full") -> list[float]:
    """Return the times of the lines of a kind that pass; `at` is the clock of the limit."""
    passed = []
    for second in seconds:
        at[0] = second
        if limit.filter(logging.LogRecord("umrgen", logging.ERROR, "", 0, kind, (), None)):
            passed.append(second)
    return passed


class TestRepeatLimit:
    @given(st.lists(st.floats(0, 86_400), max_size=300).map(sorted))
    def test_lines_of_one_kind_are_20_at_once_and_then_one_a_minute(self, seconds: list[float]) -> None:
        at = [0.0]
        passed = lines_that_pass(RepeatLimit(lambda: at[0]), seconds, at)
        for index, first in enumerate(passed):
            later = [second for second in passed[index:] if second - first < 600]
            assert len(later) <= 20 + 10
        assert passed[:1] == seconds[:1]
        if len(seconds) <= 20:
            assert passed == seconds

    def test_a_line_a_second_for_a_day(self) -> None:
        at = [0.0]
        limit = RepeatLimit(lambda: at[0])
        assert len(lines_that_pass(limit, [float(second) for second in range(86_400)], at)) <= 20 + 24 * 60 + 1

    def test_the_next_line_reports_how_many_were_left_out(self) -> None:
        at = [0.0]
        limit = RepeatLimit(lambda: at[0])
        lines_that_pass(limit, [0.0] * 50, at)
        at[0] = 61.0
        following = logging.LogRecord("umrgen", logging.ERROR, "", 0, "full", (), None)
        assert limit.filter(following)
        assert "left_out=30" in TextFormatter().format(following)

    def test_other_kinds_and_events_are_not_affected(self) -> None:
        at = [0.0]
        limit = RepeatLimit(lambda: at[0])
        lines_that_pass(limit, [0.0] * 50, at)
        assert lines_that_pass(limit, [0.0], at, "another") == [0.0]
        events = [logging.LogRecord("umrgen", logging.INFO, "", 0, "full", (), None) for _ in range(100)]
        assert all(limit.filter(event) for event in events)

    def test_the_number_of_kinds_is_bounded(self) -> None:
        at = [0.0]
        limit = RepeatLimit(lambda: at[0])
        for number in range(5000):
            lines_that_pass(limit, [0.0], at, f"kind {number}")
        assert len(limit._kinds) <= 1000
