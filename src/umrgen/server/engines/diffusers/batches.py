"""The largest batch of each size, measured: a batch is drawn together only where that is faster by 15 %."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

from umrgen.server.engines.diffusers.options import Size

__all__ = ["GAIN", "BatchCaps", "candidates", "measure", "split"]

GAIN = 1.15
"""Images per second of a batch, over those of the next smaller one."""
T = TypeVar("T")


def candidates(most: int) -> list[int]:
    """Return the sizes of batches to measure: 1, 2, 4, 8 and so on, and `most`."""
    powers = [1 << number for number in range(most.bit_length()) if 1 << number < most]
    return [*powers, most]


def measure(draw: Callable[[int], bool], most: int, clock: Callable[[], float]) -> int:
    """Return the largest batch that draws at least `GAIN` times the images per second of the next smaller one.

    `draw(n)` draws n images together, and returns False if they do not fit in memory. `clock` returns seconds.
    """
    rates: list[tuple[int, float]] = []
    for count in candidates(most):
        if not draw(count):  # not measured: it compiles and allocates
            break
        started = clock()
        draw(count)
        rates.append((count, count / max(clock() - started, 1e-9)))
    best = 1
    for (_, slower), (count, rate) in pairwise(rates):
        if rate < slower * GAIN:
            break
        best = count
    return best


class BatchCaps:
    """The largest batch of each size."""

    def __init__(self, most: int, measured: Mapping[Size, int] | None = None) -> None:
        self._most = most
        self._measured = measured or {}

    @property
    def most(self) -> int:
        """The largest batch of any size."""
        return max(self._measured.values(), default=self._most)

    def line(self) -> str:
        """Return the measured caps in one line; "" if none was measured."""
        each = (f"{cap} at {width}x{height}" for (width, height), cap in self._measured.items())
        return f"largest batches, measured: {', '.join(each)}" if self._measured else ""

    def of(self, size: Size) -> int:
        """Return the cap of a size: that of the smallest measured size with as many pixels, 1 above all of them."""
        if not self._measured:
            return self._most
        pixels = size[0] * size[1]
        larger = [(width * height, cap) for (width, height), cap in self._measured.items() if width * height >= pixels]
        return min(larger)[1] if larger else 1


def split(items: Sequence[T], count: int) -> list[Sequence[T]]:
    """Return the items in groups of at most `count`."""
    return [items[start : start + count] for start in range(0, len(items), count)]
