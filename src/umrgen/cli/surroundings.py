"""The standard streams of the command line, as the process got them: closed, full, or in another encoding."""

import codecs
import os
import sys
import warnings
from typing import TextIO

import click

from umrgen.errors import UmrgenWarning

__all__ = ["close_stdout", "prepare_streams"]


def prepare_streams() -> None:
    """Make the standard streams safe to use; print warnings of Python as one line."""
    _open_missing()
    codecs.register_error("umrgen", _replacement)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="umrgen")
    warnings.showwarning = _print_warning
    warnings.simplefilter("ignore", UmrgenWarning)  # the command prints the event


def _open_missing() -> None:
    """Open the null device for each standard descriptor that is closed, so that no socket gets its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _replacement(error: UnicodeError) -> tuple[bytes | str, int]:
    """Return the original bytes of a file name, and `?` for a character that the stream's encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    parts = [bytes([ord(char) - 0xDC00]) if "\udc80" <= char <= "\udcff" else b"?" for char in text]
    return b"".join(parts), error.end


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    click.echo(f"umrgen: warning: {message}", err=True)


def close_stdout() -> None:
    """Send what is still buffered for stdout to the null device, after a write to it has failed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
