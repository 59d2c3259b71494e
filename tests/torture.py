"""Kill a real server repeatedly under load: `python tests/torture.py --kills 200` (`make torture`).

32 clients submit under idempotency keys, wait, and download, while the whole process group or only the engine
is killed with SIGKILL at random times and the server is restarted. Then check that every acknowledged job has
ended exactly once, that every image exists and is intact, and that every file has a record.
"""

import argparse
import asyncio
import os
import random
import signal
import socket
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

sys.path.insert(0, str(Path(__file__).parent))

from support import SMALL, ServerProcess, until
from umrgen.image_files import verify
from umrgen.server.domain.job import thumbnail_name

REASONS = {"engine_crashed", "interrupted"}
"""The error codes that a job may have: its engine was killed in each of its three attempts."""


@dataclass
class Tally:
    """The observations of the clients."""

    receipts: dict[str, str] = field(default_factory=dict)
    """Idempotency key → the job id of its 202."""
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    submits: int = 0


class Client:
    """A client that submits, waits and downloads until it is stopped; it retries requests that fail."""

    def __init__(self, http: httpx2.AsyncClient, tally: Tally, rng: random.Random) -> None:
        self._http = http
        self._tally = tally
        self._rng = rng

    async def work(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            key = f"key-{self._rng.getrandbits(64):x}"
            job = await self._wait(await self._submit(key))
            if job["state"] == "completed":
                await self._download(job)
            again = await self._submit(key)
            if again != job["job_id"]:
                self._tally.wrong.append(f"{key} created {job['job_id']} and {again}")

    async def _request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Repeat a request until it gets a response without a server error."""
        while True:
            try:
                response = await self._http.request(method, path, **options)
            except httpx2.TransportError:
                await asyncio.sleep(self._rng.random() * 0.1)
                continue
            if response.status_code < 500:
                return response
            await asyncio.sleep(0.1)

    async def _submit(self, key: str) -> str:
        body = {"prompt": "a boat", "seed": 5} | SMALL | {"steps": 2}
        self._tally.submits += 1
        response = await self._request("POST", "/api/v1/generate", json=body, headers={"Idempotency-Key": key})
        if response.status_code != 202:
            self._tally.wrong.append(f"a submit has the response {response.status_code}: {response.text[:200]}")
        job_id: str = response.json()["job_id"]
        if self._tally.receipts.setdefault(key, job_id) != job_id:
            self._tally.wrong.append(f"two receipts for {key}")
        return job_id

    async def _wait(self, job_id: str) -> dict[str, Any]:
        while True:
            response = await self._request("GET", f"/api/v1/status/{job_id}", headers={"Prefer": "wait=10"})
            if response.status_code != 200:
                self._tally.wrong.append(f"{job_id} was acknowledged; its status call returns {response.status_code}")
                return {"state": "lost", "job_id": job_id}
            job: dict[str, Any] = response.json()
            if job["state"] in ("completed", "failed"):
                self._tally.ended[job_id] = job
                return job

    async def _download(self, job: dict[str, Any]) -> None:
        response = await self._request("GET", job["image_url"])
        verify(response.content, sha256=job["results"]["images"][0]["sha256"])


async def killer(server: ServerProcess, tally: Tally, rng: random.Random, kills: int) -> None:
    """Kill the engine or the process group at random times; restart a killed group."""
    for _ in range(kills):
        await asyncio.sleep(rng.random() * 1.5)
        engines = server.engine_pids()
        if engines and rng.random() < 0.4:
            tally.kills["the engine"] += 1
            os.kill(engines[0], signal.SIGKILL)
        else:
            tally.kills["the whole group"] += 1
            server.kill_group()
            await asyncio.to_thread(server.launch)


async def load(server: ServerProcess, tally: Tally, rng: random.Random, kills: int, clients: int) -> None:
    headers = {"Authorization": f"Bearer {server.key}"}
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30, limits=limits) as http:
        stop = asyncio.Event()
        work = [asyncio.create_task(Client(http, tally, rng).work(stop)) for _ in range(clients)]
        await killer(server, tally, rng, kills)
        stop.set()
        await asyncio.gather(*work)


def all_jobs(http: httpx2.Client) -> list[dict[str, Any]]:
    jobs, cursor = [], ""
    while cursor is not None:
        page = http.get(f"/api/v1/jobs?limit=200&cursor={cursor}").json()
        jobs += page["jobs"]
        cursor = page["next_cursor"]
    return jobs


def check_jobs(server: ServerProcess, tally: Tally, reasons: set[str]) -> tuple[list[str], set[str]]:
    """Return a description of each violation, and the files of the images on record. `reasons`: allowed error codes."""
    wrong = list(tally.wrong)
    with server.http() as http:
        jobs = {job["job_id"]: job for job in all_jobs(http)}
        lost = set(tally.receipts.values()) - set(jobs)
        wrong += [f"{job_id} was acknowledged and does not exist" for job_id in lost]
        twice = [name for name, seen in tally.ended.items() if jobs.get(name, {}).get("image_url") != seen["image_url"]]
        wrong += [f"{job_id} ended twice" for job_id in twice]
        for job in jobs.values():
            if job["state"] == "completed":
                image = job["results"]["images"][0]
                verify(http.get(job["image_url"]).content, sha256=image["sha256"])
            elif job["state"] != "failed" or job["error_code"] not in reasons or not job["error"]:
                wrong.append(f"{job['job_id']} is {job['state']}: {job['error_code']} {job['error']}")
    return wrong, files_of(jobs.values())


def files_of(jobs: Iterable[dict[str, Any]]) -> set[str]:
    """Return the names of the images of these jobs, and of their thumbnails."""
    names = [image["filename"] for job in jobs for image in job["results"]["images"]]
    return {*names, *(thumbnail_name(name) for name in names)}


def check(server: ServerProcess, tally: Tally) -> list[str]:
    """Return a description of each violation, after the last start."""
    wrong, recorded = check_jobs(server, tally, REASONS)
    stored = {path.name for path in (server.state / "outputs").rglob("*") if path.is_file()}
    wrong += [f"{name} is a file without a record" for name in stored - recorded]
    wrong += [f"{name} is a record without a file" for name in recorded - stored]
    return wrong


def torture(state: Path, *, kills: int, clients: int = 32, seed: int = 0) -> tuple[Tally, list[str]]:
    """Run the clients and the kills. Return the observations of the clients, and the violations."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    rng, tally = random.Random(seed), Tally()
    server = ServerProcess(state, "--port", port, "--step-delay", "0.02", "--max-interruptions", "1000")
    server.start()
    try:
        asyncio.run(load(server, tally, rng, kills, clients))
        server.kill_group()
        with closing(sqlite3.connect(state / "ledger.sqlite3")) as ledger:
            ledger.execute("UPDATE obsolete_files SET not_before = 0")  # they are due an hour later
            ledger.commit()
            server.start()
            until(lambda: ledger.execute("SELECT count(*) FROM obsolete_files").fetchone() == (0,))
        return tally, check(server, tally)
    finally:
        if server.process.poll() is None:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally, wrong = torture(Path(folder) / "state", kills=options.kills, seed=options.seed)
    ends = Counter(job["error_code"] or job["state"] for job in tally.ended.values())
    print(
        f"{sum(tally.kills.values())} × kill -9 ({dict(tally.kills)}) in {time.monotonic() - begun:.0f} s; "
        f"{tally.submits} submits under {len(tally.receipts)} keys; jobs: {dict(ends)}; wrong: {len(wrong)}"
    )
    for message in wrong[:20]:
        print(f"  {message}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
