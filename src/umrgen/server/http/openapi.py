"""`GET /openapi.json`: the API in OpenAPI 3.1, from the types that its handlers decode and encode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from umrgen import __version__
from umrgen.model import JOB_ID, State
from umrgen.server.domain.job_answer import JobAnswer
from umrgen.server.http import Services
from umrgen.server.http.api import responses, schemas
from umrgen.server.http.api.examples import EXAMPLES, IMAGE, SESSION
from umrgen.server.http.api.jobs import MAX_PAGE
from umrgen.server.http.auth import open_for_operator
from umrgen.server.http.problems import PROBLEMS
from umrgen.server.services.job_search import MAX_QUERY
from umrgen.server.services.templates import MAX_NAME

__all__ = ["document", "routes"]

Schema = Mapping[str, Any]
_ALWAYS = ("invalid_request", "key_in_url", "unauthorized", "forbidden_host", "rate_limited", "internal")
_WRITING = ("forbidden_origin", "request_timeout", "too_large", "ledger_unavailable")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API."""

    method: str
    path: str
    name: str
    summary: str
    status: int
    answer: Any
    """The type of the response's JSON body, or its media type."""
    problems: Sequence[str] = ()
    """Error codes of this operation, in addition to those of every operation."""
    takes: Any = None
    parameters: Sequence[Schema] = ()
    headers: Sequence[str] = ()
    more: Mapping[int, str] = field(default_factory=dict)
    """Descriptions of further responses, by status."""
    keyed: bool = True
    """Whether it needs an API key."""


def _parameter(name: str, place: str, schema: Schema, description: str, example: Any = None) -> Schema:
    shown = {"name": name, "in": place, "required": place == "path", "schema": schema, "description": description}
    return shown if example is None else shown | {"example": example}


_STRING = {"type": "string"}
_TIME = {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}
_JOB_ID = _parameter(
    "job_id", "path", _STRING | {"pattern": f"^{JOB_ID.pattern}$"}, "from the submit's response", "ext_3b5d5c3712955042"
)
_PREFER = _parameter(
    "Prefer",
    "header",
    _STRING,
    "wait=N: a long poll, answered when the job is over, or after N s",
    "wait=25",
)
_IF_NONE_MATCH = _parameter("If-None-Match", "header", _STRING, "the ETag of a response that the client has")
_SESSION = _parameter("session_id", "path", _STRING, "the session that the image belongs to", SESSION)
_FILE = _parameter("filename", "path", _STRING, "the image's name", IMAGE)
_TEMPLATE = _parameter(
    "name",
    "path",
    _STRING | {"minLength": 1, "maxLength": MAX_NAME, "pattern": "^[^/]*$"},
    "the name of the template",
    "film noir",
)
_UPLOAD = {
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary", "description": "PNG, JPEG or WebP, at most 10 MiB"}},
    "required": ["file"],
}

