"""Byte ranges (RFC 9110, section 14), for the outputs of both modes."""

import re
from dataclasses import replace

from umrgen.testing.wire import Response

__all__ = ["MEDIA_TYPES", "Unsatisfiable", "byte_range", "cut_to"]

MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


class Unsatisfiable(Exception):
    """The range begins after the end of the file."""


def byte_range(field: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte asked for, or None for the whole file. Raises Unsatisfiable."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (field or "").strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return None  # no valid range at all: to be ignored
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if start > end:
        raise Unsatisfiable
    return start, end


def cut_to(response: Response, span: tuple[int, int]) -> Response:
    """The 206 for a part of a 200."""
    start, end = span
    partial = response.with_headers({"Content-Range": f"bytes {start}-{end}/{len(response.body)}"})
    return replace(partial, status=206, body=response.body[start : end + 1])
