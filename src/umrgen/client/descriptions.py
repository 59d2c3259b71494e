"""What a server says of itself and of its jobs, typed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from umrgen.errors import Unsupported
from umrgen.model import Status
from umrgen.provenance.manifest import Manifest
from umrgen.text import JOB_ID, printable

__all__ = [
    "Capabilities",
    "ListedJob",
    "Page",
    "ReferenceImage",
    "RequestTemplate",
    "ServerVerification",
    "list_filters",
    "parse_capabilities",
    "parse_page",
    "parse_references",
    "parse_template",
    "parse_templates",
    "parse_unknown",
    "parse_verification",
    "require_filters",
]

_CURSOR = re.compile(r"[\x21-\x7e]{1,1000}")


@dataclass(frozen=True, slots=True)
class ListedJob:
    """One job of `Client.jobs`. Its texts are printable; `raw` is the whole entry, unchanged."""

    job_id: str
    state: str
    prompt: str | None
    created_at: datetime | None
    """In UTC."""
    status: Status
    favorite: bool = False
    """Whether the server's retention keeps it."""
    request: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The parameters of the job, `prompt` included, as the server accepted them."""
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the list of jobs, and the cursor of the next one."""

    jobs: tuple[ListedJob, ...]
    next_cursor: str | None


def parse_page(data: Mapping[str, Any]) -> Page | None:
    """Parse a page of the list of jobs; an entry without an id and a state is left out."""
    listed, cursor = data.get("jobs"), data.get("next_cursor")
    if not isinstance(listed, list):
        return None
    jobs = [_listed_job(entry) for entry in listed if isinstance(entry, dict)]
    usable = isinstance(cursor, str) and _CURSOR.fullmatch(cursor) is not None
    return Page(tuple(job for job in jobs if job is not None), cursor if usable else None)


def _listed_job(data: Mapping[str, Any]) -> ListedJob | None:
    job_id = data.get("job_id")
    if not isinstance(job_id, str) or not JOB_ID.fullmatch(job_id):
        return None
    status = Status.parse(data, job_id)
    if status is None:
        return None
    request = _mapping(data.get("request"))
    prompt = data.get("prompt", request.get("prompt"))
    return ListedJob(
        job_id,
        status.state,
        printable(prompt) if isinstance(prompt, str) else None,
        _time(data.get("created_at")),
        status,
        data.get("favorite") is True,
        request,
        data,
    )


def list_filters(
    search: str | None, favorite: bool, engine: str | None, before: datetime | None, after: datetime | None
) -> dict[str, str]:
    """Return the filters of a list as the server reads them, without those that are not given."""
    given = {"q": search, "favorite": "true" if favorite else None, "engine": engine}
    times = {"before": before, "after": after}
    given |= {name: str(round(time.timestamp() * 1000)) for name, time in times.items() if time is not None}
    return {name: value for name, value in given.items() if value}


def require_filters(page: Page, filters: Mapping[str, str]) -> None:
    """Raise Unsupported if the server ignored the filters: one that has them names favorites in every job."""
    if filters and any("favorite" not in job.raw for job in page.jobs):
        raise Unsupported(
            "this server cannot search its list of jobs",
            next="List all jobs with client.jobs() or `umrgen jobs`, and choose among them.",
        )


def parse_unknown(data: Mapping[str, Any]) -> list[str]:
    """Return the ids that a call about many jobs did not find."""
    unknown = data.get("unknown")
    return [each for each in unknown if isinstance(each, str)] if isinstance(unknown, list) else []


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    """A reference image on the server. Its texts are printable; `raw` is the whole entry, unchanged."""

    name: str
    """For `reference_images` of a request."""
    bytes: int | None
    width: int | None
    """Pixels."""
    height: int | None
    created_at: datetime | None
    """In UTC."""
    expires_at: datetime | None
    """When the server deletes it, in UTC."""
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """A request that the server keeps under a name. `raw` is the whole entry, unchanged."""

    name: str
    """Printable."""
    request: Mapping[str, Any]
    """Fields of a request, by their names in the API."""
    updated_at: datetime | None
    """In UTC."""
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


def parse_template(data: Any) -> RequestTemplate | None:
    """Parse a template; None without a name and a request."""
    entry = _mapping(data)
    name, request = _text(entry.get("name")), entry.get("request")
    if not name or not isinstance(request, dict):
        return None
    return RequestTemplate(name, request, _time(entry.get("updated_at")), entry)


def parse_templates(data: Mapping[str, Any]) -> list[RequestTemplate]:
    """Parse the list of templates; an entry that is none is left out."""
    listed = data.get("templates")
    found = map(parse_template, listed if isinstance(listed, list) else [])
    return [template for template in found if template is not None]


