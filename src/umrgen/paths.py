"""Where this machine keeps what is ours."""

import os
from pathlib import Path

__all__ = ["data_home"]


def data_home() -> Path:
    """The folder for a user's data (XDG Base Directory Specification), ours in it."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "umrgen"
