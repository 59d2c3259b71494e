"""Shared parts of the server's benchmarks: a server pinned to a core, a filled ledger, and the load."""

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx2

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import ServerProcess, cli, until
from umrgen.server.domain.job import Change, Output
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger.sqlite.file import SqliteLedger

__all__ = [
    "CLIENT_CORE",
    "HELD_BY_ONE_JOB",
    "HERE",
    "SERVER_CORE",
    "SPEC",
    "PinnedServer",
    "asking",
    "fill",
    "new_key",
    "pinned",
    "run",
    "wrk",
]

HERE = Path(__file__).parent
SERVER_CORE, CLIENT_CORE = "0", "1"
HELD_BY_ONE_JOB = ("--step-delay", "600", "--drain", "0", "--cancel-grace", "0", "--held", "100000")
"""Settings of a server whose engine is busy with one job for as long as the benchmark takes."""
SPEC = GenerationRequest("a lighthouse on a cliff at dusk, storm over the sea", seed=7)


class PinnedServer(ServerProcess):
    """A server pinned to one core, with its engine. Its rate limit is active but not reached."""

    def __init__(self, state: Path, *arguments: str, **environment: str) -> None:
        super().__init__(state, "--rate", "9999999", *arguments, **environment)

    def start(self) -> "PinnedServer":
        super().start()
        subprocess.run(["taskset", "-acp", SERVER_CORE, str(self.process.pid)], check=True, capture_output=True)
        return self

    def memory(self) -> int:
        """Return the private memory of the server process, in bytes."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return sum(int(found) for found in re.findall(r"^(?:Private_Clean|Private_Dirty):\s+(\d+)", rollup, re.M)) << 10

    def has_taken(self, connections: int) -> None:
        """Return when this number of connections is accepted, and their first requests have been read."""
        until(lambda: len(list(Path(f"/proc/{self.process.pid}/fd").iterdir())) > connections)
        httpx2.get(f"{self.url}/healthz")


@contextlib.contextmanager
def pinned(
    state: Path, *arguments: str, key: str = "", environment: Mapping[str, str] | None = None
) -> Iterator[PinnedServer]:
    running = PinnedServer(state, *arguments, **(environment or {}))
    running.key = key
    running.start()
    try:
        yield running
    finally:
        running.stop()


def new_key(state: Path) -> dict[str, str]:
    made: dict[str, str] = json.loads(cli("keys", "create", "--state", str(state), "--json").stdout)
    return made


async def fill(state: Path, session_id: str, count: int) -> list[str]:
    """Write `count` completed jobs, each through every change of a real one."""
    ledger = SqliteLedger(state / "ledger.sqlite3")
    await ledger.open()
    names = [f"ext_{number:032x}" for number in range(count)]
    now = int(time.time() * 1000)  # not so long ago that their images are due to go
    for start in range(0, count, 1000):
        some = names[start : start + 1000]
        await asyncio.gather(*(ledger.jobs.submit(name, session_id, SPEC, "procedural", now=now) for name in some))
        jobs = await ledger.jobs.claim("benchmark", now=now + 1, lease_until=2**50, limit=len(some))
        outputs = {name: Output(f"umrgen_7_{name}.png", session_id, 1_500_000, "ab" * 32, 1024, 1024) for name in some}
        await asyncio.gather(
            *(
                ledger.jobs.change(
                    job.id, Change.COMPLETE, now=now + 2, token=job.token, outputs=(outputs[job.id],), step=4
                )
                for job in jobs
            )
        )
    await ledger.close()
    return names


def wrk(url: str, script: str, *, seconds: int = 8, connections: int = 64) -> dict[str, float]:
    """Return requests a second and latencies in milliseconds, as wrk measures them on the client's core."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["taskset", "-c", CLIENT_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
        told = subprocess.run([*command, "-s", file.name, url], check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(told)
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    figures = {"rate": float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1])}  # type: ignore[index]
    for share, number, unit in re.findall(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s)$", told, re.MULTILINE):
        figures[f"p{share}"] = float(number) * scale[unit]
    return figures


def asking(paths: Path, key: str) -> str:
    """Return a script for wrk that requests each path of a file in turn."""
    return f"""
    local requests, n = {{}}, 0
    init = function()
      wrk.headers["Authorization"] = "Bearer {key}"
      for line in io.lines("{paths}") do requests[#requests + 1] = wrk.format("GET", line) end
    end
    request = function() n = n % #requests + 1; return requests[n] end
    """


def run(description: str | None, *benchmarks: Callable[..., None]) -> None:
    """Run the benchmark that the command line names, or all of them, each in a new folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    by_name = {each.__name__: each for each in benchmarks}
    parser.add_argument("name", nargs="?", choices=by_name, help="the one to run; without it, all")
    parser.add_argument("number", nargs="*", type=int, help="the number of items")
    options = parser.parse_args()
    for each in [by_name[options.name]] if options.name else benchmarks:
        with tempfile.TemporaryDirectory() as folder:
            each(Path(folder), *options.number)
