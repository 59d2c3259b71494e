"""Small copies of images, for models."""

import asyncio
from io import BytesIO

from umrgen.errors import UmrgenError

__all__ = ["small_jpeg"]

LIMIT = 40_000
"""Bytes of the JPEG at most: in base64 still under the limits of hosts on the size of an answer."""
SIDES = (512, 384, 256, 128)
"""Pixels of the longer side, in the order in which they are tried."""


async def small_jpeg(image: bytes) -> bytes:
    """Return a JPEG of at most LIMIT bytes, made on a thread. Raises UmrgenError for data that is no image."""
    return await asyncio.to_thread(_small_jpeg, image)


def _small_jpeg(image: bytes) -> bytes:
    from PIL import Image

    try:
        with Image.open(BytesIO(image), formats=("PNG", "JPEG", "WEBP")) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        raise UmrgenError("the image cannot be decoded", next="Download the file, and check it.") from None
    for side in SIDES:
        copy = picture.copy()
        copy.thumbnail((side, side))
        result = BytesIO()
        copy.save(result, "JPEG", quality=80)
        if result.tell() <= LIMIT:
            break
    return result.getvalue()
