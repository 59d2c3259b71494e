"""The built-in engine: it composes a scene from the words of the prompt, with numpy and without a model."""

from typing import TYPE_CHECKING

from umrgen.server.engines import DrawTask, EngineInfo, Report

if TYPE_CHECKING:
    from umrgen.server.engines import Pixels

__all__ = ["ProceduralEngine"]


class ProceduralEngine:
    """Draws in under a second on any machine: for trials, for tests, and for machines without a GPU."""

    info = EngineInfo("procedural", "procedural", "1", features=("previews", "references", "negative"))

    def __init__(self, *, step_delay: float = 0.0) -> None:
        """`step_delay`: seconds to wait after each step, for demonstrations."""
        if isinstance(step_delay, bool) or not isinstance(step_delay, int | float) or not 0 <= step_delay <= 3600:
            raise ValueError(f"step_delay must be 0 to 3600 seconds; got {step_delay!r}")
        self._step_delay = step_delay

    def load(self) -> None:
        """Import numpy and the scenes."""
        from umrgen.server.engines.procedural import drawing  # noqa: F401

    def draw(self, task: DrawTask, report: Report) -> "list[Pixels]":
        """See `Engine.draw`."""
        from umrgen.server.engines.procedural.drawing import draw

        return [draw(task, report, self._step_delay)]
