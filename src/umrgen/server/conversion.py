"""PNG to JPEG or WebP, for callers that ask for these types."""

import asyncio
from io import BytesIO

from umrgen.provenance import mark, read

__all__ = ["convert"]


async def convert(data: bytes, media_type: str, *, quality: int) -> bytes:
    """Return an image that this server has verified as a file of another type, with its provenance; on a thread.

    `quality`: 0 to 100. A file that has the type already is returned as it is.
    """
    return await asyncio.to_thread(_convert, data, media_type, quality)


def _convert(data: bytes, media_type: str, quality: int) -> bytes:
    from PIL import Image

    kind = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}[media_type]
    with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
        if image.format == kind:
            return data
        result = BytesIO()
        image.convert("RGB").save(result, kind, quality=quality)
    record = read(data)
    return mark(result.getvalue(), record) if record else result.getvalue()
