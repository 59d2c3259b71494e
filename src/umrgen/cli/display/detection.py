"""The detection of terminals that show images: by its variables in the environment, else by one query of it."""

import os
import re
import select
import struct
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

__all__ = [
    "PROTOCOLS",
    "SETTING",
    "Screen",
    "attributes_of",
    "chosen_protocol",
    "in_multiplexer",
    "protocol_by_environment",
]

fcntl: Any = None
termios: Any = None
with suppress(ImportError):  # Windows
    import fcntl
    import termios

PROTOCOLS = ("kitty", "iterm", "sixel")
SETTING = "UMRGEN_DISPLAY"
"""off, auto (the default), or one of PROTOCOLS: then nothing is detected."""
QUERY = b"\x1b[c"
"""Primary Device Attributes, which every terminal has; 4 among them is Sixel."""
RESPONSE = re.compile(rb"\x1b\[\?([0-9;]*)c")
RESPONSE_TIME = 0.5
"""Seconds for the response to a query: a terminal has it in milliseconds, a remote one in a fraction of a second."""


@dataclass(frozen=True, slots=True)
class Screen:
    """The size of a terminal in cells, and of a cell in pixels; the latter is typical where it is not known."""

    columns: int = 80
    rows: int = 24
    cell_width: float = 8
    cell_height: float = 16

    @classmethod
    def of(cls, descriptor: int) -> "Screen":
        """Return the size of a terminal; the default one when it does not state any."""
        if fcntl is None:
            return cls()
        with suppress(OSError):
            packed = fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8))
            rows, columns, width, height = struct.unpack("HHHH", packed)
            if rows and columns:
                cell = (width / columns, height / rows) if width and height else (8, 16)
                return cls(columns, rows, *cell)
        return cls()

    def area(self, width: int, height: int) -> tuple[int, int]:
        """Return the columns and rows for an image of this size in pixels: at most its own, and most of the screen."""
        most_columns, most_rows = max(1, self.columns - 1), max(1, min(self.rows - 4, 30))
        scale = min(1.0, most_columns * self.cell_width / width, most_rows * self.cell_height / height)
        columns, rows = width * scale / self.cell_width, height * scale / self.cell_height
        return max(1, min(most_columns, round(columns))), max(1, min(most_rows, round(rows)))


def chosen_protocol(displayed: bool | None, environment: Mapping[str, str]) -> str | None:
    """Return the protocol for images on stdout; None when it is not a terminal, or cannot show any, or must not."""
    setting = environment.get(SETTING, "auto").strip().lower()
    off = displayed is False or (displayed is None and setting in ("off", "0", "no", "none", "false"))
    if off or not sys.stdout.isatty() or environment.get("TERM", "dumb") == "dumb":
        return None
    if setting in PROTOCOLS:
        return setting
    if not in_multiplexer(environment):
        known = protocol_by_environment(environment)
        if known is not None:
            return known
    return "sixel" if 4 in attributes_of(_controlling_terminal()) else None


def in_multiplexer(environment: Mapping[str, str]) -> bool:
    """Return whether tmux or screen is between this process and the terminal; then its variables do not count."""
    return bool(environment.get("TMUX") or environment.get("STY")) or environment.get("TERM", "").startswith(
        ("tmux", "screen")
    )


def protocol_by_environment(environment: Mapping[str, str]) -> str | None:
    """Return the protocol of the terminal that the variables name; None when they name none."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term in ("xterm-kitty", "xterm-ghostty") or environment.get("KITTY_WINDOW_ID") or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    return "sixel" if term.startswith(("foot", "mlterm", "contour")) else None


def _controlling_terminal() -> int | None:
    """Return a new descriptor of this process's terminal; None without one, and on Windows."""
    if termios is None:
        return None
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None


def attributes_of(terminal: int | None) -> frozenset[int]:
    """Return the numbers of a terminal's response to a query of its attributes, and close its descriptor.

    There are none without a response within RESPONSE_TIME. No query is sent from the background, where changing the
    terminal's mode would stop this process, and while there is input, which would be lost. The mode is restored.
    """
    if terminal is None or termios is None:
        return frozenset()
    try:
        if os.tcgetpgrp(terminal) != os.getpgrp():
            return frozenset()
        mode = termios.tcgetattr(terminal)
        try:
            quiet = [*mode[:3], mode[3] & ~(termios.ICANON | termios.ECHO), *mode[4:6], [*mode[6]]]
            termios.tcsetattr(terminal, termios.TCSADRAIN, quiet)
            if select.select([terminal], [], [], 0)[0]:
                return frozenset()
            os.write(terminal, QUERY)
            response = _response(terminal)
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, mode)
    except (OSError, termios.error):
        return frozenset()
    finally:
        os.close(terminal)
    return frozenset(int(number) for number in response.split(b";") if number)


def _response(terminal: int) -> bytes:
    """Return the numbers in the response of a terminal; b"" when there is none in time."""
    received, deadline = b"", time.monotonic() + RESPONSE_TIME
    while (left := deadline - time.monotonic()) > 0 and len(received) < 1000:
        if select.select([terminal], [], [], left)[0]:
            received += os.read(terminal, 100)
            if found := RESPONSE.search(received):
                return found[1]
    return b""
