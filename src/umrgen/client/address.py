"""The address and API key of a server, and the headers of every request to it."""

import hashlib
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from umrgen import __version__
from umrgen.errors import UmrgenError

__all__ = ["Server"]


@dataclass(frozen=True)
class Server:
    """A base URL without its trailing slash, and the API key for its origin.

    White space around both is removed. Raises UmrgenError when the URL is not an http(s) address, or when no HTTP
    header can have the key.
    """

    base_url: str
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", _checked_address(self.base_url.strip()))
        object.__setattr__(self, "key", _checked_key(self.key))

    @property
    def key_mark(self) -> str | None:
        """Eight hexadecimal digits of a hash, which identify the key but do not reveal it."""
        return None if self.key is None else hashlib.sha256(f"umrgen journal {self.key}".encode()).hexdigest()[:8]

    def headers(self) -> dict[str, str]:
        """Return the headers of every API request."""
        headers = {
            "User-Agent": f"umrgen/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # a compressed response could be a thousand times as large
        }
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        if (urlsplit(self.base_url).hostname or "").endswith(".share.zrok.io"):
            headers["skip_zrok_interstitial"] = "1"
        return headers


def _checked_address(url: str) -> str:
    if not _is_address(url):
        raise UmrgenError(
            f"{_without_password(url)!r} is not a server address",
            code="bad_base_url",
            next=_proposal(url),
        )
    url = url.rstrip("/")
    if (end := re.search(r"/api(/v1)?$", url)) is not None:
        raise UmrgenError(
            f"the server address {url} ends with {end[0]}, which the client adds itself",
            code="bad_base_url",
            next=f"Use {url[: end.start()]}.",
        )
    return url


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
        usable = url.isprintable() and not re.search(r"[\s\\]", url) and len(url) <= 2000
        return bool(valid and usable and parts.username is None and parts.port != 0)
    except ValueError:
        return False


def _proposal(url: str) -> str:
    """Return the remedy for a refused address: the same with its scheme, when only that is missing."""
    if "://" not in url and "@" not in url and _is_address(with_scheme := f"http://{url}"):
        return f"Write the scheme: {with_scheme}, or with https:// for a server with TLS."
    return "Use the form http://host:port or https://host/prefix."


def _without_password(url: str) -> str:
    """Return a refused address without its user name and password."""
    return re.sub(r"//[^/]*@", "//…@", url)


def _checked_key(key: str | None) -> str | None:
    """Return the key without white space around it. The error does not show the key, nor a part of it."""
    stripped = (key or "").strip()
    if wrong := re.search(r"[^\x21-\x7e]", stripped):
        raise UmrgenError(
            f"the API key cannot be sent: its character {wrong.start() + 1} of {len(stripped)} is not a printable "
            "ASCII character",
            code="bad_api_key",
            next="Copy the key again, without line breaks and spaces; it begins with umr_.",
        )
    return stripped or None
