"""The typed keyword arguments of the client's calls."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, BinaryIO, Literal, Protocol, TypedDict

from umrgen.errors import InvalidRequest
from umrgen.text import printable

__all__ = [
    "CallOptions",
    "LoraOption",
    "PilImage",
    "Reference",
    "RequestOptions",
    "check_idempotency_key",
    "check_names",
    "check_values",
]


class PilImage(Protocol):
    """An image of Pillow, or any object that saves itself in this way."""

    def save(self, fp: BinaryIO, format: str, /) -> None: ...


Reference = str | os.PathLike[str] | bytes | PilImage
"""A reference image: the path of a file, the bytes of one, or an image of Pillow."""


class LoraOption(TypedDict, total=False):
    """A LoRA by its name, and its strength (1.0)."""

    name: str
    strength: float


class RequestOptions(TypedDict, total=False):
    """The parameters of a generation except its prompt; the server's defaults apply to those that are absent or None.

    A test compares them with the server's `GenerationRequest`.
    """

    seed: int | None
    negative: str | None
    width: int | None
    """Pixels."""
    height: int | None
    """Pixels."""
    steps: int | None
    cfg: float | None
    """The guidance scale: how strictly the image follows the prompt."""
    model: str | None
    """Of those that `capabilities` lists; absent: the server's default."""
    loras: Sequence[LoraOption] | None
    reference_images: Sequence[str] | None
    """Names that `upload` returned."""
    priority: int | None
    """Among the jobs of this key; higher is sooner."""
    webhook_url: str | None


def check_names(function: str, names: Iterable[str]) -> None:
    """Raise TypeError, as Python does, for a name that is no parameter of a generation."""
    for name in names:
        if name not in RequestOptions.__annotations__:
            near = get_close_matches(name, [*RequestOptions.__annotations__, "references"], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def check_values(values: Mapping[str, Any]) -> None:
    """Raise InvalidRequest for a value that no request can have: a number that is not finite, a lone surrogate."""
    for name, value in values.items():
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"{name} is not valid Unicode; got {printable(str(value), 60)!r}") from None
        except ValueError:
            raise InvalidRequest(f"{name} must have finite numbers; got {value}") from None


def check_idempotency_key(key: str) -> None:
    """Raise InvalidRequest for a key that its header cannot have."""
    if not re.fullmatch(r"[\x21-\x7e]{1,255}", key):
        raise InvalidRequest(f"idempotency_key must have 1 to 255 visible ASCII characters; got {printable(key, 60)!r}")


class CallOptions(TypedDict, total=False):
    """Changes of the client's `Options` for one call; their meanings are in `umrgen.Options`. A test compares them."""

    timeout: float | None
    queue_timeout: float | None
    wait: int
    follow: bool
    queued_interval: float
    running_interval: float
    jitter: float
    eta_share: float
    eta_interval: float
    longest_delay: float
    requests_a_minute: int
    stall_after: float
    on_stall: Literal["report", "raise"]
    patience: float
    submit_patience: float
    first_backoff: float
    longest_backoff: float
    request_timeout: float
    connect_timeout: float
    garbage_tries: int
    drip_rate: float
    drip_window: float
    download_tries: int
    max_bytes: int
    follow_foreign: bool