OPERATIONS = (
    Operation(
        "post",
        "/api/v1/generate",
        "generate",
        "Submit a job",
        202,
        responses.Receipt,
        (
            *("content_policy", "idempotency_conflict", "concurrent_limit", "queue_full", "draining"),
            *("engine_unavailable", "storage_full", *_WRITING),
        ),
        schemas.GenerationRequest,
        (_parameter("Idempotency-Key", "header", _STRING, "the same key and body give the same job for 24 hours"),),
        ("Location", "Retry-After", "RateLimit", "RateLimit-Policy"),
    ),
    Operation(
        "get",
        "/api/v1/status/{job_id}",
        "status",
        "The state of a job; with Prefer: wait=N, as soon as it is over",
        200,
        JobAnswer,
        ("job_not_found", "ledger_unavailable"),
        None,
        (_JOB_ID, _PREFER, _IF_NONE_MATCH, _parameter("wait", "query", _STRING, "as Prefer: wait", "25")),
        ("ETag", "Retry-After", "Preference-Applied"),
        {304: "the job has not changed"},
    ),
    Operation(
        "post",
        "/api/v1/status",
        "statuses",
        "The jobs that changed, of up to 1,000",
        200,
        responses.Changes,
        _WRITING,
        schemas.StatusRequest,
        (_PREFER,),
        ("Retry-After", "Preference-Applied"),
    ),
    Operation(
        "get",
        "/api/v1/events/{job_id}",
        "events",
        "A job as Server-Sent Events: status, progress, preview; ends when it is over",
        200,
        "text/event-stream",
        ("job_not_found", "ledger_unavailable"),
        None,
        (
            _JOB_ID,
            _parameter("Last-Event-ID", "header", _STRING, "the id of the last event that the client received"),
            _parameter("preview", "query", {"enum": ["0", "1"]}, "1: also small JPEGs of the unfinished image"),
        ),
        (),
        {204: "the client has the final event"},
    ),
    Operation(
        "post",
        "/api/v1/cancel/{job_id}",
        "cancel",
        "Cancel a job",
        200,
        JobAnswer,
        ("job_not_found", *_WRITING),
        None,
        (_JOB_ID,),
    ),
    Operation(
        "get",
        "/api/v1/jobs",
        "jobs",
        "This key's jobs, the newest first",
        200,
        responses.JobsPage,
        ("ledger_unavailable",),
        None,
        (
            _parameter("state", "query", {"enum": [*State]}, "only jobs in this state"),
            _parameter(
                "q",
                "query",
                _STRING | {"maxLength": MAX_QUERY},
                "only jobs whose prompt has all of these words, or parts of words, in any order and case",
                "lighthouse dusk",
            ),
            _parameter("favorite", "query", {"enum": ["true"]}, "only favorites"),
            _parameter("engine", "query", _STRING | {"pattern": "^[A-Za-z0-9_.-]{1,64}$"}, "only jobs of this engine"),
            _parameter("before", "query", _TIME, "only jobs made before this time, in milliseconds since the epoch"),
            _parameter("after", "query", _TIME, "only jobs made after this time, in milliseconds since the epoch"),
            _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}, "jobs of a page", 50),
            _parameter("cursor", "query", _STRING | {"pattern": "^[0-9]{1,18}$"}, "next_cursor of the previous page"),
        ),
    ),
    Operation(
        "patch",
        "/api/v1/jobs/{job_id}",
        "setFavorite",
        "Make a job a favorite, which retention keeps, or not",
        200,
        JobAnswer,
        ("job_not_found", *_WRITING),
        schemas.FavoriteRequest,
        (_JOB_ID,),
    ),
    Operation(
        "delete",
        "/api/v1/jobs/{job_id}",
        "deleteJob",
        "Delete a job: its images, its prompt, and its place in lists; one that is not over is cancelled",
        200,
        responses.DeletedJob,
        ("job_not_found", *_WRITING),
        None,
        (_JOB_ID,),
    ),
    Operation(
        "post",
        "/api/v1/jobs/delete",
        "deleteJobs",
        "Delete up to 1,000 jobs",
        200,
        responses.DeletedJobsAnswer,
        _WRITING,
        schemas.DeleteRequest,
    ),
    Operation(
        "post",
        "/api/v1/upload-reference",
        "uploadReference",
        "Upload a reference image",
        200,
        responses.Reference,
        ("unsupported_media_type", "too_many_references", "draining", "storage_full", *_WRITING),
        _UPLOAD,
    ),
    Operation(
        "get",
        "/api/v1/upload-reference",
        "references",
        "This key's reference images",
        200,
        responses.References,
        ("ledger_unavailable",),
    ),
    Operation(
        "delete",
        "/api/v1/upload-reference/{filename}",
        "deleteReference",
        "Delete a reference image",
        200,
        responses.Deleted,
        ("reference_not_found", *_WRITING),
        None,
        (_FILE,),
    ),
    Operation(
        "get",
        "/api/v1/templates",
        "templates",
        "The requests that this key keeps under names, by name",
        200,
        responses.TemplatesAnswer,
        ("ledger_unavailable",),
    ),
    Operation(
        "get",
        "/api/v1/templates/{name}",
        "template",
        "One of these requests",
        200,
        responses.TemplateAnswer,
        ("template_not_found", "ledger_unavailable"),
        None,
        (_TEMPLATE,),
    ),
    Operation(
        "put",
        "/api/v1/templates/{name}",
        "putTemplate",
        "Store a request under a name, in place of an earlier one",
        200,
        responses.TemplateAnswer,
        ("too_many_templates", *_WRITING),
        schemas.TemplateRequest,
        (_TEMPLATE,),
    ),
    Operation(
        "delete",
        "/api/v1/templates/{name}",
        "deleteTemplate",
        "Delete one of these requests",
        200,
        responses.DeletedTemplate,
        _WRITING,
        None,
        (_TEMPLATE,),
    ),
    Operation(
        "post",
        "/api/v1/verify",
        "verify",
        "Whether an image was made here; without a key only if the server allows it",
        200,
        responses.VerificationAnswer,
        ("unsupported_media_type", *_WRITING),
        _UPLOAD,
    ),
    Operation("get", "/api/v1/capabilities", "capabilities", "Features and limits", 200, responses.CapabilitiesAnswer),
    Operation(
        "get",
        "/outputs/{session_id}/{filename}",
        "output",
        "An image; the URL of the job's status gives access, without a key",
        200,
        "image/png",
        (
            *("forbidden_output", "output_not_found", "output_expired", "range_not_satisfiable"),
            *("storage_failed", "ledger_unavailable"),
        ),
        None,
        (
            *(_SESSION, _FILE, _IF_NONE_MATCH),
            _parameter("session_id", "query", _STRING, "the session of the path again", SESSION),
            _parameter("expires", "query", _STRING, "of a signed URL: its expiry, in seconds since the epoch"),
            _parameter("signature", "query", _STRING, "of a signed URL: the server's signature"),
            _parameter("Range", "header", _STRING, "a byte range", "bytes=0-1023"),
            _parameter("If-Range", "header", _STRING, "an ETag: the range of this version, else the whole image"),
        ),
        ("ETag", "Repr-Digest", "Content-Digest", "Accept-Ranges", "Cache-Control"),
        {206: "the requested range", 304: "the image has not changed", 307: "the image is at a presigned URL of S3"},
        keyed=False,
    ),
    Operation("get", "/healthz", "healthz", "Liveness probe", 200, responses.Liveness, keyed=False),
    Operation(
        "get",
        "/readyz",
        "readyz",
        "Readiness probe: the server accepts jobs and can run them",
        200,
        responses.Health,
        more={503: "not ready"},
        keyed=False,
    ),
    Operation("get", "/metrics", "metrics", "Metrics for Prometheus", 200, "text/plain"),
    Operation("get", "/openapi.json", "openapi", "This document", 200, "application/json"),
)


