"""Image files for tests of what the server accepts."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

MIB = 1 << 20


def encoded_image(kind: str, size: tuple[int, int] = (64, 48), seed: int = 1, **options: object) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, kind, **options)
    return encoded.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """Return a small PNG file of a large image, whose rows are all zero."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    squeezer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    rows = b"".join(squeezer.compress(row) for _ in range(height)) + squeezer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
