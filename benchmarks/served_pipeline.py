"""A tiny pipeline served by UMRGEN, by a FastAPI server of 40 lines, and called directly, in one run on the CPU.

    python benchmarks/served_pipeline.py [--pipeline sdxl] [--images 24] [--rounds 3]

It needs torch, diffusers (make torch) and fastapi. The sides take turns in each round; each figure is the median of the
rounds. Each process computes with one thread (--threads), because more of them wait for each other on a shared machine.
Every image has a prompt of its own, except in the row for a repeated prompt. The pipeline is random, so the figures
compare servers, not models.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx2

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import tiny_pipelines

from support import UNLIMITED, ServerProcess, tied, until

SIZE: Mapping[str, int] = {"width": 512, "height": 512, "steps": 4}
CALLERS = (1, 4, 16)
LOADING = 180.0
"""Seconds that a server has to load."""
ERRORS: IO[bytes] | int = subprocess.DEVNULL
"""Where the other sides write their stderr."""
Draw = Callable[[httpx2.AsyncClient, dict[str, Any]], Awaitable[bytes]]


@dataclass(frozen=True)
class Measured:
    """Images per second, and seconds to an image at the 95th percentile."""

    rate: float
    p95: float


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def fastapi(folder: Path, device: str = "cpu") -> Iterator[tuple[str, int]]:
    """Yield the URL and the process id of the server of 40 lines."""
    port, script = free_port(), Path(__file__).with_name("fastapi_pipeline.py")
    with other_server([sys.executable, str(script), str(folder), str(port), device], port) as process:
        yield f"http://127.0.0.1:{port}", process.pid


@contextlib.contextmanager
def other_server(command: list[str], port: int, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run another server than ours, until it responds with its openapi.json."""
    process = subprocess.Popen(tied(*command), stderr=ERRORS, env=os.environ | environment)

    def responds() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{command[:3]} ended with {process.returncode}")
        return httpx2.get(f"http://127.0.0.1:{port}/openapi.json").status_code == 200

    try:
        until(responds, LOADING)
        yield process
    finally:
        process.terminate()
        process.wait()


def _ready(server: ServerProcess) -> bool:
    """Return whether our server is ready. Raises RuntimeError when its engine could not be loaded."""
    if "; trying again in" in server.log():
        raise RuntimeError(server.log()[-3000:])
    return httpx2.get(f"{server.url}/readyz").status_code == 200


@contextlib.contextmanager
def ours(folder: Path, state: Path, *options: str) -> Iterator[ServerProcess]:
    given = [argument for option in (f"model={folder}", *options) for argument in ("--engine-option", option)]
    running = ServerProcess(state, *UNLIMITED, "--engine", "diffusers", *given)
    running.launch()
    try:
        until(lambda: _ready(running), LOADING)
        yield running
    finally:
        running.stop()


@contextlib.contextmanager
def bare(folder: Path, *options: str) -> Iterator[Callable[..., float]]:
    """Yield a function that draws with the pipeline itself, in batches, and returns images per second."""
    script = Path(__file__).with_name("bare_pipeline.py")
    command = tied(sys.executable, str(script), str(folder), *options)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=ERRORS, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout
        assert stdout.readline() == "ready\n"

        def draw(images: int, batch: int, size: Mapping[str, int] = SIZE) -> float:
            print(json.dumps({"images": images, "batch": batch} | dict(size)), file=stdin, flush=True)
            return float(json.loads(stdout.readline()))

        yield draw
        stdin.close()


async def by_fastapi(client: httpx2.AsyncClient, body: dict[str, Any]) -> bytes:
    return base64.b64decode((await client.post("/generate", json=body)).json()["image"])


async def by_umrgen(client: httpx2.AsyncClient, body: dict[str, Any]) -> bytes:
    """Submit, wait by a long poll, and download the image."""
    job = (await client.post("/api/v1/generate", json=body)).json()["job_id"]
    status: dict[str, Any] = {"state": "queued"}
    while status["state"] in ("queued", "running"):
        status = (await client.get(f"/api/v1/status/{job}", headers={"Prefer": "wait=60"})).json()
    return (await client.get(status["results"]["images"][0]["url"])).content


