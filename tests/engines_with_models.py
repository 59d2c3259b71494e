"""An engine for tests that has one model, which an option names.

umrgen work --engine engines_with_models:ModelEngine --engine-option model=first        (with this folder on PYTHONPATH)
"""

from typing import TYPE_CHECKING

import numpy as np

from umrgen.server.engines import DrawTask, EngineInfo, Report

if TYPE_CHECKING:
    from umrgen.server.engines import Pixels

__all__ = ["ENGINE", "ModelEngine"]

ENGINE = "engines_with_models:ModelEngine"


class ModelEngine:
    """Draws one colour."""

    def __init__(self, model: str, max_side: int = 2048) -> None:
        self.info = EngineInfo(f"painter {model}", "model", "1", models=(model,), max_side=max_side)

    def load(self) -> None:
        """Nothing to load."""

    def draw(self, task: DrawTask, report: Report) -> "list[Pixels]":
        return [np.full((task.request.height, task.request.width, 3), task.request.seed % 256, np.uint8)]
