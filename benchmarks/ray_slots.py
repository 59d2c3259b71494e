"""Measure the Ray executor on a cluster of this machine: `make ray`, then `python benchmarks/ray_slots.py`.

A real server with an engine that only waits. How long until an idle slot starts the next job; whether eight slots draw
eight times as many jobs as one; and whether a job was drawn twice.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from ray_cluster import ray_cluster
from support import UNLIMITED, ServerProcess, finish, submit, until
from umrgen.server.engines import DrawTask, EngineInfo, Report

HERE = Path(__file__).parent
PATIENCE = 300.0
SINGLE = 60
"""Jobs that are submitted one at a time."""
JOBS_OF_A_SLOT = 10


class StampEngine:
    """Draws nothing for the time that the prompt gives, and writes when it began and ended, by the machine's clock."""

    info = EngineInfo("stamp", "procedural", "1")

    def __init__(self, *, folder: str) -> None:
        self._folder = Path(folder)

    def load(self) -> None:
        self._folder.mkdir(exist_ok=True)

    def draw(self, task: DrawTask, report: Report) -> list[Any]:
        began = time.monotonic()
        report(0, task.request.steps)
        time.sleep(float(task.request.prompt))
        with (self._folder / task.job_id).open("a") as file:
            file.write(f"{os.getpid()} {began} {time.monotonic()}\n")
        return [np.zeros((task.request.height, task.request.width, 3), np.uint8)]


def stamps(folder: Path, jobs: list[str]) -> list[tuple[str, float, float]]:
    """Return the process, the beginning and the end of each drawing. Raises ValueError for a job drawn twice."""
    found = []
    for job in jobs:
        ((slot, began, ended),) = (line.split() for line in (folder / job).read_text().splitlines())
        found.append((slot, float(began), float(ended)))
    return found


@contextmanager
def serving(folder: Path, address: str, devices: int, **environment: str) -> Iterator[httpx2.Client]:
    """Yield a client of a server with `devices` loaded engines."""
    where = ("--executor", "ray", "--ray-address", address, "--ray-resources", "CPU=1", "--devices", str(devices))
    engine = ("--engine", "ray_slots:StampEngine", "--engine-option", f"folder={folder / 'stamps'}", *UNLIMITED)
    running = ServerProcess(folder / "state", *where, *engine, PYTHONPATH=str(HERE), **environment)
    running.launch()
    try:
        with running.http() as http:
            until(lambda: http.get("/readyz").status_code == 200, PATIENCE)
            until(lambda: len(loaded(http, folder, devices)) == devices, PATIENCE)
            yield http
    finally:
        running.stop()


def loaded(http: httpx2.Client, folder: Path, devices: int) -> set[str]:
    """Return the slots that draw one of `devices` concurrent jobs."""
    jobs = [submit(http, "0.5") for _ in range(devices)]
    for job in jobs:
        finish(http, job)
    return {slot for slot, _, _ in stamps(folder / "stamps", jobs)}


def idle(http: httpx2.Client, folder: Path) -> None:
    delays = []
    for _ in range(SINGLE):
        job = submit(http, "0")
        accepted = time.monotonic()
        finish(http, job)
        ((_, began, _),) = stamps(folder / "stamps", [job])
        delays.append((began - accepted) * 1000)
    print(f"from the 202 to the engine's draw, idle, {SINGLE} jobs: {spread(delays)}")


def rate(http: httpx2.Client, folder: Path, devices: int, seconds: float) -> float:
    """Draw ten jobs for each slot; print the pauses between them, and return the jobs per second."""
    jobs = [submit(http, str(seconds)) for _ in range(JOBS_OF_A_SLOT * devices)]
    for job in jobs:
        assert finish(http, job)["state"] == "completed"
    drawn = stamps(folder / "stamps", jobs)
    slots: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for slot, began, ended in sorted(drawn, key=lambda each: each[1]):
        slots[slot].append((began, ended))
    pauses = [(later[0] - former[1]) * 1000 for each in slots.values() for former, later in pairwise(each)]
    print(f"{devices} slots, {len(jobs)} jobs of {seconds:g} s: from one draw to the next: {spread(pauses)}")
    return len(jobs) / (max(end for _, _, end in drawn) - min(began for _, began, _ in drawn))


def spread(values: list[float]) -> str:
    return f"p50 {statistics.median(values):.1f} ms, p95 {statistics.quantiles(values, n=20)[-1]:.1f} ms"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=2.0)
    seconds = arguments.parse_args().seconds
    rates = {}
    with ray_cluster(8, engines=HERE) as cluster:
        for devices in (1, 8):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                with serving(folder, cluster.address, devices, **cluster.environment) as http:
                    if devices == 1:
                        idle(http, folder)
                    rates[devices] = rate(http, folder, devices, seconds)
    print(f"jobs/s with 1 and 8 slots: {rates[1]:.3f} and {rates[8]:.3f}: {rates[8] / rates[1] / 8:.3f} of linear")
    print(f"load of the machine: {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    main()
