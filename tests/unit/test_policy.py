"""Lists of forbidden terms: they match as a whole, in every spelling."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from umrgen.server.services.content_policy import TermList

LIST = TermList(["# a comment", "", "kid", "minor", "bad idea", "Straße", "c++"])


@pytest.mark.parametrize(
    "prompt",
    [
        "a kid",
        "KID on a hill",
        "kid",
        "a ｋｉｄ",
        "a k\u200bid",
        "k\u00adid",
        "k\ufe0fid",
        "k\u034fid",
        "_kid_",
        "a kid's room",
        "kid.",
        "(kid)",
        "bad idea",
        "Bad   Idea",
        "bad-idea",
        "bad\nidea",
        "STRASSE",
        "strasse",
        "in c++ written",
    ],
)
def test_refused(prompt: str) -> None:
    assert LIST(prompt) is not None


@pytest.mark.parametrize(
    "prompt",
    ["a kidney", "a minority", "skid", "minors", "bad ideas", "a comment", "akid b", "c+", "", "灯台"],
)
def test_accepted(prompt: str) -> None:
    assert LIST(prompt) is None


def test_the_reason_does_not_repeat_the_term() -> None:
    assert "kid" not in str(LIST("a kid"))


def test_an_empty_list_refuses_nothing() -> None:
    assert TermList(["# nothing", "  "])("a kid") is None


@given(st.text())
def test_any_text_is_checked(prompt: str) -> None:
    LIST(prompt)
    assert LIST(f"{prompt} kid") is not None
