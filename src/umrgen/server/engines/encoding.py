"""From what an engine returns to files: PNG with provenance, and small JPEG previews."""

from io import BytesIO
from typing import TYPE_CHECKING

from umrgen.server.engines import DrawTask, EncodedImage, EngineInfo
from umrgen.server.engines.provenance import source_type, text_chunks
from umrgen.server.png import encode_png

if TYPE_CHECKING:
    from umrgen.server.engines import Pixels

__all__ = ["encoded", "preview_jpeg"]

PREVIEW_SIDE = 384
"""Pixels; the longer side of a preview."""


def encoded(image: "Pixels | EncodedImage", task: DrawTask, info: EngineInfo) -> EncodedImage:
    """Return the image as a file. Pixels become a PNG that says how it was made; an encoded image stays as it is.

    Raises ValueError for pixels of another shape or type.
    """
    if isinstance(image, EncodedImage):
        return image
    data = encode_png(image, text_chunks(task, info), source_type=source_type(info))
    return EncodedImage(data, "image/png")


def preview_jpeg(image: "Pixels | EncodedImage") -> bytes:
    """Return a small JPEG of an unfinished image."""
    from PIL import Image

    picture = Image.open(BytesIO(image.data)) if isinstance(image, EncodedImage) else Image.fromarray(image)
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    result = BytesIO()
    picture.convert("RGB").save(result, "JPEG", quality=70)
    return result.getvalue()
