"""From what an engine returns to files: PNG with provenance, and small JPEG previews."""

import logging
from io import BytesIO
from typing import TYPE_CHECKING

from umrgen.server.engines import DrawTask, EncodedImage, EngineInfo
from umrgen.server.engines.provenance import source_type, text_chunks
from umrgen.server.png import encode_png

if TYPE_CHECKING:
    from PIL import Image

    from umrgen.server.engines import Pixels

__all__ = ["encoded", "preview_jpeg"]

log = logging.getLogger(__name__)

PREVIEW_SIDE = 384
"""Pixels; the longer side of a preview."""
LARGEST_PREVIEW = 16 << 20
"""Bytes, and pixels, of a preview that an engine encoded."""


def encoded(image: "Pixels | EncodedImage", task: DrawTask, info: EngineInfo) -> EncodedImage:
    """Return the image as a file. Pixels become a PNG that says how it was made; an encoded image stays as it is.

    Raises ValueError for pixels of another shape or type.
    """
    if isinstance(image, EncodedImage):
        return image
    data = encode_png(image, text_chunks(task, info), source_type=source_type(info))
    return EncodedImage(data, "image/png")


def preview_jpeg(image: "Pixels | EncodedImage") -> bytes:
    """Return a small JPEG of an unfinished image; b"" for one that cannot be decoded, or is too large."""
    from PIL import Image

    try:
        if isinstance(image, EncodedImage):
            with Image.open(BytesIO(image.data[:LARGEST_PREVIEW]), formats=("PNG", "JPEG", "WEBP")) as picture:
                if picture.width * picture.height > LARGEST_PREVIEW:
                    return b""
                picture.draft("RGB", (PREVIEW_SIDE, PREVIEW_SIDE))
                return _thumbnail(picture.convert("RGB"))
        return _thumbnail(Image.fromarray(image))
    except Exception:  # the decoder raises many types, and a preview is not worth the loss of the job
        log.info("a preview of the engine cannot be decoded")
        return b""


def _thumbnail(picture: "Image.Image") -> bytes:
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    result = BytesIO()
    picture.save(result, "JPEG", quality=70)
    return result.getvalue()
