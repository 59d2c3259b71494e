"""`GET /outputs/{session_id}/{filename}?session_id=...`: finished images, found by their record."""

import re
from base64 import b64encode
from collections import OrderedDict

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from umrgen.jobs import Output
from umrgen.server.http import Services
from umrgen.server.http.problems import Problem
from umrgen.server.storage import Storage

__all__ = ["Cache", "routes"]

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Cache:
    """The images read last, up to a number of bytes: most are fetched at once, then never again."""

    def __init__(self, storage: Storage, limit: int) -> None:
        self._storage = storage
        self._limit = limit
        self._size = 0
        self._held: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    async def get(self, session_id: str, name: str) -> bytes | None:
        place = (session_id, name)
        if (data := self._held.get(place)) is not None:
            self._held.move_to_end(place)
            return data
        data = await self._storage.get(session_id, name)
        if data is not None and place not in self._held:
            self._held[place] = data
            self._size += len(data)
            while self._size > self._limit:
                self._size -= len(self._held.popitem(last=False)[1])
        return data


def routes(services: Services) -> list[Route]:
    cache = Cache(services.storage, services.settings.cache << 20)

    async def endpoint(request: Request) -> Response:
        output = await _find(services, request)
        data = await cache.get(output.session_id, output.name)
        if data is None:
            raise Problem("output_not_found")
        return _respond(request, output, data)

    return [Route("/outputs/{session_id:path}/{filename}", endpoint, methods=["GET", "HEAD"])]


async def _find(services: Services, request: Request) -> Output:
    session_id = request.path_params["session_id"]
    if request.query_params.getlist("session_id") != [session_id]:
        raise Problem("forbidden_output", "session_id is missing or wrong")
    output = await services.ledger.output(session_id, request.path_params["filename"])
    if output is None:
        raise Problem("output_not_found")
    return output


def _respond(request: Request, output: Output, data: bytes) -> Response:
    digest = b64encode(bytes.fromhex(output.sha256)).decode()
    etag = f'"{output.sha256}"'
    headers = {
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": f'inline; filename="{output.name}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    if (part := _asked_range(request, etag, len(data))) is not None:
        start, end = part
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return Response(data[start : end + 1], 206, headers, media_type=output.media_type)
    headers["Content-Digest"] = headers["Repr-Digest"]
    return Response(data, 200, headers, media_type=output.media_type)


def _matches(field: str | None, etag: str) -> bool:
    return field is not None and any(tag.strip().removeprefix("W/") in (etag, "*") for tag in field.split(","))


def _asked_range(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """First and last byte asked for (RFC 9110, section 14), or None for the whole file."""
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
            return None  # not a valid range at all: to be ignored
        raise Problem("range_not_satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return start, end
