"""Decode one image of a caller, as a process with resource limits, which gets the image as its standard input.

`python -m umrgen.server.reencode` writes the size, and the pixels as a PNG. Everything else is dropped: a location in
EXIF, data after the end. `python -m umrgen.server.reencode keep` also writes an archive of the image's C2PA manifest,
by which a signed image that is drawn from it states its origin; "" without a manifest, or for one that is too large.
`python -m umrgen.server.reencode inspect TRUST WATERMARK` writes JSON: the image's C2PA manifest, for which the signers
of the roots in TRUST are trusted, the perceptual hashes to search for, and the payload of the WATERMARK; both can be
"".
"""

import json
import os
import resource
import struct
import sys
import warnings
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["HEAD", "INSPECT", "KEEP", "MAX_PIXELS", "REFUSALS"]

INSPECT, KEEP = "inspect", "keep"
"""The arguments for the other ways."""
HEAD = struct.Struct(">III")
"""Width and height, and the length of the archive, which precedes the PNG."""
MAX_PIXELS = 32_000_000
MAX_SIDE = 2048
"""Pixels; a larger image is scaled down."""
JPEG, SCAN, MAX_SCANS = b"\xff\xd8", b"\xff\xda", 100
"""A progressive image has some ten scans. Each scan is decoded over the whole image, so thousands are an attack."""
MEMORY = 1 << 30
CPU_SECONDS = 15

REFUSALS = {
    10: "the file is not a PNG, JPEG or WebP image",
    11: f"the image has more than {MAX_PIXELS // 1_000_000} million pixels",
    12: "the image is broken",
}


def _limit() -> None:
    os.nice(10)  # the server and its engine have priority
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread reserves address space, which RLIMIT_AS counts


def _opened(data: bytes) -> "Image.Image":
    """Return the image, not decoded yet. Exits with the code of a refusal."""
    from PIL import Image, UnidentifiedImageError

    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None  # checked below, before anything is decoded
    if data.startswith(JPEG) and data.count(SCAN) > MAX_SCANS:
        sys.exit(12)
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=["PNG", "JPEG", "WEBP"])
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        sys.exit(10)
    if image.width * image.height > MAX_PIXELS:
        sys.exit(11)
    return image


def _pixels(image: "Image.Image") -> "Image.Image":
    """Return the image as it is shown, in RGB, of at most MAX_SIDE pixels a side."""
    import numpy
    from PIL import Image, ImageOps

    image.load()
    if image.mode.startswith("I"):  # 16 bit grey; convert() would clip values above 255
        image = Image.fromarray((numpy.asarray(image).astype(numpy.uint32) >> 8).astype(numpy.uint8))
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    plain = upright.convert("RGB")
    plain.thumbnail((MAX_SIDE, MAX_SIDE))
    return plain


def _encoded(data: bytes, plain: "Image.Image", keep: bool) -> bytes:
    import numpy

    from umrgen.server.png import encode_png

    encoded, archive = encode_png(numpy.asarray(plain)), b""
    if keep:
        from umrgen.server.signing.ingredients import archived, with_origin

        archive = archived(data)
        encoded = with_origin(encoded, data) if archive else encoded
    return HEAD.pack(*plain.size, len(archive)) + archive + encoded


def _inspected(data: bytes, plain: "Image.Image", trust: str, watermark: str) -> bytes:
    import numpy

    from umrgen.provenance import verify
    from umrgen.server.query_hashes import query_hashes
    from umrgen.server.watermark import detected, load_watermark

    payload = detected(load_watermark(watermark), numpy.asarray(plain)) if watermark else None
    manifest = verify(data, trust=trust or None).manifest.as_dict()
    hashes = [[part.hex() for part in each] for each in query_hashes(plain)]
    found = {"hashes": hashes, "manifest": manifest, "watermark": payload.hex() if payload else None}
    return json.dumps(found).encode()


def main() -> None:
    _limit()
    data = sys.stdin.buffer.read()
    image = _opened(data)
    try:
        plain = _pixels(image)
        match sys.argv[1:]:
            case [mode, trust, watermark] if mode == INSPECT:
                result = _inspected(data, plain, trust, watermark)
            case arguments:
                result = _encoded(data, plain, keep=KEEP in arguments)
    except Exception:
        sys.exit(12)
    sys.stdout.buffer.write(result)


if __name__ == "__main__":
    main()
