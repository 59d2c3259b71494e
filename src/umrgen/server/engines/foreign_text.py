"""Texts of ComfyUI and its nodes, reduced to a short line without a path."""

import re

from umrgen.text import printable

__all__ = ["first_line", "is_out_of_memory"]

_QUOTED_PATH = re.compile(r"""(["'`])(?:file:|[A-Za-z]:[\\/]|~?/|\\\\)[^"'`]*\1""")
_PATH = re.compile(r"(?:file:/*|(?<![\w.])[A-Za-z]:[\\/]|\\\\|(?<![\w.])~?/)[^\s\"'`,;)\]>]+")
_FRAME = re.compile(r"^(?:Traceback|File |\^)")
LONGEST = 200
"""Characters of a shown line."""
EXAMINED = 20_000
"""Characters of a text that are searched for a line to show."""


def first_line(text: str) -> str:
    """Return the first line that is no part of a traceback, printable, with `…` in the place of each path."""
    for line in text[:EXAMINED].splitlines():
        stripped = line.strip()
        if stripped and not line.startswith("  ") and not _FRAME.match(stripped):
            return printable(_PATH.sub("…", _QUOTED_PATH.sub("…", stripped)), LONGEST)
    return ""


def is_out_of_memory(exception_type: str, message: str) -> bool:
    """Return whether a node failed for lack of the device's memory."""
    lowered = message[:EXAMINED].lower()
    return (
        exception_type.rpartition(".")[2] in ("OutOfMemoryError", "OOM_EXCEPTION")
        or "out of memory" in lowered
        or lowered.startswith("allocation on device")
    )
