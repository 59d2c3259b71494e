"""Answers in JSON."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

__all__ = ["json_response"]


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that is true now and need not be later: never cached."""
    return Response(
        msgspec.json.encode(body),
        status,
        {"Cache-Control": "no-store"} | dict(headers or {}),
        media_type="application/json",
    )
