"""Thumbnails: small WebP files that state how their image was made, without the prompt."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

from umrgen.provenance import mark, read
from umrgen.text import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from umrgen.provenance import Provenance

__all__ = ["LARGEST", "SIDE", "prepare", "thumbnail", "thumbnail_of_file"]

log = logging.getLogger(__name__)

SIDE = 384
"""Pixels; the longer side of a thumbnail."""
LARGEST = 18_000
"""Bytes of a thumbnail: 48 of them, and the list that names them, are less than a megabyte."""
QUALITIES = (75, 50, 20)
"""WebP's qualities, from 0 to 100, until the file is small enough. A photograph needs the first or second."""
EFFORT = 1
"""WebP's method, from 0 to 6. 2 takes a third longer for files that are as large; 4 takes three times as long."""
MAX_PIXELS = 64_000_000


def prepare() -> None:
    """Load the libraries, which takes a fraction of a second the first time."""
    from PIL import Image

    _webp(Image.new("RGB", (1, 1)), QUALITIES[0])


def thumbnail(pixels: "NDArray[np.uint8]", record: "Provenance | None") -> bytes:
    """Return the thumbnail of RGB pixels of shape (height, width, 3); `record`: that of the image."""
    from PIL import Image

    return _encoded(Image.fromarray(pixels), record)


def thumbnail_of_file(data: bytes, record: "Provenance | None" = None) -> bytes:
    """Return the thumbnail of an image file; b"" for one that cannot be decoded, or has more than MAX_PIXELS.

    `record`: the image's; None: the one in the file, if it has one.
    """
    from PIL import Image

    try:
        with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                return b""
            image.draft("RGB", (SIDE, SIDE))
            return _encoded(image.convert("RGB"), record or read(data))
    except Exception as error:  # the decoder raises many types, and there is still the image itself
        log.warning("no thumbnail of an image can be made: %s", printable(repr(error)))
        return b""


def _encoded(image: "Image.Image", record: "Provenance | None") -> bytes:
    small = image.resize(_size(image), _filter(), reducing_gap=1.0)
    for data in _files(small):
        marked = mark(data, _brief(record)) if record else data
        if len(marked) <= LARGEST:
            return marked
    return b""


def _size(image: "Image.Image") -> tuple[int, int]:
    """Return the size of the thumbnail; a small image keeps its own."""
    scale = min(1.0, SIDE / max(image.size))
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _filter() -> Any:
    from PIL import Image

    return Image.Resampling.HAMMING


def _files(image: "Image.Image") -> Iterator[bytes]:
    """Yield files of the image, each smaller than the one before; the last has half of its size."""
    for quality in QUALITIES:
        yield _webp(image, quality)
    yield _webp(image.reduce(2), QUALITIES[-1])


def _webp(image: "Image.Image", quality: int) -> bytes:
    file = BytesIO()
    image.save(file, "WEBP", quality=quality, method=EFFORT)
    return file.getvalue()


def _brief(record: "Provenance") -> "Provenance":
    """Return the record without what can be long; the image has the whole one."""
    return replace(record, prompt=None, negative=None, loras=(), references=())
