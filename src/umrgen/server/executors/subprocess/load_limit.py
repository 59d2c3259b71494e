"""The time limit for loading an engine: the setting, and more for each byte of its model."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["load_limit"]

SLOWEST_DISK = 50e6
"""Bytes per second: a network folder or an SD card; a local disk reads ten times as fast."""


def load_limit(seconds: float, options: Mapping[str, Any]) -> float:
    """Return the seconds that an engine with these options may take to load.

    `seconds` is the setting `load_timeout`. The files of the option `model`, if it is a path, add the time that a slow
    disk needs for them.
    """
    return seconds + _bytes(options.get("model")) / SLOWEST_DISK


def _bytes(model: Any) -> int:
    """Return the size of a model's file, or of all files of its folder; 0 for a name."""
    if not isinstance(model, str) or not (path := Path(model).expanduser()).exists():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(_size(Path(folder) / name) for folder, _, names in os.walk(path) for name in names)


def _size(file: Path) -> int:
    """Return the size of a file; 0 for a link whose target is missing, and for a file that was just deleted."""
    try:
        return file.stat().st_size
    except OSError:
        return 0
