"""The cookie of a browser that stays signed in to the studio.

No other page can use it: a browser sends it with requests of this site only (SameSite), no script can read it
(HttpOnly), and it counts only beside a header that a page of another origin cannot send without a permission (CORS).
"""

from collections.abc import Mapping

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from umrgen.server.services.remembered_devices import LASTS

__all__ = ["HEADER", "clear_cookie", "device_secret", "from_own_page", "set_cookie"]

HEADER = "x-umrgen-studio"
"""The header, with the value "cookie", by which the studio asks for the cookie to be used."""
_NAME = "umrgen-studio"


def device_secret(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the secret in the cookie of a request of the studio; None for a request that needs an API key."""
    if b"authorization" in headers or headers.get(HEADER.encode()) != b"cookie" or not from_own_page(headers):
        return None
    return HTTPConnection({"type": "http", "headers": [*headers.items()]}).cookies.get(_NAME)


def from_own_page(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether nothing shows that a page of another origin made the request: some requests have no origin."""
    host = headers.get(b"host", b"").lower()
    if (origin := headers.get(b"origin")) is not None and origin.lower() not in (b"http://" + host, b"https://" + host):
        return False
    return headers.get(b"sec-fetch-site", b"same-origin") == b"same-origin"


def set_cookie(response: Response, request: Request, secret: str, prefix: str) -> None:
    """Store the secret in the browser; by HTTPS only, if the page was loaded by HTTPS."""
    secure = request.headers.get("origin", "").lower().startswith("https://")
    response.set_cookie(
        _NAME, secret, max_age=LASTS, path=f"{prefix}/", secure=secure, httponly=True, samesite="strict"
    )


def clear_cookie(response: Response, prefix: str) -> None:
    """Remove the cookie from the browser."""
    response.delete_cookie(_NAME, path=f"{prefix}/", httponly=True, samesite="strict")
