"""Messages between the server and an engine's process: a JSON head and raw bytes, each with its length.

Plain lengths and JSON, never pickle: a process that can be fooled must not be able to run code here.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

__all__ = ["HEAD", "MAX_BODY", "MAX_HEAD", "Frame", "FrameError", "pack", "unpack_lengths"]

HEAD = struct.Struct(">II")
MAX_HEAD = 1 << 20
MAX_BODY = 1 << 26

Frame = tuple[dict[str, Any], bytes]


class FrameError(Exception):
    """The data from the pipe is not a frame."""


def pack(head: Mapping[str, Any], body: bytes = b"") -> bytes:
    encoded = json.dumps(head, separators=(",", ":")).encode()
    return HEAD.pack(len(encoded), len(body)) + encoded + body


def unpack_lengths(prefix: bytes) -> tuple[int, int]:
    head, body = HEAD.unpack(prefix)
    if head > MAX_HEAD or body > MAX_BODY:
        raise FrameError("a message is too large to be one of ours")
    return head, body
