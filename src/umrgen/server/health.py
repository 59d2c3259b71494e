"""The check of a running server by its own settings: `umrgen serve --check-health`, for containers."""

from ipaddress import ip_address

import httpx2

from umrgen.errors import UmrgenError
from umrgen.server.settings import Settings

__all__ = ["check_health", "health_url", "responds"]

SECONDS = 4.0


def health_url(settings: Settings) -> str:
    """Return the address of `/readyz`, as this machine reaches it. Every address is reached through loopback."""
    host = settings.host
    try:
        address = ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    except ValueError:
        pass
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/readyz"


def _status(settings: Settings) -> int | None:
    """Return the status of `/readyz`; None if no server responds."""
    try:
        with httpx2.Client(trust_env=False, timeout=SECONDS) as http:
            return http.get(health_url(settings)).status_code
    except httpx2.TransportError:
        return None


def responds(settings: Settings) -> bool:
    """Return whether a server runs at the address of the settings; it may not be ready yet."""
    return _status(settings) in (200, 503)


def check_health(settings: Settings) -> str:
    """Return the address of the server if it is ready. Raises UmrgenError with the reason if it is not."""
    url, status = health_url(settings), _status(settings)
    if status is None:
        raise UmrgenError(f"no server responds at {url}", code="not_ready", next="Its log has the reason.")
    if status != 200:
        raise UmrgenError(f"{url} responds with {status}", code="not_ready", next="Its log has the reason.")
    return url
