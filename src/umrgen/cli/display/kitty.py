"""The graphics protocol of kitty (also of Ghostty and Konsole): PNG as Base64, in chunks."""

from base64 import b64encode

from umrgen.cli.display.detection import Screen
from umrgen.cli.display.pixels import as_png, size_of

__all__ = ["kitty_sequence"]

CHUNK = 4096
"""Bytes of Base64 in one sequence, the most that the protocol allows."""


def kitty_sequence(data: bytes, screen: Screen) -> bytes | None:
    """Return the sequences that show an image at the cursor; None when it cannot be converted to PNG.

    The number of rows follows from that of columns. `q=2` suppresses the terminal's response, which the shell would
    read.
    """
    png, size = as_png(data), size_of(data)
    if png is None or size is None:
        return None
    columns, _ = screen.area(*size)
    text = b64encode(png)
    chunks = [text[at : at + CHUNK] for at in range(0, len(text), CHUNK)]
    first = f"a=T,f=100,q=2,c={columns},".encode()
    return b"".join(
        b"\x1b_G" + (b"" if number else first) + b"m=%d;" % (number < len(chunks) - 1) + chunk + b"\x1b\\"
        for number, chunk in enumerate(chunks)
    )