def parse_references(data: Mapping[str, Any]) -> list[ReferenceImage]:
    """Parse the list of reference images; an entry without a name is left out."""
    listed = data.get("references")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return [
        ReferenceImage(
            name=printable(entry["filename"]),
            bytes=_count(entry.get("bytes")),
            width=_count(entry.get("width")),
            height=_count(entry.get("height")),
            created_at=_time(entry.get("created_at")),
            expires_at=_time(entry.get("expires_at")),
            raw=entry,
        )
        for entry in entries
        if isinstance(entry.get("filename"), str)
    ]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server offers this key; None where it does not say. `raw` is the whole response, unchanged."""

    version: str | None
    engine: str | None
    """Its name."""
    engine_state: str | None
    """ "ready", "loading", "unloaded" (the next job loads it), "unavailable", or "elsewhere" (workers draw)."""
    features: tuple[str, ...]
    """What the engine does with a request beyond its prompt and size, as `references`."""
    models: tuple[str, ...]
    loras: tuple[str, ...]
    calls: tuple[str, ...]
    """The optional parts of the API."""
    min_size: int | None
    """Pixels of the shortest side."""
    max_size: int | None
    """Pixels of the longest side."""
    multiple_of: int | None
    """What each side is rounded to, in pixels."""
    max_steps: int | None
    default_steps: int | None
    model_steps: Mapping[str, int]
    """The defaults of the models that have one of their own."""
    min_steps: int | None
    default_cfg: float | None
    """The guidance scale of a request that gives none."""
    prompt_chars: int | None
    max_wait: int | None
    """Seconds of the longest long poll."""
    requests_per_minute: int | None
    concurrent: int | None
    """Jobs that this key may have at once."""
    daily: int | None
    """Jobs that this key may create in a day."""
    used_today: int | None
    queued: int | None
    """Jobs that wait on the server."""
    accepts_jobs: bool | None
    refusal: str | None
    """Why a job would be refused now."""
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


def parse_capabilities(data: Mapping[str, Any]) -> Capabilities:
    """Parse the response to the call for capabilities; values of a wrong type are None."""
    engine, sizes, steps, limits = (_mapping(data.get(name)) for name in ("engine", "sizes", "steps", "limits"))
    return Capabilities(
        version=_text(data.get("version")),
        engine=_text(engine.get("name")),
        engine_state=_text(engine.get("state")),
        features=_texts(engine.get("features")),
        models=_texts(engine.get("models")),
        loras=_texts(engine.get("loras")),
        calls=_texts(data.get("calls")),
        min_size=_count(sizes.get("min")),
        max_size=_count(sizes.get("max")),
        multiple_of=_count(sizes.get("multiple_of")),
        max_steps=_count(steps.get("max")),
        default_steps=_count(steps.get("default")),
        model_steps=_counts(steps.get("of_models")),
        min_steps=_count(steps.get("min")),
        default_cfg=_number(engine.get("default_cfg")),
        prompt_chars=_count(data.get("prompt_chars")),
        max_wait=_count(data.get("max_wait")),
        requests_per_minute=_count(limits.get("requests_per_minute")),
        concurrent=_count(limits.get("concurrent")),
        daily=_count(limits.get("daily")),
        used_today=_count(data.get("used_today")),
        queued=_count(data.get("queued")),
        accepts_jobs=accepts if isinstance(accepts := data.get("accepts_jobs"), bool) else None,
        refusal=_text(data.get("refusal")),
        raw=data,
    )


@dataclass(frozen=True, slots=True)
class ServerVerification:
    """The answer of a server about an image. `raw` is the whole response, unchanged."""

    made_here: str
    """ "exact" (the server made this file), "similar" (one whose pixels are nearly the same) or "no"."""
    distance: int | None
    """Bits of 256 in which the perceptual hashes differ; 0 to 31 for a similar image."""
    created_at: datetime | None
    """When the server made it, in UTC."""
    engine: str | None
    job_id: str | None
    """Its job, if it is one of this key and its record exists."""
    watermark: str | None
    """The payload that the operator's watermark has in the pixels, 64 bits in hex."""
    manifest: Manifest
    """The C2PA manifest of the image, as the server has checked it."""
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the response's fields; the time in milliseconds since the epoch."""
        names = ("made_here", "distance", "engine", "job_id", "watermark")
        created_at = int(self.created_at.timestamp() * 1000) if self.created_at else None
        found = {name: getattr(self, name) for name in names}
        return found | {"created_at": created_at, "manifest": self.manifest.as_dict()}


def parse_verification(data: Mapping[str, Any]) -> ServerVerification | None:
    """Parse the response to a verification; values of a wrong type are None. None without a result."""
    made_here, job_id, manifest = data.get("made_here"), data.get("job_id"), _mapping(data.get("manifest"))
    if made_here not in ("exact", "similar", "no"):
        return None
    valid = manifest.get("valid")
    return ServerVerification(
        made_here=made_here,
        distance=_count(data.get("distance")),
        created_at=_time(data.get("created_at")),
        engine=_text(data.get("engine")),
        job_id=job_id if isinstance(job_id, str) and JOB_ID.fullmatch(job_id) else None,
        watermark=_text(data.get("watermark")),
        manifest=Manifest(
            present=manifest.get("present") is True,
            valid=valid if isinstance(valid, bool) else None,
            signer=_text(manifest.get("signer")),
            trusted=manifest.get("trusted") is True,
        ),
        raw=data,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(printable(item) for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _number(value: Any) -> float | None:
    """Return a number that is not negative; None for another value."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


def _count(value: Any) -> int | None:
    """Return a number as an integer; None for another value, and for a bool."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**63
    return int(value) if usable else None


def _counts(value: Any) -> dict[str, int]:
    """Return the entries of an object that are counts."""
    counts = {name: _count(each) for name, each in _mapping(value).items()}
    return {name: count for name, count in counts.items() if count is not None}


def _time(milliseconds: Any) -> datetime | None:
    """Return a time of the server, in milliseconds since 1970; None when there is none."""
    count = _count(milliseconds)
    return datetime.fromtimestamp(count / 1000, UTC) if count is not None and count < 4e12 else None
