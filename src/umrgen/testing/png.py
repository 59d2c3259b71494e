"""PNG files for tests, without any image library."""

import math
import random
import struct
import zlib

from umrgen.image_files import png_chunk

__all__ = ["flat_png", "png_bytes"]


def png_bytes(size: int = 400, *, seed: int = 0) -> bytes:
    """A valid PNG of about `size` bytes of noise, which cannot be compressed. Seeds differ in their images."""
    width = max(1, math.isqrt(size // 3))
    height = max(1, (size - 80) // (3 * width + 1))
    noise = random.Random(seed)
    rows = b"".join(b"\0" + noise.randbytes(3 * width) for _ in range(height))
    return _png(width, height, rows)


def flat_png(width: int, height: int, *, seed: int = 0) -> bytes:
    """A valid PNG of one colour, with this size in pixels. Seeds differ in their colours."""
    return _png(width, height, (b"\0" + random.Random(seed).randbytes(3) * width) * height)


def _png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows, 1)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
