"""What an engine reported."""

import asyncio
from collections.abc import Callable
from typing import Any

from umrgen.server.engines import Phase

__all__ = ["Reports"]


class Reports:
    """Implements `Report`."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.phases: list[Phase] = []
        self.previews: list[Any] = []
        self.stepped = asyncio.Event()

    def __call__(self, step: int, total: int, preview: Callable[[], Any] | None = None, /) -> None:
        self.steps.append((step, total))
        self.stepped.set()
        if preview is not None:
            self.previews.append(preview())

    def together(self, images: int, /) -> None: ...

    def phase(self, phase: Phase, /) -> None:
        self.phases.append(phase)
