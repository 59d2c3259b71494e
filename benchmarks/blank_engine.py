"""An engine that does almost no work, to measure the server around it."""

from typing import TYPE_CHECKING

import numpy as np

from umrgen.server.engines import DrawTask, EngineInfo, Report

if TYPE_CHECKING:
    from umrgen.server.engines import Pixels


class BlankEngine:
    """Draws a grey image for every request."""

    info = EngineInfo("blank", "procedural", "1")

    def load(self) -> None:
        """Nothing to load."""

    def draw(self, task: DrawTask, report: Report) -> "list[Pixels]":
        request = task.request
        report(1, request.steps, None)
        return [np.full((request.height, request.width, 3), 128, np.uint8)]
