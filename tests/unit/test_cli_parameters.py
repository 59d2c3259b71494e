"""The values of the command line that describe an image: LoRAs, and the ratio of the sides."""

from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umrgen.cli.listing import Time
from umrgen.cli.parameters import LoraText, Ratio, with_sides


@pytest.mark.parametrize(
    ("text", "lora"),
    [
        ("ink", {"name": "ink"}),
        ("ink:0.5", {"name": "ink", "strength": 0.5}),
        ("styles:ink:-1", {"name": "styles:ink", "strength": -1.0}),
    ],
)
def test_a_lora_has_a_name_and_a_strength(text: str, lora: dict[str, Any]) -> None:
    assert LoraText().convert(text, None, None) == lora


@pytest.mark.parametrize(("text", "error"), [("ink:much", "must be a number; got 'much'"), (":0.5", "has no name")])
def test_the_error_for_a_wrong_lora_says_what_is_wrong(text: str, error: str) -> None:
    with pytest.raises(click.BadParameter, match=error):
        LoraText().convert(text, None, None)


def test_the_error_for_a_wrong_time_has_examples_and_no_format_codes() -> None:
    with pytest.raises(click.BadParameter) as refused:
        Time().convert("yesterday", None, None)
    assert refused.value.message == "expected a time such as 2026-11-28 or 2026-11-28T10:00; got 'yesterday'"


@given(st.floats(0.25, 4), st.sampled_from(["width", "height", None]), st.integers(512, 2048))
def test_sides_follow_from_the_ratio_and_one_side(ratio: float, given: str | None, side: int) -> None:
    request = with_sides({"ratio": ratio, "seed": 1} | ({given: side} if given else {}))
    assert (request.pop("seed"), "ratio" in request) == (1, False)
    width, height = request["width"], request["height"]
    if given:
        assert request.pop(given) == side
    assert all(value % 64 == 0 for name, value in request.items())
    follows = {"width": height * ratio, "height": width / ratio}
    for name, value in request.items():
        assert abs(value - follows[name]) <= (64 if given else 64 * max(1, ratio, 1 / ratio))


def test_a_ratio_alone_gives_about_the_pixels_of_a_square() -> None:
    assert with_sides({"ratio": Ratio().convert("16:9", None, None)}) == {"width": 1344, "height": 768}


def test_three_measures_are_one_too_many() -> None:
    with pytest.raises(click.UsageError, match="give two of them"):
        with_sides({"ratio": 2.0, "width": 512, "height": 512})


@pytest.mark.parametrize("text", ["16", "0:9", "a:b", "16:9:1", "-1:2"])
def test_the_error_for_a_wrong_ratio_shows_a_right_one(text: str) -> None:
    with pytest.raises(click.BadParameter, match="for example 16:9"):
        Ratio().convert(text, None, None)
