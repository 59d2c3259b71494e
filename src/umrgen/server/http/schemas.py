"""What requests must look like: msgspec types, and a reading that names every offending field."""

import secrets
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from umrgen.jobs import LIMITS, JobSpec, Lora
from umrgen.server.http.answers import FieldError
from umrgen.server.http.problems import Problem

__all__ = ["GenerateRequest", "StatusRequest", "decode_object", "invalid_fields", "read_generate", "short"]

Side = Annotated[int, Meta(ge=LIMITS.side_min, le=LIMITS.side_max, description="pixels")]


class LoraRequest(msgspec.Struct, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    strength: Annotated[float, Meta(ge=-10, le=10)] = 1.0


class GenerateRequest(msgspec.Struct, frozen=True):
    """The body of `POST /api/v1/generate`."""

    prompt: Annotated[str, Meta(min_length=1, max_length=LIMITS.prompt_chars)]
    negative: Annotated[str, Meta(max_length=LIMITS.prompt_chars)] = ""
    width: Side = LIMITS.side_default
    height: Side = LIMITS.side_default
    steps: Annotated[int, Meta(ge=1, le=LIMITS.steps_max)] = LIMITS.steps_default
    seed: Annotated[int, Meta(ge=-1, le=LIMITS.seed_max, description="-1 or absent: random")] = -1
    loras: Annotated[tuple[LoraRequest, ...], Meta(max_length=8)] = ()
    reference_images: Annotated[tuple[str, ...], Meta(max_length=LIMITS.references)] = ()
    priority: Annotated[
        int, Meta(ge=-LIMITS.priority, le=LIMITS.priority, description="among this key's own jobs; higher is sooner")
    ] = 0
    webhook_url: Annotated[str, Meta(max_length=2000)] | None = None

    def spec(self) -> JobSpec:
        """The job's spec, its random seed drawn now so that every attempt draws the same picture."""
        return JobSpec(
            prompt=self.prompt,
            negative=self.negative,
            width=self.width,
            height=self.height,
            steps=self.steps,
            seed=secrets.randbits(32) if self.seed == -1 else self.seed,
            loras=tuple(Lora(lora.name, lora.strength) for lora in self.loras),
            reference_images=self.reference_images,
            webhook_url=self.webhook_url,
        )


class StatusRequest(msgspec.Struct, frozen=True):
    """The body of `POST /api/v1/status`."""

    job_ids: Annotated[list[str], Meta(min_length=1, max_length=1000)]
    since: Annotated[str, Meta(description="the cursor of an earlier answer")] | None = None


_FIELDS = {field.name: field for field in msgspec.structs.fields(GenerateRequest)}


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises Problem."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem("invalid_request", "the body is not valid JSON") from None
    if not isinstance(data, dict):
        raise Problem("invalid_request", "the body must be a JSON object")
    return data


def read_generate(data: dict[str, Any]) -> tuple[GenerateRequest, list[str]]:
    """The request in `data`, and a warning for each field that is ignored. Raises Problem."""
    try:
        wanted = msgspec.convert(data, GenerateRequest)
    except msgspec.ValidationError:
        raise invalid_fields(_all_wrong(data)) from None
    if not wanted.prompt.strip():
        raise invalid_fields(_all_wrong(data))
    warnings = [f"the field {short(name)} is unknown and was ignored" for name in data if name not in _FIELDS]
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


def invalid_fields(wrong: list[FieldError]) -> Problem:
    """The refusal of a request with these errors in it."""
    words = "; ".join(f"{each.field}: {each.error}" for each in wrong)
    return Problem("invalid_request", words, field=wrong[0].field, errors=wrong)


def _plain(error: str) -> str:
    """msgspec's words, from a capital and back-quotes to the middle of a sentence."""
    error = error.replace("`", "")
    return error[:1].lower() + error[1:]


def short(name: str) -> str:
    """A caller's word, for an answer: quoted, and not too long."""
    return repr(name if len(name) <= 60 else name[:60] + "…")
