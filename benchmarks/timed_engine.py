"""An engine that simulates the time of a drawing, and notes when each drawing begins and ends."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from umrgen.server.engines import DrawTask, EngineInfo, Report

if TYPE_CHECKING:
    from umrgen.server.engines import Pixels


class TimedEngine:
    """Draws a grey image after some seconds."""

    info = EngineInfo("timed", "procedural", "1")

    def __init__(self, seconds: float = 0.0, notes: str = "") -> None:
        """`notes`: a file to which a line with the monotonic times of begin and end is appended for each drawing."""
        self._seconds = seconds
        self._notes = Path(notes) if notes else None

    def load(self) -> None:
        """Nothing to load."""

    def draw(self, task: DrawTask, report: Report) -> "list[Pixels]":
        begun = time.monotonic()
        request = task.request
        report(1, request.steps, None)
        time.sleep(self._seconds)
        image = np.full((request.height, request.width, 3), 128, np.uint8)
        if self._notes is not None:
            with self._notes.open("a") as notes:
                notes.write(f"{begun} {time.monotonic()}\n")
        return [image]
