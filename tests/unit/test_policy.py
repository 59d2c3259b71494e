"""Lists of forbidden terms: they match as a whole, in every spelling."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from umrgen.server.deployment import example_policy
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


STARTER = TermList(example_policy().splitlines())


@pytest.mark.parametrize(
    "prompt", ["a LOLI", "a naked-child", "nude\nkids", "undress her", "a deepfake of a singer", "ｃｓａｍ"]
)
def test_the_starter_list_refuses_its_terms(prompt: str) -> None:
    assert STARTER(prompt) is not None


@pytest.mark.parametrize(
    "prompt",
    [
        "a child with a kite",
        "a lollipop",
        "children at a naked eye observatory",
        "a nude-coloured dress",
        "an orthopedic shoe",
        "a mother undressing a wound",
        "a pedometer",
        "Scunthorpe",
    ],
)
def test_the_starter_list_accepts_everyday_prompts(prompt: str) -> None:
    assert STARTER(prompt) is None


@pytest.mark.parametrize("prompt", ["a l o l i", "a l0li", "nude young kids", "一个loli"])
def test_the_documented_limits_of_a_list(prompt: str) -> None:
    """They are in docs/operations.md: other spellings, parts in between, scripts without spaces."""
    assert STARTER(prompt) is None
