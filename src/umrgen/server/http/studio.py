"""The studio, a page for people: `/`, its files under `/studio/`, and the door that its link opens.

The files are read once, at start, into a table; a request's path is looked up in it and never joined to another.
"""

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from umrgen.server.http import Services
from umrgen.server.http.api.responses import json_response
from umrgen.server.http.api.schemas import decode_object
from umrgen.server.http.auth import address_of
from umrgen.server.http.bodies import read_body
from umrgen.server.http.problems import Problem
from umrgen.server.services.api_keys import NewKey

__all__ = ["routes"]

KEY_LASTS = 12 * 3600
"""Seconds for which the key is good that a link is exchanged for: a day's work."""

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# `data:` is for previews, which come as text over a stream of events; everything else is the server's own.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, and asked for again by its ETag: a page and its parts are of one age
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page, as it is sent."""

    media_type: str
    body: bytes
    packed: bytes
    digest: str

    def answer(self, request: Request) -> Response:
        packs = "gzip" in request.headers.get("accept-encoding", "")
        etag = f'"{self.digest}{"-gzip" if packs else ""}"'
        headers = _HEADERS | {"ETag": etag}
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if packs:
            headers["Content-Encoding"] = "gzip"
        return Response(self.packed if packs else self.body, headers=headers, media_type=self.media_type)


class SessionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a link is exchanged for."""

    success: bool = True
    key: str
    expires_at: Annotated[int, Meta(description="milliseconds since the epoch")]


def routes(services: Services) -> list[Route]:
    if not services.settings.studio:
        return []
    files = page_files()

    async def page(request: Request) -> Response:
        prefix = services.settings.prefix
        if prefix and request.scope.get("raw_path", b"").decode("latin-1") == prefix:
            # The page names its parts relative to itself: without the slash they would be looked for beside it.
            return Response(status_code=308, headers={"Location": f"{prefix}/"})
        return files["page/index.html"].answer(request)

    async def part(request: Request) -> Response:
        file = files.get(request.path_params["name"])
        if file is None:
            raise Problem("not_found")
        return file.answer(request)

    async def session(request: Request) -> Response:
        return await open_session(services, request)

    found = [Route("/", page, methods=["GET"]), Route("/studio/{name:path}", part, methods=["GET"])]
    if services.settings.loopback:
        found.insert(0, Route("/studio/session", session, methods=["POST"]))
    return found


async def open_session(services: Services, request: Request) -> Response:
    """Exchange a link's ticket for a key that ends tonight. Only for our own page, at this very machine.

    The key is of the first key's session, so the page shows what its operator draws from the command line too.
    """
    if not _at_home(request):
        raise Problem("forbidden_origin", "only the studio itself, opened on this machine, may do this")
    ticket = decode_object(await read_body(request, 4096)).get("ticket")
    if not isinstance(ticket, str) or not services.tickets.take(ticket):
        services.authentication.failures.record_failure(address_of(request.scope))
        raise Problem("link_over")
    expires_at = services.clock.now() + KEY_LASTS * 1000
    grant = NewKey("studio", session_id=await services.keys.first_session(), expires_at=expires_at)
    secret, _ = await services.keys.create(grant)
    return json_response(SessionAnswer(key=secret, expires_at=expires_at))


def _at_home(request: Request) -> bool:
    """Whether a page of ours calls, under a name that only this machine has. A browser always sends the origin."""
    host = request.headers.get("host", "")
    if request.headers.get("origin", "").lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
        return False
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


@cache
def page_files() -> Mapping[str, PageFile]:
    """The page's files by the path they have under `/studio/`: the same as relative to each other in `js/`."""
    return dict(_read())


def _read() -> Iterator[tuple[str, PageFile]]:
    for name, folder in _folders().items():
        for path in sorted(folder.iterdir()):
            if media_type := MEDIA_TYPES.get(path.suffix):
                body = path.read_bytes()
                digest = hashlib.sha256(body).hexdigest()[:32]
                yield f"{name}/{path.name}", PageFile(media_type, body, gzip.compress(body, mtime=0), digest)


def _folders() -> Mapping[str, Path]:
    """Where page and client lie: inside the installed package, or in the checkout that it is run from."""
    installed = Path(__file__).parents[1] / "studio"
    if installed.is_dir():
        return {"page": installed / "page", "src": installed / "src"}
    js = Path(__file__).parents[4] / "js"
    return {"page": js / "studio", "src": js / "src"}
