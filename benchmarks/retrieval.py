"""Benchmarks of the client: the delay of an image, and the number of requests.

    python benchmarks/retrieval.py [latency | legacy | requests | thousand | budget | startup]

Without a name, all of them. Each prints one row for docs/benchmarks.md. Everything runs on loopback
against servers that this script starts and stops; ratios are taken within one run.
"""

import asyncio
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import UNLIMITED, ServerProcess, clean_environment, server
from umrgen import AsyncClient, Client, Event
from umrgen.client.client import SyncJob
from umrgen.client.flow import Reply, Step
from umrgen.client.transport import Transport
from umrgen.durable import sync_folder
from umrgen.testing import FakeClock, FaultServer, png_bytes

PROMPT = "a lighthouse on a cliff at dusk, storm over the sea"


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def guides_loop(base_url: str, key: str, job_id: str, target: Path, sleep: Callable[[float], None] = time.sleep) -> int:
    """Run the guide's loop; return the number of its requests."""
    headers = {"Authorization": f"Bearer {key}"}
    count = 0
    while True:
        count += 1
        status = requests.get(f"{base_url}/api/v1/status/{job_id}", headers=headers, timeout=30).json()
        if status["state"] == "completed":
            target.write_bytes(requests.get(f"{base_url}{status['image_url']}", timeout=30).content)
            return count + 1
        if status["state"] == "failed":
            raise RuntimeError(status["error"])
        sleep(3)


def latency(folder: Path, jobs: int = 100, guided: int = 10) -> None:
    """From the server's `completed` to a verified file of some 1.5 MB on disk, against the guide's loop.

    The guide's loop runs for every tenth job only, after ours: it waits 3 s at a time, and with it the hundred jobs
    took over five minutes. What the disk alone needs for such a file is measured in turns with the jobs.
    """
    ours, guides, disk, sizes = [], [], [], []
    marks: dict[str, float] = {}
    stages: dict[str, list[float]] = {}
    with (
        server(folder / "state") as running,
        Client(running.url, running.key, on_event=lambda event: _mark(event, marks)) as client,
    ):
        for number in range(jobs):
            marks.clear()
            job = client.submit(PROMPT, seed=number)
            image = job.download(folder / f"{number}.png")
            done = time.time()
            completed = _completed_at(job)
            ours.append(done - completed)
            sizes.append(image.bytes)
            for stage, at in marks.items():
                stages.setdefault(stage, []).append(at - completed)
            disk.append(_store(folder / "disk.png", image.data))
            if number % (jobs // guided) == 0:
                job = client.submit(PROMPT, seed=jobs + number)
                guides_loop(running.url, running.key, job.id, folder / "guide.png")
                guides.append(time.time() - _completed_at(job))
    p50, guide = statistics.median(ours), statistics.median(guides)
    print(
        f"| completed → verified file, our server, {jobs} jobs of {statistics.mean(sizes) / 1e6:.2f} MB, "
        f"load {os.getloadavg()[0]:.0f} | p50 {p50 * 1000:.1f} ms, p10 {percentile(ours, 0.1) * 1000:.1f} ms, "
        f"p95 {percentile(ours, 0.95) * 1000:.1f} ms; "
        f"guide's loop ({len(guides)} jobs) p50 {guide * 1000:.0f} ms: {guide / p50:.0f} × slower |"
    )
    shown = ", ".join(f"{stage} {statistics.median(times) * 1000:.1f} ms" for stage, times in stages.items())
    print(f"| of which, p50 since `completed`: {shown} |")
    print(
        f"| the disk alone, for such a file: write, sync, rename, sync the folder | "
        f"p50 {statistics.median(disk) * 1000:.1f} ms, p10 {percentile(disk, 0.1) * 1000:.1f} ms |"
    )


def _completed_at(job: SyncJob) -> float:
    """Return when the job was completed by the server's record: seconds since the epoch, to the millisecond."""
    return float(job.status().raw["completed_at"]) / 1000


def _store(path: Path, data: bytes) -> float:
    """Store a file as durably as the client does; return the seconds that this took."""
    begun = time.perf_counter()
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)
    return time.perf_counter() - begun


