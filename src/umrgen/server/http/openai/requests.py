"""Requests in OpenAI's form: decoded to what the services take."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from umrgen.model import LIMITS
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.http.api.schemas import DefaultSteps, decode_generate
from umrgen.server.services.call_references import HeldReferences
from umrgen.server.services.refusal import FieldError, invalid

__all__ = ["MEDIA_TYPES", "ImageCall", "decode_call"]

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_PASSED = ("prompt", "negative", "seed", "steps", "cfg", "width", "height")
"""Fields that have the name and the meaning of this server's own API."""


class _Fields(msgspec.Struct):
    """The fields that have an effect here; a client may send more (`model`, `quality`, `user`, ...)."""

    n: Annotated[int, Meta(ge=1, le=10)] = 1
    size: str = "auto"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: Annotated[int, Meta(ge=0, le=100)] = 100
    background: Literal["auto", "opaque"] = "auto"
    response_format: Literal["b64_json", "url"] = "b64_json"
    stream: bool = False
    partial_images: Annotated[int, Meta(ge=0, le=3)] = 0


@dataclass(frozen=True)
class ImageCall:
    """A decoded call: one request for each image, and the form of the response."""

    requests: Sequence[GenerationRequest]
    output_format: str
    compression: int
    as_url: bool
    partial_images: int | None
    """None: the response is not a stream."""
    references: HeldReferences | None = None
    """The images of an edit."""

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.output_format]

    @property
    def size(self) -> str:
        return f"{self.requests[0].width}x{self.requests[0].height}"

    def with_references(self, held: HeldReferences) -> "ImageCall":
        requests = [request.with_references(held.names) for request in self.requests]
        return replace(self, requests=requests, references=held)


def decode_call(data: Mapping[str, Any], default_steps: DefaultSteps, models: Collection[str] = ()) -> ImageCall:
    """Return the call in a body: JSON, or the text fields of a form. Raises Refusal `invalid_request`.

    A null means that the field was not given. Any `model` is accepted: one of `models` is chosen by its name, and for
    another one the engine's default draws.
    """
    given = {name: value for name, value in data.items() if value is not None}
    fields = _fields(given)
    request = {name: _number(given[name]) for name in _PASSED if name in given}
    request |= {"negative": given["negative_prompt"]} if "negative_prompt" in given else {}
    request |= _sides(fields.size) | ({"model": given["model"]} if given.get("model") in models else {})
    generation, _ = decode_generate(request, default_steps)
    return ImageCall(
        generation.several(fields.n),
        fields.output_format,
        fields.output_compression,
        fields.response_format == "url",
        fields.partial_images if fields.stream else None,
    )


def _fields(given: Mapping[str, Any]) -> _Fields:
    errors = []
    for field in msgspec.structs.fields(_Fields):
        try:
            if field.name in given:
                msgspec.convert(given[field.name], field.type, strict=False)
        except msgspec.ValidationError as error:
            text = str(error)
            errors.append(FieldError(field.name, text[:1].lower() + text[1:].replace("`", "")))
    if errors:
        raise invalid(errors)
    return msgspec.convert(given, _Fields, strict=False)


def _sides(size: str) -> dict[str, int]:
    """Return width and height of a `size`; nothing for `auto` and an empty text."""
    if size in ("auto", ""):
        return {}
    if not (match := _SIZE.fullmatch(size)):
        text = (
            f"must be auto or WIDTHxHEIGHT with {LIMITS.side_min} to {LIMITS.side_max} pixels each; got {size[:30]!r}"
        )
        raise invalid([FieldError("size", text)])
    return {"width": int(match[1]), "height": int(match[2])}


def _number(value: Any) -> Any:
    """Return the number in a form's text, which has no types."""
    if not isinstance(value, str) or not re.fullmatch(r"-?\d{1,18}(\.\d{1,9})?", value):
        return value
    return float(value) if "." in value else int(value)
