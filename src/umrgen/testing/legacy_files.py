"""The files of the first servers: static images with weak validators, and uploads judged by the extension."""

import hashlib
import re
from dataclasses import dataclass, replace
from email.parser import BytesParser
from email.utils import formatdate

from umrgen.testing.http1 import RecordedRequest, Response

__all__ = ["LegacyOutput", "file_response", "uploaded_file", "weak_etag"]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, slots=True)
class LegacyOutput:
    """A finished image."""

    name: str
    data: bytes
    media_type: str
    created: float
    """Seconds since the epoch."""


def weak_etag(size: int, text: bytes) -> str:
    """Return a weak entity tag."""
    return f'W/"{size:x}-{hashlib.sha256(text).hexdigest()[:11]}"'


def uploaded_file(request: RecordedRequest) -> tuple[str, bytes] | None:
    """Return the name and the content of a form's file; None unless its name has an accepted extension."""
    head = f"Content-Type: {request.headers.get('content-type', '')}\r\n\r\n"
    form = BytesParser().parsebytes(head.encode() + request.body)
    for part in form.walk():
        name = part.get_filename() or ""
        if name.lower().endswith(EXTENSIONS):
            content = part.get_payload(decode=True)
            return name, content if isinstance(content, bytes) else b""
    return None


def file_response(request: RecordedRequest, output: LegacyOutput) -> Response:
    """Return a static file, or a range of it, with a weak validator made of its size and name."""
    etag = weak_etag(len(output.data), output.name.encode())
    modified = formatdate(output.created, usegmt=True)
    headers = {
        "Content-Type": output.media_type,
        "Accept-Ranges": "bytes",
        "Cache-Control": "public, max-age=0",
        "ETag": etag,
        "Last-Modified": modified,
    }
    whole = Response(200, headers, output.data)
    if request.headers.get("if-range") not in (None, etag, modified):
        return whole
    return _range(whole, request.headers.get("range"))


def _range(whole: Response, field: str | None) -> Response:
    """Return the part of the file that a Range field names (RFC 9110, section 14), or all of it."""
    match, size = re.fullmatch(r"bytes=(\d*)-(\d*)", (field or "").strip()), len(whole.body)
    if match is None or not any(match.groups()):
        return whole
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return whole  # not a valid range, which is ignored
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if start > end:
        return Response(416, {"Content-Range": f"bytes */{size}"})
    partial = whole.with_headers({"Content-Range": f"bytes {start}-{end}/{size}"})
    return replace(partial, status=206, body=whole.body[start : end + 1])
