"""The width of text in a terminal, in cells: most characters take one, those of East Asia and emoji two."""

import os
import shutil
from contextlib import suppress
from typing import TextIO
from unicodedata import category, east_asian_width

__all__ = ["cell_width", "cut", "padded", "terminal_columns", "terminal_size"]

_EMOJI_STYLE = "\N{VARIATION SELECTOR-16}"


def cell_width(text: str) -> int:
    """Return the number of cells that a printable text takes."""
    return sum(map(_width, text))


def _width(char: str) -> int:
    if char == _EMOJI_STYLE:
        return 1  # some terminals widen the character before it
    if category(char) in ("Mn", "Me"):
        return 0
    return 2 if east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return a printable text that takes at most `width` cells; a text that is cut ends with an ellipsis."""
    if cell_width(text) <= width:
        return text
    left, kept = width - 1, []
    for char in text:
        left -= _width(char)
        if left < 0:
            break
        kept.append(char)
    return "".join(kept).rstrip() + "…" if width > 0 else ""


def padded(text: str, width: int) -> str:
    """Return the text with spaces after it, up to `width` cells."""
    return text + " " * (width - cell_width(text))


def terminal_size(stream: TextIO) -> os.terminal_size:
    """Return the size of the terminal of a stream; of stdout's, or else 80 × 24, when it is none or states no size."""
    with suppress(OSError, ValueError):  # not a terminal, or closed
        size = os.get_terminal_size(stream.fileno())
        if size.columns and size.lines:
            return size
    return shutil.get_terminal_size()


def terminal_columns(stream: TextIO) -> int:
    """Return the columns of a stream's terminal, at least 20. The last stays empty: some terminals wrap there."""
    return max(20, terminal_size(stream).columns - 1)
