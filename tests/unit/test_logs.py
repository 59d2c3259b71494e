"""Log lines: one an event, whatever is in it."""

import json
import logging

import hypothesis.strategies as st
from hypothesis import given

from umrgen.server.logs import JsonFormatter, TextFormatter


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "umrgen", "levelno": 20, "levelname": "INFO", "msg": "%s", "args": (message,)}
    )
    vars(made).update(extra)
    return made


@given(st.text(), st.text())
def test_text_is_one_line_and_printable(message: str, prompt: str) -> None:
    line = TextFormatter().format(record(message, prompt=prompt))
    assert line.isprintable()
    assert " INFO umrgen: " in line


@given(st.text(), st.text())
def test_json_is_one_line_and_says_it_all(message: str, prompt: str) -> None:
    line = JsonFormatter().format(record(message, prompt=prompt))
    assert "\n" not in line
    told = json.loads(line)
    assert (told["message"], told["prompt"], told["level"]) == (message, prompt, "info")


def test_a_traceback_is_kept() -> None:
    try:
        raise ValueError("why\nnot")
    except ValueError as error:
        failed = record("it failed")
        failed.exc_info = (ValueError, error, error.__traceback__)
    assert "ValueError: why" in TextFormatter().format(failed)
    assert "ValueError: why" in json.loads(JsonFormatter().format(failed))["exception"]
