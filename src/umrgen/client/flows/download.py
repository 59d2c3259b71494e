"""The rules of a download, without any I/O: where the image is, how to resume, when to give up."""

import hashlib
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urljoin, urlsplit

from umrgen.errors import OutputForbidden, OutputMissing, RateLimited, ServerError, UmrgenError

__all__ = [
    "PartialState",
    "ThroughputWatchdog",
    "announced_size",
    "judge",
    "partial_name",
    "redirect_target",
    "resolve_output",
    "same_origin",
    "validator_of",
]


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or default


def same_origin(one: str, other: str) -> bool:
    try:
        return _origin(one) == _origin(other)
    except ValueError:  # a port that is no number
        return False


def resolve_output(base_url: str, image_url: str, *, follow_foreign: bool = False) -> tuple[str, bool]:
    """The full URL of an image, and whether the server's key may go along.

    A path is appended to the base URL as it is, never re-encoded. Raises OutputForbidden for a URL of
    another origin, unless `follow_foreign`.
    """
    if image_url.startswith("/") and not image_url.startswith("//") and "\\" not in image_url:
        return base_url.rstrip("/") + image_url, True
    clean = not re.search(r"[\\\x00-\x20\x7f]", image_url)
    if clean and re.match(r"https?://", image_url, re.IGNORECASE):
        if same_origin(base_url, image_url):
            return image_url, True
        if follow_foreign:
            return image_url, False
    raise _foreign(image_url)


def _foreign(url: str) -> OutputForbidden:
    return OutputForbidden(
        f"the server names an image elsewhere: {url[:200]!r}",
        code="foreign_output",
        next="If you trust that address, allow it with follow_foreign (--follow-foreign).",
    )


def redirect_target(base_url: str, url: str, location: str, *, follow_foreign: bool) -> tuple[str, bool]:
    """Where a redirect of `url` leads, and whether the key may go along. Raises as `resolve_output`."""
    return resolve_output(base_url, urljoin(url, location), follow_foreign=follow_foreign)


def partial_name(target_name: str, job_id: str, validator: str) -> str:
    """The name of the unfinished file: the same for the same version of the same job's image."""
    mark = hashlib.sha256(f"{job_id}\0{validator}".encode()).hexdigest()[:12]
    return f".{target_name}.{mark}.part"


class PartialState:
    """What is there of a file already: `size` bytes of the version that `validator` names."""

    def __init__(self, size: int = 0, validator: str = "") -> None:
        self.size = size
        self.validator = validator

    def headers(self) -> dict[str, str]:
        """The request headers that ask for the rest; identity, because lengths count file bytes."""
        headers = {"Accept": "image/png, image/jpeg, image/webp", "Accept-Encoding": "identity"}
        if self.size:
            headers["Range"] = f"bytes={self.size}-"
            if self.validator.startswith('"'):  # a weak validator may not stand in If-Range (RFC 9110)
                headers["If-Range"] = self.validator
        return headers


def validator_of(headers: Mapping[str, str]) -> str:
    """What tells versions of a file apart: its ETag, else its date, else nothing."""
    return headers.get("etag") or headers.get("last-modified") or ""


def judge(status: int, headers: Mapping[str, str], have: PartialState) -> Literal["append", "restart"]:
    """Whether an answer's body continues what is there, or is the file from its start.

    Raises ValueError when what is there is of no use and must be asked for anew, OutputForbidden and
    OutputMissing for refusals, RateLimited and ServerError for what may pass.
    """
    if status == 200:
        return "restart"
    if status == 206:
        span = re.match(r"bytes (\d+)-", headers.get("content-range", ""))
        same = have.validator == validator_of(headers)
        if span and int(span[1]) == have.size and same:
            return "append"
        raise ValueError("the range is of another file")
    if status == 416:
        raise ValueError("there is no such range")
    raise _refusal(status)


def _refusal(status: int) -> UmrgenError:
    if status == 410:
        return OutputMissing(
            "the image has expired on the server (HTTP 410)", code="output_expired", next="Submit the job again."
        )
    if status == 404:
        return OutputMissing("the server has no such image (HTTP 404)", code="output_not_found")
    if status == 429:
        return RateLimited("the server is asked too often (HTTP 429)", status=status)
    if status >= 500:
        return ServerError(f"the server failed to send the image (HTTP {status})", status=status)
    return OutputForbidden(f"the server refuses the image (HTTP {status})")


def announced_size(status: int, headers: Mapping[str, str]) -> int | None:
    """The size of the whole file, as far as the headers tell."""
    if status == 206:
        total = re.match(r"bytes \d+-\d+/(\d+)$", headers.get("content-range", ""))
        return int(total[1]) if total else None
    length = headers.get("content-length", "")
    return int(length) if re.fullmatch(r"\d{1,15}", length) and "content-encoding" not in headers else None


class ThroughputWatchdog:
    """Notices a download that goes on, but so slowly that it is as good as dead."""

    def __init__(self, now: float, *, rate: float, window: float) -> None:
        self._rate = rate
        self._window = window
        self._since = now
        self._bytes = 0

    def too_slow(self, count: int, now: float) -> bool:
        """Count `count` further bytes; whether the last window's rate lies below the limit."""
        self._bytes += count
        span = now - self._since
        if span < self._window:
            return False
        slow = self._bytes < self._rate * span
        self._since, self._bytes = now, 0
        return slow
