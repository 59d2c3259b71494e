"""Hashes by which an image is searched for that was changed since: the bits that the change leaves known.

Two changes hide a part of an image: a strip over its upper or lower edge, and brightness or contrast that cut off the
values of pixels. The hidden pixels are filled in several plausible ways. A bit of the hash is known if all ways give
the same, and the search compares these bits only.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from umrgen.server.pdq import MIN_QUALITY, hash_of, pdq_hash

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Strip", "find_strip", "query_hashes"]

SIDE = 512
"""Pixels of the copy in which hidden pixels are filled."""
MIN_KNOWN = 128
"""Bits; with fewer known ones, other images would be taken for similar."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601."""

CUT_LOW, CUT_HIGH = 5, 250
"""Values beyond them may have been cut off; JPEG changes a value by a few."""
EVENLY, RISING = (20, 40), (30, 60)
"""How far the original values were beyond the limit: everywhere, or in the middle of the area, less toward its edge."""
RISE = 12
"""The distance from an area's edge to its middle is a part of the image's side: one in RISE."""

SHALLOWEST, DEEPEST = 0.02, 0.2
"""Of the height: the strips that are found."""
NARROWEST = 0.2
"""Of the width."""
STEP = 10.0
"""The difference of luma across the edge of a strip."""
GAP = 0.1
"""Of the width: where an edge has less difference, because the pixels beside it are as dark or bright as the strip."""
MARGIN = 2
"""Rows beside the edge that scaling and JPEG mix with the strip."""

Pixels = NDArray[np.float32]
Bits = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Strip:
    """A strip over an edge of an image: its rows from that edge, and its columns."""

    upper: bool
    rows: int
    left: int
    right: int
    clarity: float


def query_hashes(image: "Image.Image") -> list[tuple[bytes, bytes]]:
    """Return hashes of an image in RGB, in the order in which they are searched for, each with the bits that are known.

    Returns [] for an image with too little detail.
    """
    found = hash_of(image)
    if not found:
        return []
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    pixels = np.asarray(small, np.float32)
    queries = [(found, _packed(_agreement(_uncut(pixels))))]
    strip = find_strip(pixels @ LUMA)
    return queries if strip is None else queries + _without(pixels, strip)


def _without(pixels: Pixels, strip: Strip) -> list[tuple[bytes, bytes]]:
    """Return the hash of the image without the strip, if its other bits are enough."""
    filled = [_filled(pixels, strip, fill) for fill in FILLS]
    found, quality = pdq_hash(filled[0] @ LUMA)
    known = _agreement([*_uncut(filled[0]), *(each @ LUMA for each in filled[1:])])
    return [(found, _packed(known))] if quality >= MIN_QUALITY and known.sum() >= MIN_KNOWN else []


def _packed(known: Bits) -> bytes:
    if known.sum() < MIN_KNOWN:
        known = np.ones_like(known)
    return np.packbits(known).tobytes()


def _agreement(lumas: Iterable[Pixels]) -> Bits:
    """Return the bits of the hash that are equal in all of them."""
    bits = np.stack([np.unpackbits(np.frombuffer(pdq_hash(luma)[0], np.uint8)) for luma in lumas])
    found: Bits = (bits == bits[0]).all(axis=0)
    return found


# --- values that were cut off ---


def _uncut(pixels: Pixels) -> list[Pixels]:
    """Return the luma as it is, and as it may have been before values were cut off."""
    luma = pixels @ LUMA
    beyond = ((pixels >= CUT_HIGH).astype(np.float32) - (pixels <= CUT_LOW)) @ LUMA
    if not beyond.any():
        return [luma]
    middle = beyond * np.abs(_averaged(beyond))
    return [luma, *(luma + step * beyond for step in EVENLY), *(luma + step * middle for step in RISING)]


def _averaged(luma: Pixels) -> Pixels:
    """Return the averages over squares that reach 1 / RISE of the image's longer side to each side of a pixel."""
    reach = max(luma.shape) // RISE
    for axis in (0, 1):
        sums = np.cumsum(np.insert(luma, 0, 0, axis=axis), axis=axis)
        last = luma.shape[axis]
        at = np.arange(last)
        upper, lower = np.minimum(at + reach + 1, last), np.maximum(at - reach, 0)
        counts = np.expand_dims(upper - lower, 1 - axis)
        luma = (sums.take(upper, axis) - sums.take(lower, axis)) / counts
    return luma.astype(np.float32)


# --- strips ---


def find_strip(luma: Pixels) -> Strip | None:
    """Return the clearest strip over the upper or lower edge: one beside which the luma changes along a line."""
    found = [*_lines(luma, upper=False), *_lines(luma[::-1], upper=True)]
    return max(found, key=lambda strip: strip.clarity, default=None)


def _lines(luma: Pixels, upper: bool) -> Iterable[Strip]:
    """Yield the strips at the lower edge."""
    height, width = luma.shape
    for rows in range(max(3, int(height * SHALLOWEST)), int(height * DEEPEST) + 1):
        edge = height - rows
        steps = luma[edge - MARGIN] - luma[edge + 1]
        for sign in (1, -1):
            left, right = _longest((steps * sign > STEP), int(width * GAP))
            if right - left >= width * NARROWEST:
                clarity = float(np.abs(steps[left:right]).sum())
                left = 0 if left < width * GAP else left
                right = width if right > width * (1 - GAP) else right
                yield Strip(upper, rows + MARGIN, left, right, clarity)


def _longest(wanted: Bits, gap: int) -> tuple[int, int]:
    """Return the longest part of a line in which no gap is longer than `gap`."""
    at = np.flatnonzero(wanted)
    if not at.size:
        return 0, 0
    ends = np.flatnonzero(np.diff(at) > gap)
    starts, stops = np.append(0, ends + 1), np.append(ends, at.size - 1)
    longest = int(np.argmax(at[stops] - at[starts]))
    return int(at[starts[longest]]), int(at[stops[longest]]) + 1


Fill = Callable[[Pixels, int], Pixels]


def _filled(pixels: Pixels, strip: Strip, fill: Fill) -> Pixels:
    """Return the image with the strip's pixels made from the rows beside it."""
    copy = pixels.copy()
    part = (copy[::-1] if strip.upper else copy)[:, strip.left : strip.right]
    part[-strip.rows :] = np.clip(fill(part[: -strip.rows], strip.rows), 0, 255)
    return copy


def _edge(above: Pixels) -> Pixels:
    found: Pixels = above[-4:].mean(axis=0)
    return found


def _slope(above: Pixels, rows: int) -> Pixels:
    """Return rows that continue the change of brightness above them."""
    steps = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    return _edge(above) + steps * (_edge(above) - _edge(above[:-rows]))


FILLS: tuple[Fill, ...] = (
    lambda above, rows: _edge(above)[None],
    lambda above, rows: above[: -rows - 1 : -1],
    lambda above, rows: above[-rows:],
    lambda above, rows: above[-rows:].mean(axis=(0, 1))[None, None],
    _slope,
)
"""The nearest rows; a mirror image; a copy; one colour; a gradient."""
