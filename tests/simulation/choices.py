"""The random numbers of a history: recorded, so that they can be changed and used again."""

import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["Choices", "shrink"]

BITS = 20
SCALE = 1 << BITS

T = TypeVar("T")


class Choices:
    """Random numbers from a seed, or from a list of earlier ones; after its end each is 0, the simplest choice."""

    __slots__ = ("_given", "_more", "taken")

    def __init__(self, seed: int | None = None, given: Sequence[int] = ()) -> None:
        self.taken: list[int] = []
        self._given = given
        self._more = None if seed is None else random.Random(seed).getrandbits

    def draw(self) -> int:
        if self._more is not None:
            value = self._more(BITS)
        else:
            at = len(self.taken)
            value = self._given[at] if at < len(self._given) else 0
        self.taken.append(value)
        return value

    def real(self) -> float:
        """Return a number in [0, 1)."""
        return self.draw() / SCALE

    def between(self, least: float, most: float) -> float:
        return least + (most - least) * self.draw() / SCALE

    def below(self, count: int) -> int:
        return self.draw() * count >> BITS

    def pick(self, options: Sequence[T]) -> T:
        """Return one of `options`; the first should be the simplest."""
        return options[self.draw() * len(options) >> BITS]

    def chance(self, share: float) -> bool:
        return self.draw() >= (1.0 - share) * SCALE


def shrink(taken: Sequence[int], fails: Callable[[list[int]], bool], *, seconds: float = 10.0) -> list[int]:
    """Return a shorter, simpler list of draws that still `fails`: remove parts, set them to 0, halve them."""
    best, ends = list(taken), time.monotonic() + seconds
    improved = True
    while improved:
        improved = False
        for change in (_without, _zeroed, _halved):
            size = max(1, len(best) // 2)
            while size:
                start = 0
                while start < len(best):
                    if time.monotonic() > ends:
                        return best
                    tried = change(best, start, size)
                    if tried != best and fails(tried):
                        best, improved = tried, True
                        if change is _without:
                            continue  # the draws after the removed part are at `start` now
                    start += size
                size //= 2
    while best and best[-1] == 0:
        best.pop()  # missing draws are 0
    return best


def _without(draws: list[int], start: int, size: int) -> list[int]:
    return draws[:start] + draws[start + size :]


def _zeroed(draws: list[int], start: int, size: int) -> list[int]:
    return [0 if start <= at < start + size else value for at, value in enumerate(draws)]


def _halved(draws: list[int], start: int, size: int) -> list[int]:
    return [value // 2 if start <= at < start + size else value for at, value in enumerate(draws)]
