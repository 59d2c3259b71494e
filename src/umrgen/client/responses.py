"""Parsers of response bodies: each returns a frozen value, or None for a body of another form. None raises."""

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from umrgen.model import Status
from umrgen.text import JOB_ID, printable

__all__ = [
    "MAX_BODY",
    "MAX_LIST",
    "Batch",
    "SubmitReceipt",
    "decompress",
    "entity_tag",
    "names_umrgen",
    "parse_batch",
    "parse_receipt",
    "parse_upload",
    "read_json",
    "read_object",
    "reports_missing_job",
    "reports_output_error",
]

MAX_BODY = 1 << 20
"""Bytes of the largest response."""
MAX_LIST = 4 << 20
"""Bytes of the largest response about many jobs: a page of 200 jobs with the longest prompts has about 3 MiB."""
MAX_VALUES = 100_000
"""The most values in a response: each takes up to 100 bytes of memory, however short it is in the body."""
MAX_DEPTH = 64
"""Nested lists and objects: a deeper response could be parsed here, and then not be printed."""


# --- bodies -------------------------------------------------------------------------------------------


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Return the body without its `Content-Encoding`, of at most `limit` + 1 bytes; b"" when it cannot be decoded.

    The client requests no compression; a gateway may apply it all the same.
    """
    if encoding.strip().lower() in ("", "identity"):
        return body
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return b""
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(body, limit + 1)
    except zlib.error:
        return b""


def read_object(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a body, or None when the body is not one; as `read_json`."""
    data = read_json(body)
    return data if isinstance(data, dict) else None


def read_json(body: bytes) -> Any:
    """Return the JSON in a body, or None when it has none, or has too many values to be a response.

    Invalid UTF-8 becomes U+FFFD; NaN, infinite numbers and integers of over 300 digits become None.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_VALUES:
        return None
    try:
        data = json.loads(
            body.decode("utf-8-sig", "replace"),
            parse_constant=lambda name: None,
            parse_float=_finite,
            parse_int=lambda digits: int(digits) if len(digits) <= 300 else None,
        )
    except (ValueError, RecursionError):
        return None
    return data if not isinstance(data, dict | list) or not _is_deep(data) else None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if abs(number) != float("inf") else None


def _is_deep(data: Any) -> bool:
    level = [data]
    for _ in range(MAX_DEPTH):
        lists = [item.values() if isinstance(item, dict) else item for item in level]
        level = [item for items in lists for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def entity_tag(text: str) -> str | None:
    """Return an ETag that a request can have in its headers (RFC 9110, without its obsolete characters), or None."""
    return text if re.fullmatch(r'(W/)?"[\x21\x23-\x7e]{0,200}"', text) else None


# --- submits, batches, uploads ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SubmitReceipt:
    """The response to a submit. `raw` is the whole response."""

    job_id: str
    warnings: tuple[str, ...]
    """Parts of the request that the server does not use."""
    raw: Mapping[str, Any]


def parse_receipt(data: Mapping[str, Any] | None) -> SubmitReceipt | None:
    """Parse the response to a submit. A job id that cannot be part of a path is not one."""
    job_id = (data or {}).get("job_id")
    if data is None or not isinstance(job_id, str) or not JOB_ID.fullmatch(job_id):
        return None
    warnings = data.get("warnings")
    listed = warnings if isinstance(warnings, list) else []
    return SubmitReceipt(job_id, tuple(printable(text) for text in listed if isinstance(text, str)), data)


@dataclass(frozen=True, slots=True)
class Batch:
    """The response to a batch call: the statuses that changed, and the ids that the server does not have."""

    jobs: tuple[Status, ...]
    unknown: tuple[str, ...]
    cursor: str


def parse_batch(data: Mapping[str, Any]) -> Batch | None:
    """Parse the response to a batch call."""
    listed, unknown, cursor = data.get("jobs"), data.get("unknown"), data.get("cursor")
    if not isinstance(listed, list):
        return None
    found = [Status.parse(item, item["job_id"]) for item in listed if _has_job_id(item)]
    return Batch(
        tuple(status for status in found if status is not None),
        tuple(name for name in unknown if isinstance(name, str)) if isinstance(unknown, list) else (),
        cursor if isinstance(cursor, str) else "",
    )


def _has_job_id(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(job_id := item.get("job_id"), str) and bool(JOB_ID.fullmatch(job_id))


def parse_upload(data: Mapping[str, Any]) -> str | None:
    """Parse the response to an upload: the image's name, which is part of later requests."""
    name = data.get("filename")
    return name if isinstance(name, str) and re.fullmatch(r"[^/\\]{1,255}", name) and name.isprintable() else None


# --- the origin of an error response ------------------------------------------------------------------

_OUTPUT_CODES = ("forbidden_output", "output_not_found", "output_expired", "not_found", "invalid_request")


def names_umrgen(data: Mapping[str, Any] | None) -> bool:
    """Return whether the body of `/healthz` is an UMRGEN server's; gateways and other servers have one of their own."""
    return data is not None and data.get("server") == "umrgen"


def reports_missing_job(status: int, data: Mapping[str, Any] | None) -> bool:
    """Return whether an UMRGEN server itself reports that it does not have the job; a gateway's 404 does not."""
    if status != 404 or data is None:
        return False
    return data.get("code") == "job_not_found" or ("code" not in data and data.get("error") == "Job not found")


def reports_output_error(status: int, body: bytes, *, coded: bool = False) -> bool:
    """Return whether an UMRGEN server itself refuses an image: with its `code`, or as older servers without a body.

    `coded`: the server is a newer one, whose errors always have a code.
    """
    if not body:
        return not coded and status in (400, 403, 404, 410)
    return status >= 400 and (read_object(body) or {}).get("code") in _OUTPUT_CODES
