"""Sequences through tmux, which passes them to the terminal with its option `allow-passthrough`."""

from collections.abc import Mapping

__all__ = ["passed_through"]

ESCAPE = b"\x1b"


def passed_through(sequence: bytes, environment: Mapping[str, str]) -> bytes:
    """Return each sequence of kitty or iTerm2 wrapped for tmux; Sixel unchanged, which tmux itself draws."""
    if not environment.get("TMUX") or sequence.startswith(ESCAPE + b"P"):
        return sequence
    end = b"\x1b\\" if sequence.startswith(ESCAPE + b"_") else b"\x07"
    parts = [part + end for part in sequence.split(end) if part]
    return b"".join(b"\x1bPtmux;" + part.replace(ESCAPE, ESCAPE * 2) + b"\x1b\\" for part in parts)
