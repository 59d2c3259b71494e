"""An engine for tests, whose failure the prompt selects.

umrgen serve --engine engines_that_fail:FailingEngine        (with this folder on PYTHONPATH)
"""

import os
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask, EngineInfo, Report

if TYPE_CHECKING:
    from umrgen.server.engines import Pixels

STEP = 0.3
"""Seconds of a step of `slow` and `repeat`."""


class FailingEngine:
    """Hangs, aborts, writes invalid frames or exhausts the memory by the prompt; otherwise draws one colour."""

    info = EngineInfo("failing", "procedural", "1", features=("previews",))

    def load(self) -> None:
        """Nothing to load."""

    def draw(self, task: DrawTask, report: Report) -> "list[Pixels]":
        request = task.request
        what, _, argument = request.prompt.partition(" ")
        match what:
            case "hang":
                _hang()
            case "hang-once" if not Path(argument).exists():
                Path(argument).touch()
                _hang()
            case "abort":
                os.abort()
            case "garbage":
                _write_into_every_pipe(b"\x00\x00\x00\x05\x00\x00\x00\x00hello")
            case "vanish":
                _write_into_every_pipe(b"z" * 32)
                os._exit(3)
            case "repeat":
                while True:
                    select.select([], [], [], STEP)
                    report(1, request.steps)
            case "step":
                report(float(argument), request.steps)  # type: ignore[arg-type]  # an invalid step number
            case "small":
                return [np.zeros((8, 8, 3), np.uint8)]
            case "memory":
                _fill_memory()
            case "raise":
                raise RuntimeError(f"a message that is not for clients: {__file__}")
        for step in range(1, request.steps + 1):
            if what == "slow":
                select.select([], [], [], STEP)  # not time.sleep, which some tests replace
            report(step, request.steps, lambda: _plain(request))
        return [_plain(request)]


def _plain(request: GenerationRequest) -> "Pixels":
    return np.full((request.height, request.width, 3), request.seed % 256, np.uint8)


def _hang() -> None:
    while True:
        time.sleep(60)


def _fill_memory() -> None:
    """Allocate up to 4 GiB: a MemoryError under a limit, a RuntimeError without one."""
    held = [np.ones(1 << 24, np.uint8) for _ in range(256)]
    raise RuntimeError(f"allocated {len(held)} × 16 MiB without a limit")


def _write_into_every_pipe(data: bytes) -> None:
    for descriptor in Path("/proc/self/fd").iterdir():
        number = int(descriptor.name)
        if number > 2 and (descriptor.is_fifo() or descriptor.is_socket()):
            os.write(number, data)
