"""Responses in JSON, and their types; `http.openapi` describes the API by the same types."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from umrgen.server.domain.job_answer import JobAnswer
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.services.refusal import FieldError
from umrgen.server.services.server_state import EngineState

__all__ = [
    "CapabilitiesAnswer",
    "Changes",
    "Deleted",
    "DeletedJob",
    "DeletedJobsAnswer",
    "EngineAnswer",
    "Health",
    "JobsPage",
    "KeyLimits",
    "ListedJobAnswer",
    "ManifestAnswer",
    "ProblemAnswer",
    "RawResponse",
    "Receipt",
    "Reference",
    "References",
    "Sizes",
    "Steps",
    "VerificationAnswer",
    "WebhookAnswer",
    "json_response",
]

RawResponse = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers and body."""

Milliseconds = Annotated[int, Meta(description="milliseconds since the epoch")]


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response that is not cached, because it describes the present state."""
    return Response(
        msgspec.json.encode(body),
        status,
        {"Cache-Control": "no-store"} | dict(headers or {}),
        media_type="application/json",
    )


class Receipt(Struct, frozen=True, kw_only=True):
    """The job was accepted; it is durable."""

    success: bool = True
    job_id: str
    state: str = "queued"
    message: str = "Job accepted."
    status_url: Annotated[str, Meta(description="append it to the base URL")]
    retry_after_ms: int = 3000
    next: Annotated[str, Meta(description="the next step, as a sentence")]
    warnings: list[str] = []


class WebhookAnswer(Struct, frozen=True):
    """The delivery of a job's webhook."""

    state: Literal["pending", "delivered", "failed"]
    attempts: int
    last_error: str | None
    next_at: Milliseconds | None


class ListedJobAnswer(JobAnswer):
    """A job in a list."""

    prompt: str
    request: GenerationRequest
    webhook: WebhookAnswer | None


class Changes(Struct, frozen=True, kw_only=True):
    """The jobs whose state has changed since the cursor."""

    success: bool = True
    jobs: list[JobAnswer]
    unknown: Annotated[list[str], Meta(description="ids that are not jobs of this key")]
    cursor: Annotated[str, Meta(description="`since` of the next request")]


class JobsPage(Struct, frozen=True, kw_only=True):
    """A page of jobs, newest first."""

    success: bool = True
    jobs: list[ListedJobAnswer]
    next_cursor: Annotated[str, Meta(description="`cursor` of the next page's request")] | None


class DeletedJob(Struct, frozen=True, kw_only=True):
    """The job was deleted, now or before."""

    success: bool = True
    job_id: str
    deleted: bool = True


class DeletedJobsAnswer(Struct, frozen=True, kw_only=True):
    """The result of a deletion of many jobs."""

    success: bool = True
    deleted: Annotated[list[str], Meta(description="ids of jobs that are deleted, now or before")]
    unknown: Annotated[list[str], Meta(description="ids that are not jobs of this key")]


class Reference(Struct, frozen=True, kw_only=True):
    """A reference image."""

    success: bool = True
    filename: Annotated[str, Meta(description="an element of reference_images")]
    url: str
    bytes: int
    width: int
    height: int
    created_at: Milliseconds
    expires_at: Milliseconds


class References(Struct, frozen=True, kw_only=True):
    """The session's reference images, oldest first."""

    success: bool = True
    references: list[Reference]


class Deleted(Struct, frozen=True, kw_only=True):
    """The reference image was deleted."""

    success: bool = True
    filename: str


class TemplateAnswer(Struct, frozen=True, kw_only=True):
    """A request that the session keeps under a name."""

    success: bool = True
    name: str
    request: Annotated[dict[str, Any], Meta(description="fields of the body of /api/v1/generate")]
    updated_at: Milliseconds
    warnings: Annotated[list[str], Meta(description="what was ignored")]


class TemplatesAnswer(Struct, frozen=True, kw_only=True):
    """The session's templates, by name."""

    success: bool = True
    templates: list[TemplateAnswer]


