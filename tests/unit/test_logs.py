"""Log lines: one line for each event, with any characters in its message."""

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
