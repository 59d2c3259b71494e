"""`GET /outputs/{session_id}/{filename}?session_id=...`: finished images, found by their record."""

import re
from base64 import b64encode

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from umrgen.server.domain.job import Output
from umrgen.server.http import Services
from umrgen.server.http.auth import address_of, bearer
from umrgen.server.http.problems import Problem, to_problem
from umrgen.server.services.outputs import OutputLink

__all__ = ["PATH", "outputs"]

PATH = "/outputs/"

PART = 64 << 10
"""Bytes of an image that are passed to the HTTP server at a time."""
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


async def outputs(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an image: a plain ASGI handler ahead of the router, because images are the largest responses."""
    request = Request(scope)
    try:
        link = _link(request)
        output, data = await services.outputs.fetch(
            link, secret=_secret(request), address=address_of(scope), redirects=_follows_redirects(request)
        )
        response = _respond(request, output, data)
    except Exception as error:
        response = to_problem(error).response()
    await response(scope, receive, send)


def _link(request: Request) -> OutputLink:
    session_id, _, name = request.scope["path"][len(PATH) :].rpartition("/")
    query = request.query_params
    shown = query.getlist("session_id")
    return OutputLink(
        session_id,
        name,
        shown_session_id=shown[0] if len(shown) == 1 else "",
        expires=query.get("expires", ""),
        signature=query.get("signature", ""),
    )


def _follows_redirects(request: Request) -> bool:
    """Return whether the client can follow a redirect to another host: a presigned URL allows GET only, and what a page
    in a browser loads is bound to this host by its content security policy, or cannot see where a redirect leads."""
    return request.method == "GET" and request.headers.get("sec-fetch-mode", "navigate") == "navigate"


def _secret(request: Request) -> str | None:
    """Return the API key of the request, which is optional here."""
    headers = dict(request.headers.raw)
    if b"authorization" not in headers:
        return None
    try:
        return bearer(headers)
    except Problem:
        return None


def _respond(request: Request, output: Output, data: bytes | str) -> Response:
    digest = b64encode(bytes.fromhex(output.sha256)).decode()
    etag = f'"{output.sha256}"'
    headers = {
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": f'inline; filename="{output.name}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    if isinstance(data, str):
        return Response(status_code=307, headers={"Location": data, "Cache-Control": "no-store"})
    if (part := _requested_range(request, etag, len(data))) is not None:
        start, end = part
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return ImageResponse(memoryview(data)[start : end + 1], 206, headers, media_type=output.media_type)
    headers["Content-Digest"] = headers["Repr-Digest"]
    return ImageResponse(memoryview(data), 200, headers, media_type=output.media_type)


class ImageResponse(Response):
    """A response whose body is sent in parts: for a slow client, granian buffers one part instead of the image."""

    body: memoryview

    def render(self, content: memoryview) -> memoryview:
        return content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        for start in range(0, len(self.body), PART):
            part, more = bytes(self.body[start : start + PART]), start + PART < len(self.body)
            await send({"type": "http.response.body", "body": part, "more_body": more})


def _matches(field: str | None, etag: str) -> bool:
    return field is not None and any(tag.strip().removeprefix("W/") in (etag, "*") for tag in field.split(","))


def _requested_range(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """Return the first and last byte of the requested range (RFC 9110, section 14); None for the whole file."""
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if_range = request.headers.get("if-range")
    if match is None or not any(match.groups()) or (if_range is not None and if_range.strip() != etag):
        return None
    first, last = match.groups()
    if first:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
    else:
        start, end = max(0, size - int(last)), size - 1
    if start > end or start >= size:
        if first and last and int(last) < int(first):
            return None  # an invalid range, which is ignored
        raise Problem("range_not_satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return start, end
