"""`umrgen engine check`: load the engine of the settings, and draw one small image."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from umrgen.clock import SystemClock
from umrgen.errors import UmrgenError
from umrgen.model import LIMITS
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask, EngineCrashed, EngineFailure, EngineInfo
from umrgen.server.executors import Executor, VerifiedImage
from umrgen.server.implementations import make_executor
from umrgen.server.settings import Settings

__all__ = ["EngineCheck", "check_engine"]

POLL = 0.2
"""Seconds between two looks at the reason why the engine is not loaded."""
PROMPT = "a lighthouse on a cliff at dusk"


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """The engine as it described itself, the first image, and how long both took."""

    info: EngineInfo
    image: VerifiedImage
    load_seconds: float
    draw_seconds: float


async def check_engine(settings: Settings, progress: Callable[[str], None]) -> EngineCheck:
    """Load the engine and draw; `progress` is called with one line for each stage. Raises UmrgenError."""
    clock = SystemClock()
    executor = make_executor(settings, clock)
    try:
        progress(f"loading the engine {settings.engine}")
        began = clock.monotonic()
        info = await _loaded(executor)
        loaded = clock.monotonic()
        progress(f"drawing an image of {_side(info)} × {_side(info)} pixels in {info.default_steps} steps")
        request = GenerationRequest(
            PROMPT, secrets.randbits(32), width=_side(info), height=_side(info), steps=info.default_steps
        )
        task = DrawTask(f"ext_check_{secrets.token_hex(8)}", request)  # an engine may return the images of a known id
        (image, *_) = await executor.run(task, lambda step, total: None)
        return EngineCheck(info, image, loaded - began, clock.monotonic() - loaded)
    except (EngineFailure, EngineCrashed) as error:
        raise UmrgenError(f"the engine {settings.engine} did not draw: {error}", code=error.code) from None
    finally:
        await executor.stop()


async def _loaded(executor: Executor) -> EngineInfo:
    """Wait until the engine is loaded. Raises UmrgenError as soon as an attempt has failed."""
    ready = asyncio.ensure_future(executor.ready())
    try:
        while not (await asyncio.wait({ready}, timeout=POLL))[0]:
            if executor.trouble:
                raise UmrgenError(f"the engine cannot be loaded: {executor.trouble}", code="engine_unavailable")
        await ready
    finally:
        ready.cancel()
    assert executor.info is not None
    return executor.info


def _side(info: EngineInfo) -> int:
    """Return the smallest side of at least 512 pixels that the engine draws."""
    least = max(LIMITS.side_min, info.min_side)
    return -(-least // info.size_multiple) * info.size_multiple
