"""Sixel: bands of six rows of pixels, each colour of a band drawn by itself (DEC STD 070)."""

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from umrgen.cli.display.detection import Screen
from umrgen.cli.display.pixels import decoded, size_of

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["encode", "sixel_sequence"]

COLOURS = 256
BAND = 6
"""Rows of pixels of one character."""
_RUN = re.compile(rb"(.)\1{3,}", re.DOTALL)
_TO_CHARACTERS = bytes(range(63, 127)) + bytes(192)
"""The character for each pattern of six pixels, of which the lowest bit is the highest row."""


def sixel_sequence(data: bytes, screen: Screen) -> bytes | None:
    """Return the sequence that shows an image at the cursor; None without Pillow, and when it cannot be decoded."""
    size = size_of(data)
    image = decoded(data) if size is not None else None
    if image is None:
        return None
    columns, rows = screen.area(*image.size)
    scale = min(columns * screen.cell_width / image.width, rows * screen.cell_height / image.height, 1)
    small = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    return encode(small.quantize(COLOURS))


def encode(image: "Image.Image") -> bytes:
    """Return an image with a palette as Sixel."""
    palette = bytes(image.getpalette("RGB") or ())
    pixels, width = image.tobytes(), image.width
    rows = [pixels[at : at + width] for at in range(0, len(pixels), width)]
    colours = b"".join(
        b"#%d;2;%d;%d;%d" % (number, *(round(part / 2.55) for part in palette[3 * number : 3 * number + 3]))
        for number in range(len(palette) // 3)
    )
    bands = b"-".join(b"$".join(_band(rows[at : at + BAND], width)) for at in range(0, len(rows), BAND))
    return b'\x1bP0;1q"1;1;%d;%d' % (width, image.height) + colours + bands + b"\x1b\\"


@cache
def _mask(colour: int, number: int) -> bytes:
    """Return the table for `bytes.translate` that has the bit of a row for one colour, and 0 for all others."""
    return bytes(1 << number if value == colour else 0 for value in range(256))


def _band(rows: list[bytes], width: int) -> Iterator[bytes]:
    """Yield the pixels of each colour in a band."""
    for colour in sorted(set().union(*rows)):
        bits = 0
        for number, row in enumerate(rows):
            bits |= int.from_bytes(row.translate(_mask(colour, number)))
        characters = bits.to_bytes(width).translate(_TO_CHARACTERS)
        yield b"#%d" % colour + _RUN.sub(lambda run: b"!%d%c" % (len(run[0]), run[1][0]), characters)
