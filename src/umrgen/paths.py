"""Default paths on this machine."""

import os
from pathlib import Path

__all__ = ["data_home"]


def data_home() -> Path:
    """Return our folder in the user's data folder (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "umrgen"
