"""Types of the command line's values that describe an image: a LoRA, and the ratio of its sides."""

import math
import re
from typing import Any

import click

__all__ = ["LoraText", "Ratio", "with_sides"]

PIXELS = 1024 * 1024
"""The pixels of an image whose ratio is given without a side."""
MULTIPLE = 64
"""Sides that follow from a ratio are multiples of this, which every engine accepts."""


class LoraText(click.ParamType[Any]):
    """`NAME` or `NAME:STRENGTH`."""

    name = "lora"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        name, separator, strength = value.rpartition(":")
        try:
            lora = {"name": name, "strength": float(strength)} if separator else {"name": value}
        except ValueError:
            self.fail(f"the strength of {name!r} must be a number; got {strength!r}", param, ctx)
        if not lora["name"]:
            self.fail(f"{value!r} has no name: use NAME or NAME:STRENGTH", param, ctx)
        return lora


class Ratio(click.ParamType[Any]):
    """`W:H`, converted to the quotient."""

    name = "ratio"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"(\d{1,4}(?:\.\d{1,4})?)[:x/](\d{1,4}(?:\.\d{1,4})?)", value)
        if not match or not float(match[1]) or not float(match[2]):
            self.fail(f"{value!r} is not a ratio: use two numbers, for example 16:9", param, ctx)
        return float(match[1]) / float(match[2])


def with_sides(request: dict[str, Any]) -> dict[str, Any]:
    """Return the request with sides instead of `ratio`; a given side is kept, and the other one follows from it.

    Raises click.UsageError when both sides are given as well.
    """
    request = dict(request)
    ratio, width, height = request.pop("ratio", None), request.get("width"), request.get("height")
    if ratio is None:
        return request
    if width and height:
        raise click.UsageError("--ratio, --width and --height: give two of them, not three.")
    if height:
        width = _rounded(height * ratio)
    elif width:
        height = _rounded(width / ratio)
    else:
        width, height = _rounded(math.sqrt(PIXELS * ratio)), _rounded(math.sqrt(PIXELS / ratio))
    return request | {"width": width, "height": height}


def _rounded(side: float) -> int:
    return max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)
