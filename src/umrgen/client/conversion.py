"""Converting a verified image to the format of its file's extension, with Pillow if it is installed."""

from io import BytesIO

from umrgen.errors import OutputCorrupt, TargetUnusable
from umrgen.image_files import EXTENSIONS
from umrgen.provenance import mark, read

__all__ = ["converted"]

_FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
QUALITY = 95


def converted(data: bytes, media_type: str) -> bytes:
    """Return the image in another format, with its provenance record; for JPEG, transparent parts become white.

    Raises TargetUnusable without Pillow, and OutputCorrupt when the image cannot be decoded.
    """
    try:
        from PIL import Image
    except ImportError:
        raise TargetUnusable(
            f"the image cannot be converted to {EXTENSIONS[media_type]}: Pillow is not installed",
            next="Fetch it with another extension, or: pip install pillow",
        ) from None
    target = BytesIO()
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
            flat: Image.Image = image
            if media_type == "image/jpeg" and image.mode != "RGB":
                layer = image.convert("RGBA")
                flat = Image.new("RGB", image.size, "white")
                flat.paste(layer, mask=layer)
            flat.save(target, _FORMATS[media_type], quality=QUALITY)
    except Exception as error:  # a decoder raises any kind for a damaged image
        raise OutputCorrupt(f"the image cannot be converted: {type(error).__name__}") from None
    record = read(data)
    return mark(target.getvalue(), record) if record else target.getvalue()
