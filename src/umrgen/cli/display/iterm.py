"""The inline images of iTerm2 (also of WezTerm): the file as Base64."""

from base64 import b64encode

from umrgen.cli.display.detection import Screen
from umrgen.cli.display.pixels import size_of

__all__ = ["iterm_sequence"]


def iterm_sequence(data: bytes, screen: Screen) -> bytes | None:
    """Return the sequence that shows an image at the cursor; None for a file that is not an image."""
    size = size_of(data)
    if size is None:
        return None
    columns, rows = screen.area(*size)
    options = f"inline=1;size={len(data)};width={columns};height={rows};preserveAspectRatio=1"
    return b"\x1b]1337;File=" + options.encode() + b":" + b64encode(data) + b"\x07"
