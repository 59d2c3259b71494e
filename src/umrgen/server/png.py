"""PNG writing: RGB pixels (W3C PNG, third edition)."""

import struct
import zlib
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from umrgen.image_files import PNG_MAGIC, png_chunk

__all__ = ["encode_png"]


isal_zlib: ModuleType | None
try:
    from isal import isal_zlib
except ImportError:  # there is no wheel for every platform
    isal_zlib = None


def _deflate(raw: bytes) -> bytes:
    """Compress Up-filtered rows: by ISA-L where it is installed, else with run lengths only, which takes longer."""
    return _deflate_rle(raw) if isal_zlib is None else isal_zlib.compress(raw, 1)


def _deflate_rle(raw: bytes) -> bytes:
    """Compress with run lengths only: the rows become as small as with level 1, in a fraction of the time."""
    packer = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    return packer.compress(raw) + packer.flush()


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return a PNG of RGB `pixels` of shape (height, width, 3). Raises ValueError for another shape or type.

    Every row uses the Up filter: the difference from the row above is one numpy subtraction, and results in runs that
    deflate compresses fast.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8 of shape (height, width, 3); got {pixels.dtype} {pixels.shape}")
    height, width, _ = pixels.shape
    flat = np.ascontiguousarray(pixels).reshape(height, width * 3)
    rows = np.empty((height, 1 + width * 3), np.uint8)
    rows[:, 0] = 2
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        [
            PNG_MAGIC,
            png_chunk(b"IHDR", header),
            png_chunk(b"IDAT", _deflate(rows.tobytes())),
            png_chunk(b"IEND", b""),
        ]
    )
