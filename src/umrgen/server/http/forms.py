"""Multipart forms, with a limit on the number of their parts, parsed on a thread."""

import asyncio
from dataclasses import dataclass

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header
from starlette.requests import Request

from umrgen.server.http.bodies import read_body
from umrgen.server.http.problems import Problem

__all__ = ["FormPart", "boundary_of", "read_form"]

MAX_PARTS = 40
ENVELOPE = 64 << 10
"""Bytes of a form in addition to its contents."""


@dataclass(frozen=True, slots=True)
class FormPart:
    """A part of a form: a file, or a field, which differs from a file only in that its sender gave no file name."""

    name: str
    content: bytes

    @property
    def text(self) -> str:
        """The content as text; invalid UTF-8 becomes U+FFFD."""
        return self.content.decode("utf-8", "replace")


def boundary_of(request: Request, expected: str) -> bytes:
    """Return the boundary of a form; `expected` describes the body in the error. Raises Problem."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 200:
        raise Problem("unsupported_media_type", f"the body must be multipart/form-data with {expected}")
    return boundary


async def read_form(request: Request, boundary: bytes, limit: int) -> list[FormPart]:
    """Return the parts of a form with at most `limit` bytes of contents. Raises Problem."""
    body = await read_body(request, limit + ENVELOPE)
    # The parser takes 0.1 ms for each part, so a body of many empty parts would take seconds.
    if body.count(b"--" + boundary) > MAX_PARTS + 1:
        raise Problem("invalid_request", f"the form must have {MAX_PARTS} parts or fewer")
    if not body.startswith(b"--"):  # a preamble, which the parser does not accept
        _, _, body = body.partition(b"\r\n--" + boundary)
        body = b"--" + boundary + body
    return await asyncio.to_thread(_parts, body, boundary)


def _parts(body: bytes, boundary: bytes) -> list[FormPart]:
    parts: list[FormPart] = []

    def on_field(field: Field) -> None:
        parts.append(FormPart(_name(field.field_name), field.value or b""))

    def on_file(file: File) -> None:
        file.file_object.seek(0)
        parts.append(FormPart(_name(file.field_name), file.file_object.read()))
        file.close()

    # The parser keeps files in memory: nothing unchecked is written to disk.
    config = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}
    try:
        parser = FormParser("multipart/form-data", on_field, on_file, boundary=boundary, config=config)
        parser.write(body)
        parser.finalize()
        parser.close()
    except FormParserError:
        raise Problem("invalid_request", "the body is not a multipart form") from None
    return parts


def _name(name: bytes | None) -> str:
    return (name or b"").decode("utf-8", "replace")
