"""The studio, the server's web page: its files under `/studio/`, and the exchange of a one-time link for a key.

`http.guide` serves the page itself at `/`.

The files are read once, at start, into a table. A request's path is a key of this table and never a path on disk. The
page names its files below a folder of their version, so that a browser keeps them and requests the page only.
"""

import asyncio
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

from umrgen.server.http import Services, studio_devices
from umrgen.server.http.api.responses import json_response
from umrgen.server.http.api.schemas import read_object
from umrgen.server.http.auth import address_of
from umrgen.server.http.problems import Problem
from umrgen.server.services.api_keys import NewKey

__all__ = ["page", "routes"]

KEY_LASTS = 12 * 3600
"""Seconds for which the key of a one-time link is valid: a working day."""

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}

# `data:` is for previews, which an event stream carries as base64; everything else is from this server.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Vary": "Accept, Accept-Encoding",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page, plain and compressed."""

    media_type: str
    body: bytes
    gzipped: bytes
    digest: str
    is_worker: bool = False

    def response(self, request: Request, *, versioned: bool = False) -> Response:
        """Return the file, compressed if the client accepts gzip, or 304 if the client has it.

        `versioned`: its URL has the version of this file.
        """
        gzips = "gzip" in request.headers.get("accept-encoding", "")
        etag = f'"{self.digest}{"-gzip" if gzips else ""}"'
        headers = _HEADERS | {"ETag": etag}
        if versioned:
            headers["Cache-Control"] = "public, max-age=31536000, immutable"
        if self.is_worker:
            headers["Service-Worker-Allowed"] = "/"  # it serves the page at /, not the folder of its file
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if gzips:
            headers["Content-Encoding"] = "gzip"
        return Response(self.gzipped if gzips else self.body, headers=headers, media_type=self.media_type)


class SessionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The API key that a one-time link was exchanged for."""

    success: bool = True
    key: str
    expires_at: Annotated[int, Meta(description="milliseconds since the epoch")]


def routes(services: Services) -> list[Route]:
    if not services.settings.studio:
        return []

    async def part(request: Request) -> Response:
        name: str = request.path_params["name"]
        version, _, rest = name.partition("/")
        versioned = version == page_version()
        file = page_files().get(rest if versioned else name)
        if file is None:
            raise Problem("not_found")
        return file.response(request, versioned=versioned)

    async def session(request: Request) -> Response:
        return await open_session(services, request)

    found = [*studio_devices.routes(services), Route("/studio/{name:path}", part, methods=["GET"])]
    if services.settings.loopback:
        found.insert(0, Route("/studio/session", session, methods=["POST"]))
    return found


def page(services: Services, request: Request) -> Response:
    """Return the page."""
    prefix = services.settings.prefix
    if prefix and request.scope.get("raw_path", b"").decode("latin-1") == prefix:
        # The page's relative URLs resolve to its files only with the slash.
        return Response(status_code=308, headers={"Location": f"{prefix}/"})
    return _versioned_page().response(request)


async def open_session(services: Services, request: Request) -> Response:
    """Exchange a link's ticket for a key that is valid for KEY_LASTS. Only for the studio's page, on this machine.

    The key belongs to the first key's session, so the page also shows the jobs of the operator's command line.
    """
    if not _from_local_studio(request):
        raise Problem("forbidden_origin", "only the studio, opened on the server's machine, may exchange a link")
    ticket = (await read_object(request, 4096)).get("ticket")
    if not isinstance(ticket, str) or not await asyncio.to_thread(services.tickets.take, ticket):
        services.authentication.failures.record_failure(address_of(request.scope))
        raise Problem("link_over")
    expires_at = services.clock.now() + KEY_LASTS * 1000
    grant = NewKey("studio", session_id=await services.keys.first_session(), expires_at=expires_at)
    secret, _ = await services.keys.create(grant)
    return json_response(SessionAnswer(key=secret, expires_at=expires_at))


def _from_local_studio(request: Request) -> bool:
    """Return whether the studio's page calls under a loopback name. A browser always sends the origin."""
    host = request.headers.get("host", "")
    if request.headers.get("origin", "").lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
        return False
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


@cache
def page_version() -> str:
    """Return the version of all files together, a folder in the page's URLs."""
    digests = "".join(file.digest for file in page_files().values())
    return hashlib.sha256(digests.encode()).hexdigest()[:16]


@cache
def _versioned_page() -> PageFile:
    """Return the page with the version in the addresses of its files."""
    page = page_files()["page/index.html"]
    body = page.body.replace(b'="studio/', f'="studio/{page_version()}/'.encode())
    return _page_file(body, page.media_type)


@cache
def page_files() -> Mapping[str, PageFile]:
    """Return the page's files by their path under `/studio/`, which is relative to each other as in `js/`."""
    return dict(_read())


def _read() -> Iterator[tuple[str, PageFile]]:
    for name, folder in _folders().items():
        for path in sorted(folder.iterdir()):
            if media_type := MEDIA_TYPES.get(path.suffix):
                is_worker = path.name == "service_worker.js"
                yield f"{name}/{path.name}", _page_file(path.read_bytes(), media_type, is_worker=is_worker)


def _page_file(body: bytes, media_type: str, *, is_worker: bool = False) -> PageFile:
    digest = hashlib.sha256(body).hexdigest()[:32]
    return PageFile(media_type, body, gzip.compress(body, mtime=0), digest, is_worker)


def _folders() -> Mapping[str, Path]:
    """Return the folders of the page and of the JavaScript client, in the installed package or in the checkout."""
    installed = Path(__file__).parents[1] / "studio"
    if installed.is_dir():
        return {"page": installed / "page", "src": installed / "src"}
    js = Path(__file__).parents[4] / "js"
    return {"page": js / "studio", "src": js / "src"}
