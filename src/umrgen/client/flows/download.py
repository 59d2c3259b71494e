"""The rules of a download, without I/O: the image's URL, when to resume, which errors to retry."""

import hashlib
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urljoin, urlsplit

from umrgen.client.responses import entity_tag, reports_output_error
from umrgen.errors import NotUmrgen, OutputForbidden, OutputMissing, RateLimited, ServerError, UmrgenError
from umrgen.text import printable

__all__ = [
    "PartialState",
    "ThroughputWatchdog",
    "classify_response",
    "expected_size",
    "has_image",
    "partial_name",
    "partial_prefix",
    "redirect_target",
    "resolve_output",
    "same_origin",
    "validator_of",
]

LONGEST_WHOLE_NAME = 200
"""Bytes; file systems have a limit of 255 for a name, and a partial file's is up to 28 longer."""


MAX_URL = 8192
"""Characters of the longest URL of an image."""


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or default


def same_origin(one: str, other: str) -> bool:
    """Return whether two URLs have the same scheme, host and port."""
    try:
        return _origin(one) == _origin(other)
    except ValueError:  # an invalid port
        return False


def resolve_output(base_url: str, image_url: str, *, follow_foreign: bool = False) -> tuple[str, bool]:
    """Return the full URL of an image, and whether the API key may be sent to it.

    A path is appended to the base URL unchanged, never re-encoded. Raises OutputForbidden for a URL of another
    origin, unless `follow_foreign`.
    """
    if len(image_url) > MAX_URL or re.search(r"[\ud800-\udfff]", image_url):
        raise OutputForbidden(f"the image's URL is not valid: {image_url[:80]!r}", code="bad_image_url")
    if image_url.startswith("/") and not image_url.startswith("//") and "\\" not in image_url:
        return base_url.rstrip("/") + image_url, True
    clean = not re.search(r"[\\\x00-\x20\x7f]", image_url)
    if clean and re.match(r"https?://", image_url, re.IGNORECASE):
        if same_origin(base_url, image_url):
            return image_url, True
        if follow_foreign:
            return image_url, False
    raise _foreign_output(image_url)


def _foreign_output(url: str) -> OutputForbidden:
    return OutputForbidden(
        f"the image is on another server: {printable(url, 200)!r}",
        code="foreign_output",
        next="If you trust that server, allow it with follow_foreign (--follow-foreign).",
    )


def redirect_target(base_url: str, url: str, location: str, *, follow_foreign: bool) -> tuple[str, bool]:
    """Return the target of a redirect of `url`, and whether the API key may be sent to it. As `resolve_output`."""
    try:
        target = urljoin(url, location)
    except ValueError:  # an invalid IPv6 address
        raise _foreign_output(location) from None
    return resolve_output(base_url, target, follow_foreign=follow_foreign)


def partial_name(target_name: str, job_id: str, validator: str) -> str:
    """Return the name of the partial file, which is the same for the same version of the same job's image."""
    digest = hashlib.sha256(f"{job_id}\0{validator}".encode()).hexdigest()[:12]
    return f"{partial_prefix(target_name)}{digest}.part"


def partial_prefix(target_name: str) -> str:
    """Return the begin of the names of a target's partial files: its own name, cut when theirs would be too long."""
    name = target_name.encode("utf-8", "surrogateescape")
    if len(name) <= LONGEST_WHOLE_NAME:
        return f".{target_name}."
    return f".{name[:160].decode('utf-8', 'ignore')}~{hashlib.sha256(name).hexdigest()[:8]}."


class PartialState:
    """The part of a file that was received: `size` bytes of the version with this `validator`."""

    def __init__(self, size: int = 0, validator: str = "") -> None:
        self.size = size
        self.validator = validator

    def headers(self) -> dict[str, str]:
        """Return the request headers for the rest of the file; identity encoding, because lengths count file bytes."""
        headers = {"Accept": "image/png, image/jpeg, image/webp", "Accept-Encoding": "identity"}
        if self.size:
            headers["Range"] = f"bytes={self.size}-"
            if entity_tag(self.validator) and self.validator.startswith(
                '"'
            ):  # If-Range does not allow a weak validator (RFC 9110)
                headers["If-Range"] = self.validator
        return headers


def validator_of(headers: Mapping[str, str]) -> str:
    """Return the validator of a file's version: its ETag, otherwise its modification date, otherwise nothing."""
    return headers.get("etag") or headers.get("last-modified") or ""


def has_image(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether the body of a response may be an image; a page or JSON with 200 is from a gateway."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    text = media_type.startswith("text/") or media_type.endswith(("json", "xml", "html"))
    return status in (200, 206) and not text


def classify_response(
    status: int,
    headers: Mapping[str, str],
    partial: PartialState,
    error: bytes = b"",
    *,
    foreign: bool = False,
    coded: bool = False,
) -> Literal["append", "restart"]:
    """Return whether a response's body continues the partial file or starts the file from its first byte.

    `error` is the body of a response without an image. `foreign`: the image is on another server than the API.
    `coded`: the errors of the server always have a code.
    Raises ValueError when the partial file cannot be continued and must be discarded, RateLimited, ServerError and
    NotUmrgen (a gateway's response) for transient errors, OutputForbidden and OutputMissing for others.
    """
    if status == 200 and has_image(status, headers):
        return "restart"
    if status == 206:
        span = re.match(r"bytes ([0-9]{1,15})-", headers.get("content-range", ""))
        same = partial.validator == validator_of(headers)
        if span and int(span[1]) == partial.size and same:
            return "append"
        raise ValueError("the response has a range of another version")
    if status == 416:
        raise ValueError("the file has no such range")
    own = foreign or status == 429 or status >= 500 or reports_output_error(status, error, coded=coded)
    if status < 400 or not own:
        raise _gateway_error(status, headers)
    raise _download_error(status)


def _gateway_error(status: int, headers: Mapping[str, str]) -> NotUmrgen:
    media_type = printable(headers.get("content-type", ""), 80) or "no content type"
    return NotUmrgen(f"expected an image, got another server's response ({media_type}, HTTP {status})", status=status)


def _download_error(status: int) -> UmrgenError:
    if status == 410:
        return OutputMissing(
            "the image has expired on the server (HTTP 410)", code="output_expired", next="Submit the job again."
        )
    if status == 404:
        return OutputMissing("the server has no such image (HTTP 404)", code="output_not_found")
    if status == 429:
        return RateLimited("too many requests to the server (HTTP 429)", status=status)
    if status >= 500:
        return ServerError(f"the server failed to send the image (HTTP {status})", status=status)
    return OutputForbidden(f"the server refused the request for the image (HTTP {status})")


def expected_size(status: int, headers: Mapping[str, str]) -> int | None:
    """Return the size of the whole file by the headers, or None when they do not give it."""
    if status == 206:
        total = re.match(r"bytes [0-9]+-[0-9]+/([0-9]{1,15})$", headers.get("content-range", ""))
        return int(total[1]) if total else None
    length = headers.get("content-length", "")
    return int(length) if re.fullmatch(r"[0-9]{1,15}", length) and "content-encoding" not in headers else None


class ThroughputWatchdog:
    """Detects a download whose rate is below a minimum."""

    def __init__(self, now: float, *, rate: float, window: float) -> None:
        self._rate = rate
        self._window = window
        self._since = now
        self._bytes = 0

    def too_slow(self, count: int, now: float) -> bool:
        """Count `count` further bytes; return whether the rate of the last window was below the minimum."""
        self._bytes += count
        span = now - self._since
        if span < self._window:
            return False
        slow = self._bytes < self._rate * span
        self._since, self._bytes = now, 0
        return slow
