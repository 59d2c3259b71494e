"""Decode one image and encode its pixels again: `python -m umrgen.server.reencode < image > head + PNG`.

Runs as a process with resource limits. Everything but the pixels is dropped: a location in EXIF, data after the end.
"""

import os
import resource
import struct
import sys
import warnings
from io import BytesIO

__all__ = ["HEAD", "MAX_PIXELS", "REFUSALS"]

HEAD = struct.Struct(">II")
"""Width and height, before the PNG."""
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


def main() -> None:
    os.nice(10)  # the server and its engine have priority
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread reserves address space, which RLIMIT_AS counts
    import numpy
    from PIL import Image, ImageOps, UnidentifiedImageError

    from umrgen.server.png import encode_png

    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None  # checked below, before anything is decoded
    data = sys.stdin.buffer.read()
    if data.startswith(JPEG) and data.count(SCAN) > MAX_SCANS:
        sys.exit(12)
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=["PNG", "JPEG", "WEBP"])
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        sys.exit(10)
    if image.width * image.height > MAX_PIXELS:
        sys.exit(11)
    try:
        image.load()
        if image.mode.startswith("I"):  # 16 bit grey; convert() would clip values above 255
            image = Image.fromarray((numpy.asarray(image).astype(numpy.uint32) >> 8).astype(numpy.uint8))
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
        plain = upright.convert("RGB")
        plain.thumbnail((MAX_SIDE, MAX_SIDE))
        encoded = encode_png(numpy.asarray(plain))
    except Exception:
        sys.exit(12)
    sys.stdout.buffer.write(HEAD.pack(*plain.size) + encoded)


if __name__ == "__main__":
    main()
