"""The pixels of an image for a terminal, by Pillow where it is installed."""

from io import BytesIO
from typing import TYPE_CHECKING

from umrgen.errors import OutputCorrupt, OutputMissing
from umrgen.image_files import PNG_MAGIC, verify

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["as_png", "decoded", "size_of"]


def size_of(data: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels; None for a file that is not a complete image."""
    try:
        facts = verify(data)
    except (OutputCorrupt, OutputMissing):
        return None
    return (facts.width, facts.height) if facts.width and facts.height else None


def decoded(data: bytes) -> "Image.Image | None":
    """Return the image without transparency; None without Pillow, and when it cannot be decoded."""
    try:
        from PIL import Image
    except ImportError:
        return None
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
            layer = image.convert("RGBA")
    except Exception:  # a decoder raises any kind for a damaged image
        return None
    flat = Image.new("RGB", layer.size, "white")
    flat.paste(layer, mask=layer)
    return flat


def as_png(data: bytes) -> bytes | None:
    """Return the image as PNG; None when it has another format and cannot be converted."""
    if data.startswith(PNG_MAGIC):
        return data
    image, target = decoded(data), BytesIO()
    if image is None:
        return None
    image.save(target, "PNG", compress_level=1)
    return target.getvalue()
