"""The provenance record: what is known about how an image was made."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from umrgen.text import printable

__all__ = ["MAX_RECORD", "SOURCE_TYPES", "Provenance"]

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
"""The vocabulary of IPTC that `source_type` is a term of."""
MAX_RECORD = 64 << 10
"""Bytes of a record as JSON: two prompts of 2,000 characters and some LoRAs are a fraction of it."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """How an image was made. Anyone can write such a record, so it proves nothing by itself."""

    source_type: str
    """IPTC's term: "trainedAlgorithmicMedia" (a model drew it) or "algorithmicMedia" (a program without one)."""
    version: str = ""
    """The version of UMRGEN that wrote the record."""
    engine: str = ""
    engine_version: str = ""
    model: str | None = None
    revision: str = ""
    """Of the model's files."""
    prompt: str | None = None
    """None: the operator keeps prompts out of the files."""
    negative: str | None = None
    seed: int | None = None
    steps: int | None = None
    cfg: float | None = None
    width: int | None = None
    """Pixels, as requested; the image may have another size."""
    height: int | None = None
    loras: tuple[tuple[str, float], ...] = ()
    """Names and strengths."""
    references: tuple[str, ...] = ()
    """The SHA-256 of each reference image, in hex."""
    batch: int = 1
    """The number of images that were drawn together: with bf16 weights, their pixels depend on it."""
    job_id: str = ""
    created_at: int | None = None
    """The time of the request, in milliseconds since the epoch."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that say something."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "", ())}

    def to_json(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps(self.as_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Provenance | None":
        """Return the record in `text`; None for anything else. Fields of a wrong type are left out."""
        try:
            data = json.loads(text) if len(text) <= MAX_RECORD else None
        except (ValueError, RecursionError):
            return None
        data = _of_earlier_version(data) if isinstance(data, dict) else {}
        if not isinstance(data.get("source_type"), str):
            return None
        return cls(**{field.name: _KINDS[field.name](data[field.name]) for field in _known(data)})


def _of_earlier_version(data: dict[str, Any]) -> dict[str, Any]:
    """Return a record whose engine is an object, as earlier versions wrote it, in today's form."""
    if not isinstance(engine := data.get("engine"), dict):
        return data
    kind = "trainedAlgorithmicMedia" if engine.get("kind") == "model" else "algorithmicMedia"
    return data | {"source_type": kind, "engine": engine.get("name"), "engine_version": engine.get("version")}


def _known(data: Mapping[str, Any]) -> list[Any]:
    """Return the record's fields that `data` has, with a value of the right type."""
    found = []
    for field in fields(Provenance):
        try:
            if _KINDS[field.name](data[field.name]) is not None:
                found.append(field)
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _name(value: Any) -> str:
    """Return a short text, which is shown on one line."""
    return printable(_text(value))


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise TypeError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _loras(value: Any) -> tuple[tuple[str, float], ...]:
    return tuple((_name(name), _number(strength)) for name, strength in value)


def _names(value: Any) -> tuple[str, ...]:
    return tuple(_name(item) for item in value) if isinstance(value, list) else ()


_KINDS: Mapping[str, Any] = {
    "source_type": _name,
    "version": _name,
    "engine": _name,
    "engine_version": _name,
    "model": _name,
    "revision": _name,
    "prompt": _text,
    "negative": _text,
    "seed": _integer,
    "steps": _integer,
    "cfg": _number,
    "width": _integer,
    "height": _integer,
    "loras": _loras,
    "references": _names,
    "batch": _integer,
    "job_id": _name,
    "created_at": _integer,
}
"""How each field is read from JSON."""
