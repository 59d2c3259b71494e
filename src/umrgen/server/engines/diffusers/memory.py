"""The memory ladder: a job that does not fit is drawn with less memory, then refused; each change is undone."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from umrgen.server.engines import OutOfMemory
from umrgen.server.engines.diffusers.allocation import is_out_of_memory, released
from umrgen.server.engines.diffusers.loaded import LoadedModel, place

__all__ = ["alone", "fitting"]

log = logging.getLogger(__name__)
T = TypeVar("T")

TOO_LARGE = "it needs more memory than {device} has; lower width and height, or use fewer reference images"


def fitting(draw: Callable[[], T]) -> T | None:
    """Return the result of `draw`, or None if it ran out of memory.

    The caller tries again outside of the `except` block, because the traceback of the error holds the tensors.
    """
    try:
        return draw()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        log.warning("out of memory: %s", error)
    released()
    return None


@contextmanager
def _tiling(model: LoadedModel) -> Iterator[None]:
    """Decode the image in tiles, which changes it a little."""
    vae: Any = model.pipeline.vae
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()


def _placed(model: LoadedModel) -> bool:
    place(model.pipeline, model.plan.device, model.plan.offload)
    return True


@contextmanager
def _offloading(model: LoadedModel) -> Iterator[None]:
    """Keep only the part on the device that computes; also afterwards if all of them no longer fit."""
    place(model.pipeline, model.plan.device, "model")
    released()
    try:
        yield
    finally:
        released()
        if not fitting(lambda: _placed(model)):
            log.warning("another program has taken the memory: the model stays offloaded until it is loaded again")
            model.plan = replace(model.plan, offload="model")
            _placed(model)


Rung = Callable[[LoadedModel], Any]


def _rungs(model: LoadedModel) -> list[tuple[str, list[Rung]]]:
    """Return the ways to need less memory, from the mildest on."""
    tiled: list[Rung] = [_tiling] if hasattr(getattr(model.pipeline, "vae", None), "enable_tiling") else []
    rungs = [("VAE tiling", tiled)] if tiled else []
    if model.plan.device.startswith("cuda") and model.plan.offload == "none" and not model.plan.compile:
        rungs.append(("VAE tiling and offloading", [*tiled, _offloading]))
    return rungs


def alone(model: LoadedModel, draw: Callable[[], T]) -> T:
    """Return the result of `draw` for one job; each change of the model is undone afterwards.

    Raises OutOfMemory, with what to lower, when it does not fit in any way.
    """
    from contextlib import ExitStack

    drawn = fitting(draw)
    for name, changes in _rungs(model):
        if drawn is not None:
            return drawn
        log.warning("the job is drawn again, with %s", name)
        with ExitStack() as stack:
            for change in changes:
                stack.enter_context(change(model))
            drawn = fitting(draw)
    if drawn is None:
        raise OutOfMemory(TOO_LARGE.format(device=model.plan.device))
    return drawn
