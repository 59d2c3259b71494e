"""Messages between the server and an engine's process: a JSON head and raw bytes, each with its length.

Plain lengths and JSON, never pickle: a process that can be fooled must not be able to run code here.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

__all__ = [
    "HEAD",
    "MAX_BODY",
    "MAX_HEAD",
    "MAX_TASKS_BODY",
    "MAX_TASKS_HEAD",
    "Frame",
    "FrameError",
    "pack",
    "unpack_lengths",
]

HEAD = struct.Struct(">II")
MAX_HEAD = 1 << 20
MAX_BODY = 1 << 26
"""Bytes of a message of an engine; its largest have one image."""
MAX_TASKS_HEAD, MAX_TASKS_BODY = 1 << 24, 1 << 28
"""Bytes of a message to an engine: ten reference images of a task, of 13 MB at most, and their archives."""

Frame = tuple[dict[str, Any], bytes]


class FrameError(Exception):
    """The data from the pipe is not a frame."""


def pack(head: Mapping[str, Any], body: bytes = b"") -> bytes:
    encoded = json.dumps(head, separators=(",", ":")).encode()
    return HEAD.pack(len(encoded), len(body)) + encoded + body


def unpack_lengths(prefix: bytes, most: tuple[int, int] = (MAX_HEAD, MAX_BODY)) -> tuple[int, int]:
    """Return the lengths of head and body. Raises FrameError if one of them is above `most`."""
    head, body = HEAD.unpack(prefix)
    if head > most[0] or body > most[1]:
        raise FrameError("a message is too large to be one of ours")
    return head, body