async def load(
    url: str,
    key: str,
    draw: Draw,
    callers: int,
    images: int,
    *,
    repeated: bool = False,
    size: Mapping[str, int] = SIZE,
) -> Measured:
    """Let callers draw images one after the other, each from a caller's own connection."""
    numbers, taken = iter(range(images)), []
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    start = time.monotonic_ns() % 10**6 * 1000

    async def caller() -> None:
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=300) as client:
            for number in numbers:
                prompt = "a ship" if repeated else f"a ship number {start + number}"
                begun = time.perf_counter()
                image = await draw(client, {"prompt": prompt, "seed": start + number} | dict(size))
                taken.append(time.perf_counter() - begun)
                assert image.startswith(b"\x89PNG")

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return Measured(images / (time.perf_counter() - begun), statistics.quantiles(taken, n=20)[-1])


def cpu_seconds(*pids: int) -> float:
    """Return the processor time that processes have used, which other load on the machine changes little."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(user) + int(system) for *_, user, system in (each[:13] for each in fields)) / os.sysconf(
        "SC_CLK_TCK"
    )


def median(results: list[Measured]) -> Measured:
    return Measured(
        statistics.median(result.rate for result in results), statistics.median(result.p95 for result in results)
    )


def show(what: str, one: Measured, other: Measured) -> None:
    print(
        f"| {what} | {one.rate:.2f} images/s, p95 {one.p95:.2f} s | {other.rate:.2f} images/s, p95 {other.p95:.2f} s "
        f"| {one.rate / other.rate:.2f} × images/s, {one.p95 / other.p95:.2f} × p95 |"
    )


def show_rates(what: str, one: list[float], other: list[float]) -> None:
    first, second = statistics.median(one), statistics.median(other)
    print(f"| {what} | {first:.2f} images/s | {second:.2f} images/s | {first / second:.2f} × |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", choices=tiny_pipelines.PIPELINES, default="sdxl")
    parser.add_argument("--images", type=int, default=24, help="images in each row and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch in each process")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(temporary), given.pipeline, given.images, given.rounds)


def measure(temporary: Path, name: str, images: int, rounds: int) -> None:
    folder = tiny_pipelines.save(name, temporary / "pipeline")
    rows: dict[str, list[tuple[Measured, Measured]]] = {}
    cpu: list[tuple[float, float]] = []
    rates: dict[str, list[float]] = {"bare 1": [], "bare 4": [], "again": [], "new": []}
    with (
        fastapi(folder) as (theirs, pid),
        ours(folder, temporary / "state") as server,
        bare(folder) as direct,
    ):

        def ask(draw: Draw, callers: int, **more: Any) -> Measured:
            url, key = (server.url, server.key) if draw is by_umrgen else (theirs, "")
            return asyncio.run(load(url, key, draw, callers, images, **more))

        def used(draw: Draw) -> float:
            """Return the processor time of an image with one caller, without the caller's own."""
            pids = (server.process.pid, *server.engine_pids()) if draw is by_umrgen else (pid,)
            before = cpu_seconds(*pids)
            ask(draw, 1)
            return (cpu_seconds(*pids) - before) / images

        ask(by_umrgen, 4)
        ask(by_fastapi, 4)
        for _ in range(rounds):
            for callers in CALLERS:
                pair = (ask(by_umrgen, callers), ask(by_fastapi, callers))
                rows.setdefault(str(callers), []).append(pair)
            cpu.append((used(by_umrgen), used(by_fastapi)))
            rates["bare 1"].append(direct(images, 1))
            rates["bare 4"].append(direct(images, 4))
            rates["new"].append(ask(by_umrgen, 1).rate)
            rates["again"].append(ask(by_umrgen, 1, repeated=True).rate)
    print(f"| {name}, 512 × 512, 4 steps, CPU | UMRGEN | the other side | ratio |\n| --- | --- | --- | --- |")
    for count, pairs in rows.items():
        show(f"FastAPI in 40 lines, {count} callers", median([a for a, _ in pairs]), median([b for _, b in pairs]))
    one, other = (statistics.median(side) for side in zip(*cpu, strict=True))
    print(f"| processor time of an image, FastAPI, 1 caller | {one:.3f} s | {other:.3f} s | {one / other:.2f} × |")
    show_rates("the pipeline itself, 1 caller", rates["new"], rates["bare 1"])
    show_rates("the same prompt again, over a new one", rates["again"], rates["new"])
    show_rates("the pipeline itself: 4 at a time over 1", rates["bare 4"], rates["bare 1"])


if __name__ == "__main__":
    main()
