"""The request of a generation: the only declaration of its parameters on the server.

It is decoded from what the caller sends, stored with the job, sent to the engine, and echoed in lists, whole each time.
A new parameter is a field here.
"""

import re
import secrets
from collections.abc import Hashable, Iterable
from typing import Annotated
from unicodedata import category, normalize

import msgspec
from msgspec import Meta

from umrgen.model import LIMITS

__all__ = ["GenerationRequest", "Lora", "batch_key", "has_visible_character", "searchable"]

_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Cn", "Co", "Zs", "Zl", "Zp", "Mn", "Mc", "Me"))
"""The Unicode categories of controls, formats, unassigned code points, spaces, and marks of other characters."""
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols without a shape: Hangul fillers, and the empty Braille pattern."""

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and code points that no database can store."""


def has_visible_character(text: str) -> bool:
    """Return whether `text` has a character that can be seen."""
    return any(char not in _BLANK and category(char) not in _INVISIBLE for char in text)


Side = Annotated[int, Meta(ge=LIMITS.side_min, le=LIMITS.side_max, description="pixels")]


class Lora(msgspec.Struct, frozen=True):
    """A LoRA and how strongly it is applied."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    strength: Annotated[float, Meta(ge=-10, le=10)] = 1.0


class GenerationRequest(msgspec.Struct, frozen=True):
    """The parameters of one generation."""

    prompt: Annotated[str, Meta(min_length=1, max_length=LIMITS.prompt_chars)]
    seed: Annotated[int, Meta(ge=-1, le=LIMITS.seed_max, description="-1 or absent: random")] = -1
    negative: Annotated[str, Meta(max_length=LIMITS.prompt_chars)] = ""
    width: Side = LIMITS.side_default
    height: Side = LIMITS.side_default
    steps: Annotated[int, Meta(ge=1, le=LIMITS.steps_max)] = LIMITS.steps_default
    cfg: Annotated[float, Meta(ge=0, le=30, description="guidance scale; absent: the model's own")] | None = None
    model: Annotated[str, Meta(min_length=1, max_length=200, description="absent: the engine's default")] | None = None
    loras: Annotated[tuple[Lora, ...], Meta(max_length=8)] = ()
    reference_images: Annotated[tuple[str, ...], Meta(max_length=LIMITS.references)] = ()
    priority: Annotated[
        int, Meta(ge=-LIMITS.priority, le=LIMITS.priority, description="among this key's own jobs; higher is sooner")
    ] = 0
    webhook_url: Annotated[str, Meta(max_length=2000)] | None = None

    def with_seed(self) -> "GenerationRequest":
        """Choose the seed if it is random, so that every attempt draws the same image."""
        return self if self.seed != -1 else msgspec.structs.replace(self, seed=secrets.randbits(32))

    def with_references(self, names: Iterable[str]) -> "GenerationRequest":
        return msgspec.structs.replace(self, reference_images=tuple(names))

    def several(self, count: int) -> "list[GenerationRequest]":
        """Return requests for `count` images: with a given seed, each has the next one, so that they differ."""
        return [self._numbered(number) for number in range(count)]

    def _numbered(self, number: int) -> "GenerationRequest":
        if self.seed == -1:
            return self
        return msgspec.structs.replace(self, seed=(self.seed + number) % (LIMITS.seed_max + 1))


def searchable(text: str) -> str:
    """Return a text for comparison with others: without upper case, in one Unicode form, with spaces for controls.

    The same function prepares prompts and what is searched in them, so every database finds the same.
    """
    return _CONTROLS.sub(" ", normalize("NFKC", normalize("NFKC", text).casefold()))


def batch_key(request: GenerationRequest) -> Hashable:
    """Return what requests must have in common to be drawn together: all but the prompts and the seed."""
    sizes = (request.width, request.height, request.steps)
    return (*sizes, request.cfg, request.model, request.loras, request.reference_images, bool(request.negative))
