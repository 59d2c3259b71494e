"""The longest pause of the server's event loop under the worst legal body of each call, from 20 callers at once.

    python benchmarks/pauses.py

It prints rows for docs/benchmarks.md. The server runs on the first core of the machine, the callers on the second.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import httpx2

sys.path.insert(0, str(Path(__file__).parent))

from rig import CLIENT_CORE, HELD_BY_ONE_JOB, HERE, PinnedServer, run
from worst_bodies import WorstCall, worst_calls

from support import until

CALLERS = 20
CALLS = 5
"""Calls of each caller."""
WITHOUT_LIMITS = ("--session-queued", "0", "--session-running", "0", "--a1111", "on", "--mcp", "on")

Call = Callable[[httpx2.Client], httpx2.Response]


class WatchedServer(PinnedServer):
    """A server with a clock on its event loop."""

    command: ClassVar = (sys.executable, str(HERE / "watched.py"))

    def __init__(self, state: Path) -> None:
        self._pauses = state.parent / "pauses.json"
        super().__init__(state, *HELD_BY_ONE_JOB, *WITHOUT_LIMITS, UMRGEN_PAUSES=str(self._pauses))

    def longest_pause(self) -> dict[str, float]:
        """Return the longest pause since the last call of this method, in seconds."""
        self._pauses.unlink(missing_ok=True)
        os.kill(self.process.pid, signal.SIGUSR1)
        until(self._pauses.exists)
        pause: dict[str, float] = json.loads(self._pauses.read_text())
        return pause


def _sending(call: WorstCall) -> Call:
    return lambda http: http.request(call.method, call.path, content=call.body, headers=dict(call.headers))


def pauses(folder: Path) -> None:
    """Measure the longest pause for each call."""
    server = WatchedServer(folder / "state")
    server.start()
    try:
        os.sched_setaffinity(0, {int(CLIENT_CORE)})
        clients = [
            httpx2.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.key}"}, timeout=120)
            for _ in range(CALLERS)
        ]
        with ThreadPoolExecutor(CALLERS) as pool:
            for name, call in ((each.name, _sending(each)) for each in worst_calls()):
                call(clients[0])  # what is loaded on first use
                server.longest_pause()
                found = pool.map(lambda client, call=call: [call(client).status_code for _ in range(CALLS)], clients)
                statuses = sorted({status for some in found for status in some})
                pause = server.longest_pause()
                print(f"| {name} | {statuses} | {1000 * pause['wall']:.0f} ms | {1000 * pause['cpu']:.0f} ms |")
        for client in clients:
            client.close()
    finally:
        server.stop()


if __name__ == "__main__":
    run(__doc__, pauses)
