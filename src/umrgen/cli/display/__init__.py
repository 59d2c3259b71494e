"""Showing an image in the terminal, by the protocols of kitty and iTerm2, or as Sixel.

Nothing of the image's file reaches the terminal as text: its bytes are encoded as Base64, or its pixels as Sixel.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from umrgen.cli.common import F
from umrgen.cli.display.detection import PROTOCOLS, SETTING, Screen, chosen_protocol, in_multiplexer

if TYPE_CHECKING:
    from umrgen.cli.common import CommandOutput
    from umrgen.image_files import SavedImage

__all__ = ["display", "display_option", "show_images"]

LARGEST_FILE = 20_000_000
"""Bytes of a file above which it is not displayed."""
MOST = 4
"""Images of one command that are displayed."""


def display_option(command: F) -> F:
    """Add --display and --no-display, as `displayed`: None when neither is given."""
    return click.option(
        "--display/--no-display",
        "displayed",
        default=None,
        help=f"Show the image in the terminal, if it can ({', '.join(PROTOCOLS)}). [{SETTING}]",
    )(command)


def show_images(images: "Sequence[SavedImage]", displayed: bool | None, output: "CommandOutput") -> None:
    """Show the first of some saved images; none with JSON on stdout. See `display`."""
    files = [image.path for image in images[:MOST] if image.content is None and image.path.is_file()]
    if files and not output.machine_readable:
        display(files, displayed)


def display(files: Iterable[Path], displayed: bool | None) -> None:
    """Show image files on stdout, when it is a terminal that can show images; otherwise do nothing.

    `displayed` is that of `display_option`: False turns this off, and True applies although UMRGEN_DISPLAY is off.
    """
    protocol = chosen_protocol(displayed, os.environ)
    if protocol is None:
        return
    screen = Screen.of(sys.stdout.fileno())
    for file in files:
        with suppress(OSError):  # a file that was removed is not displayed
            sequence = _sequence(protocol, file, screen)
            if sequence is not None:
                _write(sequence)


def _sequence(protocol: str, file: Path, screen: Screen) -> bytes | None:
    """Return the sequence that shows a file; None when it cannot be shown. Raises OSError."""
    from umrgen.cli.display.iterm import iterm_sequence
    from umrgen.cli.display.kitty import kitty_sequence
    from umrgen.cli.display.multiplexer import passed_through
    from umrgen.cli.display.sixel import sixel_sequence

    if file.stat().st_size > LARGEST_FILE:
        return None
    make = {"kitty": kitty_sequence, "iterm": iterm_sequence, "sixel": sixel_sequence}[protocol]
    sequence = make(file.read_bytes(), screen)
    if sequence is not None and in_multiplexer(os.environ):
        return passed_through(sequence, os.environ)
    return sequence


def _write(sequence: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(sequence + b"\n")
    sys.stdout.buffer.flush()