class DeletedTemplate(Struct, frozen=True, kw_only=True):
    """The session has no template of this name."""

    success: bool = True
    name: str
    deleted: bool = True


class ManifestAnswer(Struct, frozen=True, kw_only=True):
    """The C2PA manifest of an image."""

    present: bool
    valid: Annotated[bool, Meta(description="signature, hashes and certificate are right; null: not checked")] | None
    signer: Annotated[str, Meta(description="the names in the certificate")] | None
    trusted: Annotated[bool, Meta(description="the certificate leads to a root that the operator trusts")]


class VerificationAnswer(Struct, frozen=True, kw_only=True):
    """Was an image made by this server, and is its manifest valid. `no` proves nothing about how it was made."""

    success: bool = True
    made_here: Annotated[
        Literal["exact", "similar", "no"], Meta(description="the same file; one with similar pixels; neither")
    ]
    distance: Annotated[int, Meta(description="bits of 256 in which the perceptual hashes differ, 0 to 31")] | None
    created_at: Milliseconds | None
    engine: str | None
    job_id: Annotated[str, Meta(description="the job, if it is one of this key and its record exists")] | None
    watermark: Annotated[str, Meta(description="the payload of the operator's watermark, 64 bits in hex")] | None
    manifest: ManifestAnswer


class EngineAnswer(Struct, frozen=True, kw_only=True):
    """The engine. `kind` is `procedural` or `model`; null until the engine is loaded."""

    name: str
    state: EngineState
    kind: str | None
    version: str | None
    features: list[str]
    models: list[str]
    loras: list[str]
    default_cfg: Annotated[float, Meta(description="the guidance scale of a request that gives none")] | None


class Sizes(Struct, frozen=True, kw_only=True):
    """Width and height in pixels."""

    min: int
    max: int
    default: int
    multiple_of: int


class Steps(Struct, frozen=True, kw_only=True):
    min: int
    max: int
    default: int
    of_models: dict[str, int]
    """The defaults of the models that have their own."""


class KeyLimits(Struct, frozen=True, kw_only=True):
    """The limits of this key; null: no limit."""

    requests_per_minute: int | None
    concurrent: Annotated[int, Meta(description="jobs that are queued or running")] | None
    daily: Annotated[int, Meta(description="jobs per day (UTC)")] | None
    queued: int | None
    running: int | None


class CapabilitiesAnswer(Struct, frozen=True, kw_only=True):
    """The server's features and limits, for this key."""

    success: bool = True
    version: str
    engine: EngineAnswer
    sizes: Sizes
    steps: Steps
    prompt_chars: int
    calls: list[str]
    max_wait: Annotated[int, Meta(description="the longest long poll, in seconds")]
    batch_max: int
    limits: KeyLimits
    used_today: Annotated[int, Meta(description="jobs submitted by this key's session today (UTC)")]
    queued: Annotated[int, Meta(description="queued jobs of all keys")]
    accepts_jobs: bool
    refusal: Annotated[str, Meta(description="the error code of a submit while jobs are not accepted")] | None


class Health(Struct, frozen=True):
    status: str


class Liveness(Struct, frozen=True):
    status: str
    server: str = "umrgen"
    """Clients know by it that a submit can be repeated under its Idempotency-Key."""


class ProblemAnswer(Struct, frozen=True, kw_only=True):
    """An error: RFC 9457 problem details, with the fields of the guide's error responses."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    success: bool = False
    error: Annotated[str, Meta(description="the error, as a sentence")]
    code: Annotated[str, Meta(description="the error code, for programs")]
    retryable: bool
    next: Annotated[str, Meta(description="the next step, as a sentence")]
    state: Annotated[Literal["failed", "unknown"], Meta(description="of the status call only")] | UnsetType = UNSET
    job_id: str | UnsetType = UNSET
    field: str | UnsetType = UNSET
    errors: list[FieldError] | UnsetType = UNSET
