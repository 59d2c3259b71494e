"""Redrawing a live line of progress every second, so that its elapsed time advances while nothing else changes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

__all__ = ["redrawn"]

INTERVAL = 1.0
"""Seconds between two redraws: the elapsed time is shown in whole seconds."""


@asynccontextmanager
async def redrawn(draw: Callable[[], None]) -> AsyncIterator[None]:
    """Call `draw` every second while the block runs."""
    redrawing = asyncio.create_task(_redraw(draw))
    try:
        yield
    finally:
        redrawing.cancel()


async def _redraw(draw: Callable[[], None]) -> None:
    with suppress(OSError):  # a terminal that is gone: the next line that is printed reports it
        while True:
            await asyncio.sleep(INTERVAL)
            draw()
