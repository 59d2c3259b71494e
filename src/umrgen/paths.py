"""Default paths on this machine, and paths as a user writes them."""

import os
from pathlib import Path

from umrgen.errors import UmrgenError

__all__ = ["data_home", "user_path"]


def data_home() -> Path:
    """Return our folder in the user's data folder (XDG Base Directory Specification).

    Raises UmrgenError for a user without a home folder.
    """
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    try:
        return Path(base).expanduser() / "umrgen"
    except RuntimeError:
        raise UmrgenError(
            "this user has no home folder", code="no_home", next="Set HOME or XDG_DATA_HOME to a writable folder."
        ) from None


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` expanded; unchanged when there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
