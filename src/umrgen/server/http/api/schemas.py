"""Decoding of requests: msgspec types, and errors that name every invalid field."""

import asyncio
import codecs
import re
from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.inspect import IntType, Metadata, StrType, type_info
from msgspec.structs import FieldInfo
from starlette.requests import Request

from umrgen.server.domain.request import GenerationRequest, has_visible_character
from umrgen.server.http.bodies import read_body
from umrgen.server.http.problems import Problem
from umrgen.server.services.refusal import FieldError, invalid

__all__ = [
    "DeleteRequest",
    "FavoriteRequest",
    "GenerationRequest",
    "StatusRequest",
    "TemplateRequest",
    "check_values",
    "decode_generate",
    "decode_object",
    "decode_template",
    "read_object",
    "short",
]


class StatusRequest(msgspec.Struct, frozen=True):
    """The body of `POST /api/v1/status`."""

    job_ids: Annotated[list[str], Meta(min_length=1, max_length=1000)]
    since: Annotated[str, Meta(description="the cursor of an earlier response")] | None = None


class FavoriteRequest(msgspec.Struct, frozen=True):
    """The body of `PATCH /api/v1/jobs/{job_id}`."""

    favorite: Annotated[bool, Meta(description="whether retention keeps the job and its images")]


class DeleteRequest(msgspec.Struct, frozen=True):
    """The body of `POST /api/v1/jobs/delete`."""

    job_ids: Annotated[list[str], Meta(min_length=1, max_length=1000)]


class TemplateRequest(msgspec.Struct, frozen=True):
    """The body of `PUT /api/v1/templates/{name}`."""

    request: Annotated[dict[str, Any], Meta(description="fields of the body of /api/v1/generate, all optional")]


_FIELDS = {field.name: field for field in msgspec.structs.fields(GenerationRequest)}


MAX_SEPARATORS = 8_000
"""Commas and opening brackets of a body, which bound the time to decode it: two prompts of commas alone have 4,000."""
DECODED_AT_ONCE = 16 << 10
"""Bytes of a body that is decoded on the event loop; a larger one is decoded in a thread."""


DefaultSteps = Callable[[str | None], int]
"""Returns the steps of a request that gives this model, and no steps."""


async def read_object(request: Request, limit: int) -> dict[str, Any]:
    """Return the JSON object in the body of a request, of at most `limit` bytes, as `decode_object`."""
    body = await read_body(request, limit)
    return decode_object(body) if len(body) <= DECODED_AT_ONCE else await asyncio.to_thread(decode_object, body)


def check_values(body: bytes) -> None:
    """Raise Problem `invalid_request` for a JSON body with more values than the loop can decode without blocking."""
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > MAX_SEPARATORS:
        raise Problem("invalid_request", f"the body must have {MAX_SEPARATORS:,} commas and opening brackets or fewer")


def decode_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`, without fields that are null. Raises Problem `invalid_request`."""
    check_values(body)
    try:
        data = msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem("invalid_request", "the body is not valid JSON") from None
    if not isinstance(data, dict):
        raise Problem("invalid_request", "the body must be a JSON object")
    return {name: _given(value) for name, value in data.items() if value is not None}


def _given(value: Any) -> Any:
    """Return a value as other languages mean it: 1024.0 is an integer, and a null in an object is not given."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_given(each) for each in value]
    if isinstance(value, dict):
        return {name: _given(each) for name, each in value.items() if each is not None}
    return value


def decode_generate(data: dict[str, Any], default_steps: DefaultSteps) -> tuple[GenerationRequest, list[str]]:
    """Return the request in `data`, and a warning for each unknown field. Raises Refusal `invalid_request`."""
    model = data.get("model")
    steps = default_steps(model if isinstance(model, str) else None)
    try:
        request = msgspec.convert({"steps": steps} | data, GenerationRequest)
    except msgspec.ValidationError:
        raise invalid(_field_errors(data)) from None
    if not has_visible_character(request.prompt):
        raise invalid(_field_errors(data))
    return request, _unknown(data)


def decode_template(data: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of the request in a template, and a warning for each unknown one. No field is required.

    Raises Refusal `invalid_request`.
    """
    given = data.get("request")
    if not isinstance(given, dict):
        raise invalid([FieldError("request", "must be an object with fields of a request")])
    if errors := _field_errors({"prompt": "any"} | given):
        raise invalid(errors)
    known = {name: msgspec.convert(given[name], field.type) for name, field in _FIELDS.items() if name in given}
    return msgspec.to_builtins(known), _unknown(given)


def _unknown(data: dict[str, Any]) -> list[str]:
    unknown = islice((name for name in data if name not in _FIELDS), 20)
    return [f"the field {short(name)} is unknown and was ignored" for name in unknown]


def _field_errors(data: dict[str, Any]) -> list[FieldError]:
    """Return the errors of all fields; msgspec itself reports only the first."""
    values, errors = {}, []
    for name, field in _FIELDS.items():
        if name not in data:
            if field.required:
                errors.append(FieldError(name, "is required"))
            continue
        try:
            values[name] = msgspec.convert(data[name], field.type)
        except msgspec.ValidationError as error:
            errors.append(FieldError(name, _error_text(field, data[name], str(error))))
    prompt = values.get("prompt")
    if isinstance(prompt, str) and not has_visible_character(prompt):
        errors.append(FieldError("prompt", "must have a visible character"))
    return errors


_TYPE_NAMES = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}


def _type_name(names: str) -> str:
    """Return msgspec's names of JSON types in words."""
    return " or ".join(_TYPE_NAMES.get(name, name) for name in names.split(" | "))


_PREDICATES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"Expected (.*), got (.*)", lambda found: f"must be {_type_name(found[1])}; got {_type_name(found[2])}"),
    (r"Expected \w+ of length >= (.*)", r"must have a length of \1 or more"),
    (r"Expected \w+ of length <= (.*)", r"must have a length of \1 or less"),
    (r"Expected \w+ >= (.*)", r"must be \1 or more"),
    (r"Expected \w+ <= (.*)", r"must be \1 or less"),
    (r"Object missing required field (.*)", r"must have a field \1"),
)
"""msgspec's messages, and the form in which they are sent."""


def _error_text(field: FieldInfo, value: Any, message: str) -> str:
    """Return the error of a field's value as a predicate, from its type and msgspec's message."""
    kind = type_info(field.type)
    if isinstance(kind, Metadata):
        kind = kind.type
    match kind, value:
        case IntType(), int():
            return f"must be {kind.ge} to {kind.le}; got {short(value)}"
        case StrType(), str():
            return f"must have {kind.min_length or 0} to {kind.max_length} characters; got {len(value)}"
    message, _, place = message.replace("`", "").partition(" - at $")
    for pattern, predicate in _PREDICATES:
        message = re.sub(pattern, predicate, message)
    return f"{place} {message}".strip()


def short(value: str | int) -> str:
    """Return a caller's value for an error text: a string in quotes, and at most 60 characters."""
    text = repr(value) if isinstance(value, str) or abs(value) < 10**20 else "a number of more than 20 digits"
    return text if len(text) <= 62 else f"{text[:60]}…"
