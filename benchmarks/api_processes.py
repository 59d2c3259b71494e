"""Requests a second at one API process and at two of the same PostgreSQL, and the CPU time that each of them takes.

    .venv/bin/python benchmarks/api_processes.py [submits | status] [--rounds 3] [--commits on off] [--seconds 8]

The cases take turns in each round; the medians of the rounds are printed. Servers, PostgreSQL and `wrk` run on the same
cores, so that the CPU time of a request in all of them sets the most requests that are possible. `--commits off`: an
experiment with a PostgreSQL that answers before its sync (`synchronous_commit`).
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
from rig import asking, wrk
from roles import PYTHONPATH, api, engine, submit
from worker_process import worker

from postgres import PostgresServer
from support import until

TICKS = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1
CONNECTIONS = 64
SUBMITTING = """
wrk.method, wrk.path, wrk.body = "POST", "/api/v1/generate", '{"prompt":"a boat","width":512,"height":512,"steps":1}'
wrk.headers["Authorization"], wrk.headers["Content-Type"] = "Bearer %s", "application/json"
"""


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU time of processes, of their threads, and of their children, ended ones included."""
    return sum(_with_children(pid) for pid in pids)


def _with_children(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # it has ended: its parent has its time
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS + cpu_seconds([int(child) for child in children])


def idle_seconds() -> float:
    """Return the seconds in which a core of the machine had nothing to do, or only waited for a disk."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / TICKS


def _load_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@dataclass(frozen=True, slots=True)
class Measured:
    """Requests a second; CPU milliseconds of a request, by process; and the idle and foreign shares of the cores."""

    rate: float
    servers: float
    postgres: float
    load: float
    idle: float

    @property
    def cpu(self) -> float:
        """CPU milliseconds of a request in all."""
        return self.servers + self.postgres + self.load

    @property
    def others(self) -> float:
        """The share of the cores that programs beside this benchmark had."""
        return 1 - self.idle - self.rate * self.cpu / 1000 / CORES

    def __str__(self) -> str:
        parts = f"{self.servers:.3f} + {self.postgres:.3f} + {self.load:.3f}"
        shares = f"idle {self.idle:.0%}, other programs {self.others:.0%}"
        return f"{self.rate:,.0f}/s, CPU of a request {parts} = {self.cpu:.3f} ms (servers, PostgreSQL, wrk); {shares}"


def measured(urls: list[str], script: str, servers: list[int], postgres: int, seconds: int) -> Measured:
    """Send requests to all servers at once, with CONNECTIONS in all."""
    begun, idle, load = time.perf_counter(), idle_seconds(), _load_seconds()
    before = cpu_seconds(servers), cpu_seconds([postgres])
    with ThreadPoolExecutor(len(urls)) as threads:
        each = CONNECTIONS // len(urls)
        rates = list(threads.map(lambda url: wrk(url, script, connections=each, seconds=seconds)["rate"], urls))
    after = cpu_seconds(servers), cpu_seconds([postgres])
    took, idle, load = time.perf_counter() - begun, idle_seconds() - idle, _load_seconds() - load
    requests = sum(rates) * seconds / 1000
    spent = [(now - then) / requests for then, now in zip(before, after, strict=True)]
    return Measured(sum(rates), *spent, load / requests, idle / took / CORES)


def median(found: Sequence[Measured]) -> Measured:
    fields = ("rate", "servers", "postgres", "load", "idle")
    return Measured(*(statistics.median(getattr(each, field) for each in found) for field in fields))


def set_commits(url: str, value: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET synchronous_commit = {value}")
        connection.execute("SELECT pg_reload_conf()")


def completed(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM jobs WHERE state = 'completed'").fetchone()
    return int(row[0]) if row else 0


def report(name: str, commits: str, one: Measured, two: Measured) -> None:
    print(f"{name}, synchronous_commit = {commits}, at a load of {os.getloadavg()[0]:.1f}:")
    print(f"  one server: {one}\n  two servers: {two}")
    most = CORES / two.cpu * 1000
    print(f"  {two.rate / one.rate:.2f} ×; {CORES} cores without idle time and other programs: {most:,.0f}/s at most")


def compare(folder: Path, names: Sequence[str], rounds: int, commits: Sequence[str], seconds: int) -> None:
    running = PostgresServer("max_connections=200").start()  # not by an option: that would prevent a change of it
    assert running.process is not None
    url, database = running.url("postgres"), running.process.pid
    with ExitStack() as stack:
        stack.callback(running.remove)
        one, shared = stack.enter_context(api(folder, url, 1))
        two, _ = stack.enter_context(api(folder, url, 2))
        with worker(folder / "worker", *shared, *engine(0.0), PYTHONPATH=PYTHONPATH), one.http() as http:
            jobs = submit(http, 200)
            until(lambda: completed(url) == len(jobs), 120)
        paths = folder / "paths"
        paths.write_text("".join(f"/api/v1/status/{job}\n" for job in jobs))
        scripts = {"status": asking(paths, one.key), "submits": SUBMITTING % one.key}
        found: dict[tuple[str, str, int], list[Measured]] = defaultdict(list)
        for _ in range(rounds):
            for name in names:
                for value in commits:
                    set_commits(url, value)
                    for servers in ([one], [one, two]):
                        pids, urls = [server.process.pid for server in servers], [server.url for server in servers]
                        result = measured(urls, scripts[name], pids, database, seconds)
                        found[name, value, len(servers)].append(result)
        for name in names:
            for value in commits:
                report(name, value, median(found[name, value, 1]), median(found[name, value, 2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", choices=("submits", "status"), default=["submits", "status"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--commits", nargs="+", choices=("on", "off"), default=["on"])
    parser.add_argument("--seconds", type=int, default=8, help="of each case in a round")
    options = parser.parse_args()
    names = options.name if isinstance(options.name, list) else [options.name]
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), names, options.rounds, options.commits, options.seconds)


if __name__ == "__main__":
    main()