def _mark(event: Event, marks: dict[str, float]) -> None:
    """Store the time of each stage: the state is known, the first and last bytes arrived, the file is saved."""
    if event.status is not None and event.status.over:
        marks.setdefault("known", time.time())
    elif event.kind == "download":
        marks.setdefault("first byte", time.time())
        marks["last byte"] = time.time()
    elif event.kind == "saved":
        marks["saved"] = time.time()


def legacy(folder: Path, jobs: int = 227) -> None:
    """The same on the older server: run times as in its own log, in simulated time."""
    chance = random.Random(227)
    times = [min(445.0, chance.lognormvariate(3.09, 0.504)) for _ in range(jobs)]  # median 22 s, p90 42 s
    image = png_bytes(1_500_000)

    def play(drive: Callable[[FaultServer, FakeClock, int], None]) -> tuple[list[float], int]:
        clock = FakeClock()
        with FaultServer(
            "legacy",
            job_seconds=lambda index: times[index],
            clock=clock.monotonic,
            settle_seconds=0,
            rate_limit=10**9,
            image=image,
        ) as running:
            delays = []
            for number in range(jobs):
                begun = clock.monotonic()
                drive(running, clock, number)
                delays.append(clock.monotonic() - begun - times[number])
            return delays, len(running.requests)

    def ours(running: FaultServer, clock: FakeClock, number: int) -> None:
        async def work() -> None:
            async with AsyncClient(running.url, running.key, clock=clock, journal=None, timeout=3600) as client:
                await client.generate("a boat", folder / f"legacy-{number}.png")

        asyncio.run(work())

    def guides(running: FaultServer, clock: FakeClock, number: int) -> None:
        headers = {"Authorization": f"Bearer {running.key}"}
        answer = requests.post(f"{running.url}/api/v1/generate", json={"prompt": "a boat"}, headers=headers, timeout=30)
        job_id = answer.json()["job_id"]
        guides_loop(running.url, running.key, job_id, folder / "guide.png", clock.advance)

    our_delays, our_count = play(ours)
    guide_delays, guide_count = play(guides)
    print(
        f"| the same against the legacy server, {jobs} jobs, median {statistics.median(times):.0f} s "
        f"| late by {statistics.mean(our_delays):.2f} s on average with {our_count / jobs:.1f} requests an image; "
        f"guide's loop {statistics.mean(guide_delays):.2f} s with {guide_count / jobs:.1f} |"
    )


def count_requests(folder: Path) -> None:
    """Requests for one image whose job lasts 20 s, counted by a relay in front of the server."""
    with server(folder / "slow", "--step-delay", "7") as running:
        counted = _Relay(running.url)
        with Client(counted.url, running.key) as client:
            begun = time.monotonic()
            client.generate("a boat", to=folder / "counted.png", width=512, height=512)
            seconds = time.monotonic() - begun
        counted.stop()
    print(f"| requests for one image of a {seconds:.0f} s job, our server | {counted.requests} |")


class _Relay:
    """A TCP relay that counts the requests going through it."""

    def __init__(self, target: str) -> None:
        import socket

        host, port = target.removeprefix("http://").split(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        import socket

        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: "object", sink: "object", counting: bool) -> None:
        while data := source.recv(65536):  # type: ignore[attr-defined]
            if counting:
                self.requests += sum(data.count(verb) for verb in (b"GET /", b"POST /"))
            sink.sendall(data)  # type: ignore[attr-defined]

    def stop(self) -> None:
        self._listener.close()


_THOUSAND = """
import asyncio, json, os, resource, sys, time
from umrgen import AsyncClient

def connections():
    names = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    mine = {os.readlink(name) for name in names if os.path.exists(name)}
    rows = open("/proc/self/net/tcp").read().splitlines()[1:]
    return sum(f"socket:[{row.split()[9]}]" in mine for row in rows)

async def work(count):
    most, late = 0, []
    async with AsyncClient(timeout=580, journal=None) as client:
        jobs = [await client.submit(f"boat {n}", width=512, height=512, steps=1) for n in range(count)]
        begun = time.time()
        async for job in client.as_completed(jobs):
            # Some are over before the wait starts: for these the wait starts the count.
            late.append(time.time() - max(begun, job.outcome.raw["completed_at"] / 1000))
            if len(late) % 25 == 0:  # counting takes longer than the result itself
                most = max(most, connections())
    late.sort()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    p50, p99 = late[len(late) // 2], late[int(0.99 * len(late))]
    print(json.dumps({"connections": most, "mb": memory, "p50": p50, "p99": p99}))

asyncio.run(work(int(sys.argv[1])))
"""


