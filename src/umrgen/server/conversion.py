"""PNG to JPEG or WebP, for callers that ask for these types."""

import asyncio
from io import BytesIO

__all__ = ["convert"]

XMP = "XML:com.adobe.xmp"
"""The text chunk of a PNG that has its XMP packet."""


async def convert(data: bytes, media_type: str, *, quality: int) -> bytes:
    """Return an image that this server has verified as a file of another type, with its XMP packet; on a thread.

    `quality`: 0 to 100. A file that has the type already is returned as it is.
    """
    return await asyncio.to_thread(_convert, data, media_type, quality)


def _convert(data: bytes, media_type: str, quality: int) -> bytes:
    from PIL import Image

    kind = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}[media_type]
    with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
        if image.format == kind:
            return data
        xmp = image.info.get(XMP) or image.info.get("xmp") or b""
        result = BytesIO()
        extra = {"xmp": xmp.encode() if isinstance(xmp, str) else xmp} if xmp and kind != "PNG" else {}
        image.convert("RGB").save(result, kind, quality=quality, **extra)
        return result.getvalue()
