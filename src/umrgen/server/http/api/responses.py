"""Answers in JSON, and the types they are made of; `http.openapi` describes the API by the same types."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from umrgen.server.domain.job_answer import JobAnswer
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.services.refusal import FieldError

__all__ = [
    "Answer",
    "Capabilities",
    "Changes",
    "Deleted",
    "EngineAnswer",
    "Health",
    "JobsPage",
    "KeyLimits",
    "ListedJob",
    "ProblemAnswer",
    "Receipt",
    "Reference",
    "References",
    "Sizes",
    "Steps",
    "WebhookAnswer",
    "json_response",
]

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers and body."""

Milliseconds = Annotated[int, Meta(description="milliseconds since the epoch")]


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that is true now and need not be later: never cached."""
    return Response(
        msgspec.json.encode(body),
        status,
        {"Cache-Control": "no-store"} | dict(headers or {}),
        media_type="application/json",
    )


class Receipt(Struct, frozen=True, kw_only=True):
    """A job was accepted; it is on disk."""

    success: bool = True
    job_id: str
    state: str = "queued"
    message: str = "Job accepted."
    status_url: Annotated[str, Meta(description="append it to the base URL")]
    retry_after_ms: int = 3000
    next: Annotated[str, Meta(description="what to do now, in words")]
    warnings: list[str] = []


class WebhookAnswer(Struct, frozen=True):
    """How the message of a job's end stands."""

    state: Literal["pending", "delivered", "failed"]
    attempts: int
    last_error: str | None
    next_at: Milliseconds | None


class ListedJob(JobAnswer):
    """A job in a list."""

    prompt: str
    request: GenerationRequest
    webhook: WebhookAnswer | None


class Changes(Struct, frozen=True, kw_only=True):
    """The jobs whose state has changed since the cursor."""

    success: bool = True
    jobs: list[JobAnswer]
    unknown: Annotated[list[str], Meta(description="ids that are no jobs of this key")]
    cursor: Annotated[str, Meta(description="give it as `since` next time")]


class JobsPage(Struct, frozen=True, kw_only=True):
    """Jobs, the newest first."""

    success: bool = True
    jobs: list[ListedJob]
    next_cursor: Annotated[str, Meta(description="give it as `cursor` for the next page")] | None


class Reference(Struct, frozen=True, kw_only=True):
    """A reference image."""

    success: bool = True
    filename: Annotated[str, Meta(description="name it in reference_images")]
    url: str
    bytes: int
    width: int
    height: int
    created_at: Milliseconds
    expires_at: Milliseconds


class References(Struct, frozen=True, kw_only=True):
    """The session's reference images, the oldest first."""

    success: bool = True
    references: list[Reference]


class Deleted(Struct, frozen=True, kw_only=True):
    """It is gone."""

    success: bool = True
    filename: str


class EngineAnswer(Struct, frozen=True, kw_only=True):
    """What draws. `kind` is procedural or model; null until the engine is up."""

    name: str
    kind: str | None
    version: str | None
    features: list[str]
    models: list[str]
    loras: list[str]


class Sizes(Struct, frozen=True, kw_only=True):
    """Width and height in pixels."""

    min: int
    max: int
    default: int
    multiple_of: int


class Steps(Struct, frozen=True, kw_only=True):
    max: int
    default: int


class KeyLimits(Struct, frozen=True, kw_only=True):
    """What this key may; null: no limit."""

    requests_per_minute: int | None
    concurrent: Annotated[int, Meta(description="jobs queued or running at once")] | None
    daily: Annotated[int, Meta(description="jobs a day, UTC")] | None
    queued: int | None
    running: int | None


class Capabilities(Struct, frozen=True, kw_only=True):
    """What this server can do, for this key."""

    success: bool = True
    version: str
    engine: EngineAnswer
    sizes: Sizes
    steps: Steps
    prompt_chars: int
    calls: list[str]
    max_wait: Annotated[int, Meta(description="seconds a call is held at most")]
    batch_max: int
    limits: KeyLimits


class Health(Struct, frozen=True):
    status: str


class ProblemAnswer(Struct, frozen=True, kw_only=True):
    """An error: RFC 9457 problem details, with what the guide's readers look for."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    success: bool = False
    error: Annotated[str, Meta(description="what went wrong, in words")]
    code: Annotated[str, Meta(description="what went wrong, for programs")]
    retryable: bool
    next: Annotated[str, Meta(description="what to do now, in words")]
    job_id: str | UnsetType = UNSET
    field: str | UnsetType = UNSET
    errors: list[FieldError] | UnsetType = UNSET