def routes(services: Services) -> list[Route]:
    async def endpoint(request: Request) -> Response:
        """Return the description of the API to callers with a key."""
        await open_for_operator(services, request.scope, dict(request.headers.raw))
        return responses.json_response(document(services.settings.prefix))

    return [Route("/openapi.json", endpoint)]


@cache
def document(prefix: str = "") -> dict[str, Any]:
    """Return the OpenAPI document of a server whose paths begin with `prefix`."""
    types = {
        kind for operation in OPERATIONS for kind in (operation.answer, operation.takes) if isinstance(kind, type)
    } | {responses.ProblemAnswer}
    _, components = msgspec.json.schema_components(sorted(types, key=str), ref_template="#/components/schemas/{name}")
    for name, example in EXAMPLES.items():
        components[name]["examples"] = [example]
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "UMRGEN",
            "version": __version__,
            "summary": "A prompt becomes a verified image file, through a job that nothing can lose.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": prefix or "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "an API key"}},
        },
    }


def _ref(kind: type) -> Schema:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _described(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": list(operation.parameters),
        "responses": _responses(operation),
    }
    if operation.takes is _UPLOAD:
        described["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": _UPLOAD}}}
    elif operation.takes is not None:
        content = {"application/json": {"schema": _ref(operation.takes)}}
        described["requestBody"] = {"required": True, "content": content}
    if not operation.keyed:
        described["security"] = []
    return described


def _responses(operation: Operation) -> dict[str, Any]:
    media = {"application/json": {"schema": _ref(operation.answer)}} if isinstance(operation.answer, type) else {}
    if isinstance(operation.answer, str):
        media = {operation.answer: {}}
    answer: dict[str, Any] = {"description": "success", "content": media}
    if operation.headers:
        answer["headers"] = {name: {"schema": _STRING} for name in operation.headers}
    by_status: dict[str, Any] = {str(operation.status): answer}
    for status, meaning in operation.more.items():
        by_status[str(status)] = {"description": meaning} | ({"content": media} if status in (206, 503) else {})
    always = _ALWAYS if operation.keyed else tuple(code for code in _ALWAYS if code not in ("unauthorized",))
    for code in (*always, *operation.problems):
        status, title, _ = PROBLEMS[code]
        if str(status) not in by_status:
            schema = _ref(responses.ProblemAnswer)
            by_status[str(status)] = {
                "description": f"{code}: {title}",
                "content": {"application/problem+json": {"schema": schema}},
            }
        elif code not in by_status[str(status)]["description"]:
            by_status[str(status)]["description"] += f"; {code}: {title}"
    return dict(sorted(by_status.items()))
