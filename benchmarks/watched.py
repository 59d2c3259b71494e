"""`umrgen serve` with a clock on its event loop: on SIGUSR1, it writes the longest pause so far to a file.

    python benchmarks/watched.py serve ...        UMRGEN_PAUSES=file

A pause is the time between two turns of a callback that is due each millisecond: `wall` in seconds, and `cpu`, in
seconds that the thread of the loop itself has used in it, which other processes do not change.
"""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import uvloop

from umrgen.cli import main

INTERVAL = 0.001


class Clock:
    """Measures the pauses of a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, report: Path) -> None:
        self._loop = loop
        self._report = report
        self._wall = self._cpu = 0.0
        self._last = time.perf_counter(), time.thread_time()
        loop.add_signal_handler(signal.SIGUSR1, self.report)
        loop.call_soon(self._turn)

    def _turn(self) -> None:
        now = time.perf_counter(), time.thread_time()
        self._wall = max(self._wall, now[0] - self._last[0] - INTERVAL)
        self._cpu = max(self._cpu, now[1] - self._last[1])
        self._last = now
        self._loop.call_later(INTERVAL, self._turn)

    def report(self) -> None:
        written = self._report.with_suffix(".new")
        written.write_text(json.dumps({"wall": self._wall, "cpu": self._cpu}))
        written.replace(self._report)
        self._wall = self._cpu = 0.0


def watched_loop() -> asyncio.AbstractEventLoop:
    """Return a loop of uvloop with a clock."""
    loop = _new_event_loop()
    Clock(loop, Path(os.environ["UMRGEN_PAUSES"]))
    return loop


_new_event_loop = uvloop.new_event_loop

if __name__ == "__main__":
    uvloop.new_event_loop = watched_loop  # the server looks it up when it starts
    sys.exit(main())
