"""One server as its callers know it: its address, the key for it, and what goes along with every request."""

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from umrgen import __version__
from umrgen.errors import UmrgenError

__all__ = ["Server", "configured_server"]


@dataclass(frozen=True)
class Server:
    """A base URL, without its trailing slash, and the key that goes to its origin only.

    Raises UmrgenError when the URL is no http(s) address.
    """

    base_url: str
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _is_address(self.base_url):
            raise UmrgenError(
                f"{self.base_url!r} is no server address",
                code="bad_base_url",
                next="Use the form http://host:port or https://host/prefix.",
            )
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))

    def headers(self) -> dict[str, str]:
        """The headers of every call of the API."""
        headers = {"User-Agent": f"umrgen/{__version__}", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        if (urlsplit(self.base_url).hostname or "").endswith(".share.zrok.io"):
            headers["skip_zrok_interstitial"] = "1"
        return headers


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
        return bool(fine and parts.username is None and parts.port != 0)
    except ValueError:
        return False


def configured_server(base_url: str | None = None, api_key: str | None = None) -> Server:
    """The server of the arguments, else of UMRGEN_BASE_URL and UMRGEN_API_KEY. Raises UmrgenError."""
    url = base_url or os.environ.get("UMRGEN_BASE_URL")
    if not url:
        raise UmrgenError(
            "no server is configured",
            code="no_server",
            next="Set UMRGEN_BASE_URL to your server's address, or start one with `umrgen serve`.",
        )
    return Server(url, api_key or os.environ.get("UMRGEN_API_KEY"))