def thousand(folder: Path, jobs: int = 1000) -> None:
    """Wait for a thousand jobs at a time, in another process."""
    with server(folder / "thousand", *UNLIMITED) as running:
        told = json.loads(_run_with(running, [sys.executable, "-c", _THOUSAND, str(jobs)]))
    print(
        f"| {jobs} jobs waited for at a time | {told['connections']} connection(s), {told['mb']:.0f} MB, "
        f"known {told['p50'] * 1000:.0f} ms after completion (p50), {told['p99'] * 1000:.0f} ms (p99) |"
    )


def _run_with(running: ServerProcess, command: list[str]) -> str:
    environment = clean_environment(UMRGEN_BASE_URL=running.url, UMRGEN_API_KEY=running.key)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as a user's interpreter runs
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=590).stdout


def budget(folder: Path, jobs: int = 20) -> None:
    """Twenty jobs on the legacy server with its 60 requests a minute and its one slot."""

    refused: list[str] = []

    class Counting(Transport):
        async def send(self, step: Step) -> Reply:
            reply = await super().send(step)
            if reply.status == 429:
                refused.append(step.path)
            return reply

    async def work(running: FaultServer, clock: FakeClock) -> int:
        requests_ = [{"prompt": f"boat {n}"} for n in range(jobs)]
        targets = [folder / f"budget-{id(clock)}-{n}.png" for n in range(jobs)]
        saved = 0
        async with AsyncClient(running.url, running.key, clock=clock, journal=None, timeout=None) as client:
            client.transport.__class__ = Counting
            async for result in client.generate_many(requests_, targets):
                saved += not isinstance(result, Exception)
        return saved

    for name, concurrency in (("one at a time", 1), ("all queued", None)):
        clock = FakeClock()
        refused.clear()
        options = {"job_seconds": 20.0, "clock": clock.monotonic, "concurrency": concurrency}
        with FaultServer("legacy", **options) as running:
            saved = asyncio.run(work(running, clock))
        print(
            f"| {jobs} jobs on the legacy server, {name} | {saved} images, {len(refused)} × 429, "
            f"{len(running.requests)} requests in {clock.monotonic() / 60:.1f} min |"
        )


def startup(folder: Path, rounds: int = 25) -> None:
    """Measure the time of the command line over a bare interpreter, in turns."""
    commands = {
        "bare": [sys.executable, "-c", "pass"],
        "version": [sys.executable, "-m", "umrgen", "--version"],
        "status": [sys.executable, "-m", "umrgen", "status", "{id}"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    with server(folder / "startup") as running, running.http() as http:
        job_id = http.post("/api/v1/generate", json={"prompt": "x", "width": 512, "height": 512}).json()["job_id"]
        for round_ in range(rounds + 2):
            for name, command in commands.items():
                begun = time.perf_counter()
                _run_with(running, [part.format(id=job_id) for part in command])
                if round_ >= 2:  # the first two warm the disk's cache
                    taken[name].append(time.perf_counter() - begun)
    bare = statistics.median(taken["bare"])
    for name in ("version", "status"):
        over = (statistics.median(taken[name]) - bare) * 1000
        words = "umrgen --version" if name == "version" else "umrgen status ID"
        print(f"| {words} over bare python ({bare * 1000:.0f} ms) | + {over:.0f} ms |")


ALL = {
    "startup": startup,
    "requests": count_requests,
    "legacy": legacy,
    "budget": budget,
    "thousand": thousand,
    "latency": latency,
}


def main() -> None:
    names = sys.argv[1:] or list(ALL)
    os.environ.pop("UMRGEN_BASE_URL", None)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_DATA_HOME"] = folder
        for name in names:
            ALL[name](Path(folder))
    assert resource.getrusage(resource.RUSAGE_CHILDREN)


if __name__ == "__main__":
    main()
