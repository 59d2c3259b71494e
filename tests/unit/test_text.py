"""Texts from elsewhere are shown as one line of printable characters."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umrgen import errors
from umrgen.model import Status
from umrgen.text import LONGEST, printable, printable_json

WILD = st.text(st.characters(), max_size=60) | st.text(st.sampled_from("a \n\r\t\x00\x1b\x7f\x9b\u202e\u2028\ud800"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WILD, lambda inner: st.lists(inner) | st.dictionaries(WILD, inner)
)
ERRORS = [getattr(errors, name) for name in errors.__all__ if name[0].isupper()]


def is_shown(text: str) -> bool:
    """Return whether a terminal shows `text` in one line, and any encoding of Unicode can have it."""
    return text.isprintable() and text.encode() is not None


@given(WILD)
def test_a_printable_text_is_one_line(text: str) -> None:
    shown = printable(text)
    assert is_shown(shown)
    assert printable(shown) == shown


@given(st.text("ab \n", min_size=LONGEST), st.integers(1, 50))
def test_a_long_text_is_shortened(text: str, limit: int) -> None:
    assert len(printable(text)) <= LONGEST
    assert len(printable(text, limit)) <= limit


def test_words_and_pictures_are_not_changed() -> None:
    for text in ("café ☃ 🚢", "日本語", "a boat"):
        assert printable(text) == text


@given(JSON)
def test_json_is_printable_and_unchanged(data: object) -> None:
    text = printable_json(data)
    assert json.loads(text) == data
    assert text.encode() is not None
    assert not set(text) & set("\n\r\x1b\x7f\x9b\u202e\u2028\ufeff")


@pytest.mark.parametrize("kind", ERRORS)
@given(WILD, WILD)
def test_every_error_is_printable(kind: type[errors.UmrgenError], message: str, advice: str) -> None:
    error = kind(message, next=advice)
    assert is_shown(str(error))
    assert is_shown(error.next)


@given(WILD, WILD, WILD, WILD)
def test_the_texts_of_a_status_are_printable(state: str, error: str, code: str, engine: str) -> None:
    status = Status.parse({"state": state or "x", "error": error, "error_code": code, "engine": engine}, "ext_1")
    assert status is not None
    assert all(is_shown(text or "") for text in (status.state, status.error, status.error_code, status.engine))


@given(st.integers(100, 999), st.dictionaries(st.sampled_from(["error", "code", "job_id", "next", "detail"]), JSON))
def test_the_error_of_a_response_is_printable(status: int, data: dict[str, object]) -> None:
    error = errors.api_error(status, data)
    assert all(is_shown(str(text)) for text in (error, error.code, error.next, error.job_id))
