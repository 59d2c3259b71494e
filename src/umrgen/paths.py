"""Default paths on this machine, and paths as a user writes them."""

import os
from pathlib import Path

from umrgen.errors import UmrgenError

__all__ = ["config_home", "data_home", "pictures_home", "user_path"]


def data_home() -> Path:
    """Return our folder in the user's data folder (XDG Base Directory Specification).

    Raises UmrgenError for a user without a home folder.
    """
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return _in_home(base, "Set HOME or XDG_DATA_HOME to a writable folder.") / "umrgen"


def config_home() -> Path:
    """Return our folder in the user's configuration folder (XDG Base Directory Specification).

    Raises UmrgenError for a user without a home folder.
    """
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return _in_home(base, "Set HOME or XDG_CONFIG_HOME to a writable folder.") / "umrgen"


def pictures_home() -> Path:
    """Return our folder in the user's pictures. Raises UmrgenError for a user without a home folder."""
    return _in_home("~/Pictures/umrgen", "Set HOME, or choose a folder.")


def _in_home(path: str, remedy: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UmrgenError("this user has no home folder", code="no_home", next=remedy) from None


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` expanded; unchanged when there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
