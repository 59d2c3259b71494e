"""Writing an image to a device, a pipe or a descriptor."""

import errno
import os
import select
from pathlib import Path

from umrgen.client.flow import CallContext
from umrgen.client.target import descriptor_of
from umrgen.clock import Clock
from umrgen.errors import TargetUnusable

__all__ = ["write_stream"]

CHUNK = 4096
"""Bytes that a pipe takes without blocking when it is ready at all (PIPE_BUF on Linux)."""
INTERVAL = 0.02
"""Seconds between two checks of a pipe that is not ready."""


async def write_stream(target: Path, data: bytes, context: CallContext, clock: Clock) -> None:
    """Write all of `data`, within the deadline of the call. Raises OSError, TargetUnusable and WaitTimeout."""
    descriptor = await _opened(target, context, clock)
    try:
        rest = memoryview(data)
        while rest:
            if _is_ready(descriptor):
                rest = rest[os.write(descriptor, rest[:CHUNK]) :]
            else:
                await _pause(target, context, clock)
    except BrokenPipeError:
        raise TargetUnusable(f"{target} was closed by its reader", next="Fetch the image again.") from None
    finally:
        os.close(descriptor)


async def _opened(target: Path, context: CallContext, clock: Clock) -> int:
    inherited = descriptor_of(target)
    if inherited is not None:
        return os.dup(inherited)  # opened again, a redirected file would be written from its first byte
    while True:
        try:
            descriptor = os.open(target, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            await _pause(target, context, clock)  # a pipe without a reader
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def _is_ready(descriptor: int) -> bool:
    try:
        return bool(select.select([], [descriptor], [], 0)[1])
    except (OSError, ValueError):  # `select` does not support this kind of file
        return True


async def _pause(target: Path, context: CallContext, clock: Clock) -> None:
    context.observe(clock.monotonic())
    if context.time_left <= 0:
        raise TargetUnusable(f"{target} was not read in time", next="Fetch the image again.")
    await clock.sleep(INTERVAL)
