"""Benchmarks of the server: status calls, long polls, submits, a million jobs, memory.

    python benchmarks/server.py [status | waiters | submits | dispatch | million | memory]

Without a name, all of them. Each prints rows for docs/benchmarks.md. The server runs on the first core
of the machine, the load on the second. `status` needs wrk and Node, and `npm ci --prefix
benchmarks/express` once. `memory` plays 100,000 jobs and takes some 15 minutes; a number after the name makes it fewer.
"""

import asyncio
import contextlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from rig import (
    CLIENT_CORE,
    HELD_BY_ONE_JOB,
    HERE,
    SERVER_CORE,
    SPEC,
    PinnedServer,
    asking,
    fill,
    new_key,
    pinned,
    run,
    wrk,
)

from support import submit, until

ANSWER_BYTES = 1000
"""The size of a response about a cancelled job, with its headers."""


# --- status against Express 4 ----------------------------------------------------------------------------


@contextlib.contextmanager
def express(key: str, jobs: dict[str, Any], folder: Path) -> Iterator[str]:
    known = folder / "jobs.json"
    known.write_text(json.dumps(jobs))
    command = ["taskset", "-c", SERVER_CORE, "node", "status.mjs", key, str(known)]
    environment = os.environ | {"NODE_ENV": "production"}
    with subprocess.Popen(command, cwd=HERE / "express", stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def status(folder: Path, jobs: int = 100_000, rounds: int = 3) -> None:
    """Measure GET status: our server with `jobs` rows, and a minimal handler of Express 4 over a Map, in turns."""
    state = folder / "state"
    made = new_key(state)
    names = asyncio.run(fill(state, made["session_id"], jobs))
    chance = random.Random(4)
    asked = {"1,000 jobs": chance.sample(names, 1000), f"all {jobs:,} jobs": chance.sample(names, jobs)}
    ours: dict[str, list[dict[str, float]]] = {kind: [] for kind in asked}
    theirs: list[dict[str, float]] = []
    for _ in range(rounds):
        with pinned(state, key=made["key"]) as running, running.http() as http:
            for kind, some in asked.items():
                paths = folder / "paths"
                paths.write_text("\n".join(f"/api/v1/status/{name}" for name in some))
                wrk(running.url, asking(paths, made["key"]), seconds=2)
                ours[kind].append(wrk(running.url, asking(paths, made["key"])))
            answers = {name: http.get(f"/api/v1/status/{name}").json() for name in asked["1,000 jobs"]}
        paths.write_text("\n".join(f"/api/v1/status/{name}" for name in answers))
        with express(made["key"], answers, folder) as url:
            wrk(url, asking(paths, made["key"]), seconds=2)
            theirs.append(wrk(url, asking(paths, made["key"])))
    base = statistics.median(figures["rate"] for figures in theirs)
    base_p99 = statistics.median(figures["p99"] for figures in theirs)
    print(f"| status GET, Express 4, 1,000 jobs in a Map | {base:,.0f}/s, p99 {base_p99:.1f} ms |")
    for kind, figures in ours.items():
        rate = statistics.median(each["rate"] for each in figures)
        p99 = statistics.median(each["p99"] for each in figures)
        print(
            f"| status GET, our server, {jobs:,} rows, requests for {kind} "
            f"| {rate:,.0f}/s, p99 {p99:.1f} ms: {rate / base:.1f} × Express |"
        )


# --- long polls -------------------------------------------------------------------------------


class Held(asyncio.Protocol):
    """A minimal caller: it sends one request and records the time of the response."""

    def __init__(self, request: bytes, told: "asyncio.Queue[float]") -> None:
        self._request = request
        self._told = told

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if b'"state":"failed"' in data:
            self._told.put_nowait(time.perf_counter())


async def _hold(running: PinnedServer, http: httpx2.Client, count: int) -> tuple[float, list[float]]:
    """Return the bytes of server memory per long poll, and the seconds until each of half of them was answered."""
    address = running.url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    first = submit(http, steps=2)
    until(lambda: http.get(f"/api/v1/status/{first}").json()["state"] == "running")
    watched = [submit(http), submit(http)]
    told: asyncio.Queue[float] = asyncio.Queue()
    before = running.memory()
    for number in range(count):
        request = (
            f"GET /api/v1/status/{watched[number % 2]} HTTP/1.1\r\nHost: {':'.join(address)}\r\n"
            f"Authorization: Bearer {running.key}\r\nPrefer: wait=60\r\n\r\n"
        ).encode()
        await loop.create_connection(lambda request=request: Held(request, told), *address)
    await asyncio.to_thread(running.has_taken, count)
    each = (running.memory() - before) / count
    begun = time.perf_counter()
    await asyncio.to_thread(http.post, f"/api/v1/cancel/{watched[0]}")
    async with asyncio.timeout(60):
        return each, [await told.get() - begun for _ in range(count // 2)]


async def _hold_bare(port: int, count: int) -> list[float]:
    """Measure a bare server in the same way."""
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[float] = asyncio.Queue()
    for _ in range(count):
        transport, _ = await loop.create_connection(lambda: Held(b"", told), "127.0.0.1", port)
    begun = time.perf_counter()
    transport.write(b"go")  # from the last that was accepted
    async with asyncio.timeout(60):
        return [await told.get() - begun for _ in range(count)]


def waiters(folder: Path, count: int = 10_000, rounds: int = 7) -> None:
    """Measure the memory of a long poll, and the time to answer many; in turns with a bare server."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    bare_command = ["taskset", "-c", SERVER_CORE, sys.executable, str(HERE / "bare.py"), str(ANSWER_BYTES)]
    sizes, halves, lasts, bare_lasts = [], [], [], []
    for number in range(rounds):
        with pinned(folder / f"state-{number}", *HELD_BY_ONE_JOB) as running, running.http() as http:
            os.sched_setaffinity(0, {int(CLIENT_CORE)})
            size, times = uvloop.run(_hold(running, http, count))
        sizes.append(size / 1024)
        halves.append(statistics.median(times) * 1000)
        lasts.append(max(times) * 1000)
        with subprocess.Popen(bare_command, stdout=subprocess.PIPE, text=True) as bare:
            assert bare.stdout is not None
            bare_lasts.append(max(uvloop.run(_hold_bare(int(bare.stdout.readline()), count // 2))) * 1000)
            bare.terminate()
        os.sched_setaffinity(0, {int(SERVER_CORE), int(CLIENT_CORE)})
    print(
        f"| {count:,} long polls in one process | {max(sizes):.1f} KiB each; {count // 2:,} of them answered "
        f"{statistics.median(lasts):.0f} ms after one call cancelled their job, half of them after "
        f"{statistics.median(halves):.0f} ms (medians of {rounds} rounds; the last in {min(lasts):.0f} to "
        f"{max(lasts):.0f} ms) |\n"
        f"| {count // 2:,} connections written to by a bare uvloop server, in turns | "
        f"{statistics.median(bare_lasts):.0f} ms ({min(bare_lasts):.0f} to {max(bare_lasts):.0f} ms) |"
    )


# --- submits ---------------------------------------------------------------------------------------------


def submits(folder: Path) -> None:
    """Measure POST generate, each synced before its 202, while the engine is busy with one long job."""
    with pinned(folder / "state", *HELD_BY_ONE_JOB, "--session-queued", "0") as running, running.http() as http:
        first = submit(http, steps=2)
        until(lambda: http.get(f"/api/v1/status/{first}").json()["state"] == "running")
        body = json.dumps({"prompt": SPEC.prompt, "width": 1024, "height": 1024, "steps": 4})
        script = f"""
        wrk.method = "POST"; wrk.path = "/api/v1/generate"; wrk.body = '{body}'
        wrk.headers["Authorization"] = "Bearer {running.key}"; wrk.headers["Content-Type"] = "application/json"
        """
        figures = wrk(running.url, script, seconds=10)
        page = http.get("/api/v1/jobs?limit=1").json()
        assert page["jobs"], "nothing was kept"
    print(
        f"| submits, synced, over HTTP, 64 callers | {figures['rate']:,.0f}/s, "
        f"p50 {figures['p50']:.0f} ms, p99 {figures['p99']:.0f} ms |"
    )


# --- from the 202 to the engine --------------------------------------------------------------------------


def dispatch(folder: Path, jobs: int = 200) -> None:
    """Measure the time from the 202 to `running` on an idle server, as a caller with a long poll sees it."""
    delays = []
    with pinned(folder / "state") as running, running.http() as http:
        for number in range(jobs):
            job_id = submit(http, seed=number)
            accepted = time.perf_counter()
            etag = '"queued.0.0.1"'  # the version of a job that is next
            while True:
                headers = {"Prefer": "wait=10", "If-None-Match": etag}
                answer = http.get(f"/api/v1/status/{job_id}", headers=headers)
                if answer.status_code == 200 and answer.json()["state"] != "queued":
                    break
                etag = answer.headers["etag"]
            delays.append((time.perf_counter() - accepted) * 1000)
            http.get(f"/api/v1/status/{job_id}", headers={"Prefer": "wait=10"})
    delays.sort()
    print(
        f"| from the 202 to `running`, idle server, {jobs} jobs, seen by the caller "
        f"| p50 {statistics.median(delays):.1f} ms, p95 {delays[int(jobs * 0.95)]:.1f} ms |"
    )


# --- a million finished jobs -----------------------------------------------------------------------------


def _latency(http: httpx2.Client, path: str, count: int = 2000) -> float:
    """Return the median of a call, in milliseconds."""
    taken = []
    for _ in range(count):
        begun = time.perf_counter()
        http.get(path).raise_for_status()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1000


def _cold(http: httpx2.Client, names: list[str]) -> list[float]:
    """Return the time of the first status call for each id, in milliseconds."""
    taken = []
    for name in names:
        begun = time.perf_counter()
        http.get(f"/api/v1/status/{name}").raise_for_status()
        taken.append((time.perf_counter() - begun) * 1000)
    return taken


def million(folder: Path, jobs: int = 1_000_000) -> None:
    """Measure status by id, start-up and a page of jobs with many finished jobs, and with few, in turns."""
    chance = random.Random(5)
    started, pages = {}, {}
    asked: dict[int, list[str]] = {}
    taken: dict[int, list[float]] = {3000: [], jobs: []}
    with contextlib.ExitStack() as stack:
        callers = {}
        for count in taken:
            state = folder / f"state-{count}"
            made = new_key(state)
            asked[count] = chance.sample(asyncio.run(fill(state, made["session_id"], count)), 2000)
            begun = time.perf_counter()
            running = stack.enter_context(pinned(state, key=made["key"]))
            started[count] = time.perf_counter() - begun
            callers[count] = stack.enter_context(running.http())
        for start in range(0, 2000, 100):
            for count, http in callers.items():
                taken[count] += _cold(http, asked[count][start : start + 100])
        for count, http in callers.items():
            kinds = ("", "&state=completed", "&state=failed")
            pages[count] = max(_latency(http, f"/api/v1/jobs?limit=50{kind}", 200) for kind in kinds)
    few, many = (statistics.median(each) for each in taken.values())
    print(f"| status by id, first request, {jobs:,} finished jobs | {many / few:.2f} × of a ledger with 3,000 |")
    for what, figures, unit in (
        ("start-up, engine and all", started, "s"),
        ("a page of /jobs, any state", pages, "ms"),
    ):
        print(
            f"| {what}, {jobs:,} finished jobs | {figures[jobs]:.1f} {unit} (with 3,000: {figures[3000]:.1f} {unit}) |"
        )


# --- memory over many jobs -------------------------------------------------------------------------------


def memory(folder: Path, jobs: int = 100_000) -> None:
    """Measure the server's memory over many jobs, from submit to download, with an engine that does almost no work."""
    environment = {"PYTHONPATH": str(HERE)}
    running = PinnedServer(folder / "state", "--engine", "blank_engine:BlankEngine", **environment)
    running.start()
    readings = []
    try:
        with running.http() as http:
            done = 0
            while done < jobs:
                some = [submit(http, seed=done + number) for number in range(50)]
                for job_id in some:
                    job = http.get(f"/api/v1/status/{job_id}", headers={"Prefer": "wait=60"}).json()
                    assert job["state"] == "completed", job
                http.get(job["image_url"]).raise_for_status()
                done += len(some)
                if done % max(jobs // 20, 50) == 0:
                    readings.append(running.memory() / 2**20)
    finally:
        running.stop()
    first, half, last = readings[0], readings[len(readings) // 2 - 1], readings[-1]
    print(
        f"| the server's memory over {jobs:,} jobs | {first:.0f} MiB after the first twentieth, {half:.0f} at half, "
        f"{last:.0f} at the end: {(last / half - 1) * 100:+.0f} % over the second half |"
    )


if __name__ == "__main__":
    run(__doc__, status, waiters, submits, dispatch, million, memory)
