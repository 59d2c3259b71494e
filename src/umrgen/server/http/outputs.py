"""`GET /outputs/{session_id}/{filename}?session_id=...`: finished images, found by their record."""

import math
import re
from base64 import b64encode

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from umrgen.jobs import Output
from umrgen.server.http import Services
from umrgen.server.http.auth import address_of, asked_too_much, bearer
from umrgen.server.http.problems import Problem
from umrgen.server.http.status import to_problem
from umrgen.server.ledger import Key, OutputExpired

__all__ = ["PATH", "outputs"]

PATH = "/outputs/"

PART = 64 << 10
"""Bytes of an image that are handed to the HTTP server at a time."""
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


async def outputs(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """A plain handler ahead of the router: what it sends is large, so little else should take time."""
    request = Request(scope)
    key: Key | None = None
    try:
        session_id, _, name = scope["path"][len(PATH) :].rpartition("/")
        key = await _key_shown(services, request)
        if key is None:
            _check_manners(services, scope)
        output = await _find(services, request, session_id, name)
        data = await services.images.get(output.session_id, output.name)
        if data is None:
            raise Problem("output_not_found")
        response = _respond(request, output, data)
    except Exception as error:
        problem = to_problem(error)
        if problem.status in (403, 404):
            problem = _missed(services, scope, key) or problem
        response = problem.response()
    await response(scope, receive, send)


async def _key_shown(services: Services, request: Request) -> Key | None:
    """The caller's key, which he need not show; a wrong one is a failed login here, too."""
    headers = dict(request.headers.raw)
    if b"authorization" not in headers:
        return None
    try:
        key = await services.keys.check(bearer(headers))
    except Problem:
        return None
    if key is None:
        services.logins.record_failure(address_of(request.scope))
    return key


def _check_manners(services: Services, scope: Scope) -> None:
    """Raise Problem for an address that has guessed too often; behind it may be others, who can show a key."""
    wait = services.guesses.wait(address_of(scope))
    if wait:
        words = "too many wrong image URLs came from this address; with an API key you are let in"
        raise Problem("rate_limited", words, retry_after=math.ceil(wait))


def _missed(services: Services, scope: Scope, key: Key | None) -> Problem | None:
    """A guess went wrong: it counts against the address, or is one of a key's requests."""
    if key is None:
        services.guesses.record_failure(address_of(scope))
    elif not services.limits.take(key):
        return asked_too_much(services, key)
    return None


async def _find(services: Services, request: Request, session_id: str, name: str) -> Output:
    query = request.query_params
    if query.getlist("session_id") != [session_id]:
        raise Problem("forbidden_output", "session_id is missing or wrong")
    if services.signatures.wanted:
        path = f"/outputs/{session_id}/{name}"
        if not services.signatures.genuine(path, query.get("expires", ""), query.get("signature", "")):
            raise Problem("forbidden_output", "the signature is missing or wrong")
        if services.signatures.over(query["expires"]):
            raise Problem("output_expired", "this URL is past its time; the job's status has a fresh one")
    try:
        output = await services.ledger.output(session_id, name)
    except OutputExpired:
        raise Problem("output_expired", "this image was kept as long as images are kept here") from None
    return output or await _reference(services, session_id, name)


async def _reference(services: Services, session_id: str, name: str) -> Output:
    upload = await services.ledger.upload(session_id, name)
    if upload is None:
        raise Problem("output_not_found")
    return Output(upload.name, session_id, upload.bytes, upload.sha256, upload.width, upload.height, upload.media_type)


def _respond(request: Request, output: Output, data: bytes) -> Response:
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
    if (part := _asked_range(request, etag, len(data))) is not None:
        start, end = part
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return ImageResponse(memoryview(data)[start : end + 1], 206, headers, media_type=output.media_type)
    headers["Content-Digest"] = headers["Repr-Digest"]
    return ImageResponse(memoryview(data), 200, headers, media_type=output.media_type)


class ImageResponse(Response):
    """A response whose body is sent in parts: a client that reads slowly holds one of them, not a copy of all."""

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
