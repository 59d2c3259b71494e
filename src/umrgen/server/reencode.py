"""One image, decoded and encoded anew: `python -m umrgen.server.reencode < image > head + PNG`.

A process of its own with limits of its own. Whatever is hidden in the file besides its pixels, a place in
its EXIF, a script behind its end, stays behind.
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
"""Pixels; a larger image is scaled down, for no engine here draws larger ones."""
JPEG, SCAN, MAX_SCANS = b"\xff\xd8", b"\xff\xda", 100
"""A progressive image has some ten scans; each of thousands would be decoded over the whole of it."""
MEMORY = 1 << 30
CPU_SECONDS = 15

REFUSALS = {
    10: "the file is no PNG, JPEG or WebP image, whatever its name says",
    11: f"the image has more than {MAX_PIXELS // 1_000_000} million pixels",
    12: "the image is broken",
}


def main() -> None:
    os.nice(10)  # the server and its engine go first
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread reserves addresses, which are counted here
    import numpy
    from PIL import Image, ImageOps, UnidentifiedImageError

    from umrgen.server.png import encode_png

    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None  # looked at below, before anything is decoded
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
        if image.mode.startswith("I"):  # 16 bits of grey; convert() would cut off what is above 255
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
