"""Reference images for a pipeline: decoded with limits, upright, opaque, of the requested size where that is needed."""

from io import BytesIO
from typing import TYPE_CHECKING

from umrgen.server.engines import EngineFailure

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["cover", "decode"]

LARGEST = 64 << 20
"""Pixels of a reference image."""


def decode(data: bytes) -> "Image":
    """Return an image as RGB, upright, on white where it is transparent. Raises EngineFailure."""
    from PIL import Image, ImageOps

    try:
        with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as opened:
            if opened.width * opened.height > LARGEST:
                raise EngineFailure(f"a reference image has {opened.width} × {opened.height} pixels, too many")
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise EngineFailure("a reference image cannot be decoded") from None
    white = Image.new("RGBA", upright.size, "white")
    return Image.alpha_composite(white, upright).convert("RGB")


def cover(image: "Image", width: int, height: int) -> "Image":
    """Return the image scaled and cropped around its center to the size."""
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
