"""The address and API key of a server, and the headers of every request to it."""

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from umrgen import __version__
from umrgen.errors import UmrgenError

__all__ = ["Server", "configured_server"]


@dataclass(frozen=True)
class Server:
    """A base URL without its trailing slash, and the API key for its origin.

    Raises UmrgenError when the URL is not an http(s) address.
    """

    base_url: str
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _is_address(self.base_url):
            raise UmrgenError(
                f"{self.base_url!r} is not a server address",
                code="bad_base_url",
                next="Use the form http://host:port or https://host/prefix.",
            )
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))

    def headers(self) -> dict[str, str]:
        """Return the headers of every API request."""
        headers = {"User-Agent": f"umrgen/{__version__}", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        if (urlsplit(self.base_url).hostname or "").endswith(".share.zrok.io"):
            headers["skip_zrok_interstitial"] = "1"
        return headers


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
        return bool(valid and parts.username is None and parts.port != 0)
    except ValueError:
        return False


def configured_server(base_url: str | None = None, api_key: str | None = None) -> Server:
    """Return the server by the arguments, or by UMRGEN_BASE_URL and UMRGEN_API_KEY. Raises UmrgenError."""
    url = base_url or os.environ.get("UMRGEN_BASE_URL")
    if not url:
        raise UmrgenError(
            "no server is configured",
            code="no_server",
            next="Set UMRGEN_BASE_URL to your server's address, or start one with `umrgen serve`.",
        )
    return Server(url, api_key or os.environ.get("UMRGEN_API_KEY"))
