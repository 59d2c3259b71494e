"""What requests must look like: msgspec types, and a reading that names every offending field."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from umrgen.server.domain.request import GenerationRequest
from umrgen.server.http.problems import Problem
from umrgen.server.services.refusal import FieldError, invalid

__all__ = ["GenerationRequest", "StatusRequest", "decode_object", "read_generate"]


class StatusRequest(msgspec.Struct, frozen=True):
    """The body of `POST /api/v1/status`."""

    job_ids: Annotated[list[str], Meta(min_length=1, max_length=1000)]
    since: Annotated[str, Meta(description="the cursor of an earlier answer")] | None = None


_FIELDS = {field.name: field for field in msgspec.structs.fields(GenerationRequest)}


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises Problem."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem("invalid_request", "the body is not valid JSON") from None
    if not isinstance(data, dict):
        raise Problem("invalid_request", "the body must be a JSON object")
    return data


def read_generate(data: dict[str, Any]) -> tuple[GenerationRequest, list[str]]:
    """The request in `data`, and a warning for each field that is ignored. Raises Refusal."""
    try:
        wanted = msgspec.convert(data, GenerationRequest)
    except msgspec.ValidationError:
        raise invalid(_all_wrong(data)) from None
    if not wanted.prompt.strip():
        raise invalid(_all_wrong(data))
    warnings = [f"the field {_short(name)} is unknown and was ignored" for name in data if name not in _FIELDS]
    return wanted, warnings[:20]


def _all_wrong(data: dict[str, Any]) -> list[FieldError]:
    """What is wrong with a request, field by field; msgspec itself stops at the first."""
    values, wrong = {}, []
    for name, field in _FIELDS.items():
        if name not in data:
            if field.required:
                wrong.append(FieldError(name, "is required"))
            continue
        try:
            values[name] = msgspec.convert(data[name], field.type)
        except msgspec.ValidationError as error:
            wrong.append(FieldError(name, _plain(str(error))))
    prompt = values.get("prompt")
    if isinstance(prompt, str) and not prompt.strip():
        wrong.append(FieldError("prompt", "must say something"))
    return wrong


def _plain(error: str) -> str:
    """msgspec's words, from a capital and back-quotes to the middle of a sentence."""
    error = error.replace("`", "")
    return error[:1].lower() + error[1:]


def _short(name: str) -> str:
    """A caller's word, for an answer: quoted, and not too long."""
    return repr(name if len(name) <= 60 else name[:60] + "…")
