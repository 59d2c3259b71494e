"""Kill servers, workers, PostgreSQL and S3 under load: `python tests/torture_roles.py --seconds 120`.

Clients submit to two servers without engines, wait and download; four workers draw. One of these six processes is
killed (SIGKILL) every few seconds and started again; PostgreSQL is restarted twice, once as after a crash, and S3 once.
Then check that every acknowledged job has ended exactly once, that every image on record exists and is intact, and that
every image in S3 has a record. `make torture-roles` runs it.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import obstore
import psycopg

sys.path.insert(0, str(Path(__file__).parent))

from torture import REASONS, Client, Tally, check_jobs
from worker_process import WorkerProcess

from postgres import PostgresServer
from s3_server import S3Server, free_ports
from support import UNLIMITED, ServerProcess, until
from umrgen.server.domain.job import image_of_thumbnail

SERVERS, WORKERS = 2, 4
LEASE = "3"
"""Seconds after which another worker takes the job of a killed one."""
OUTAGE = 1.5
"""Seconds for which PostgreSQL and S3 are stopped."""
DURABLE = ("fsync=off", "full_page_writes=off", "max_connections=200")
"""Settings of a PostgreSQL that loses no commit when it is killed; the machine keeps running."""
STEPS = ("stop PostgreSQL", "kill S3", "kill PostgreSQL")
"""What happens to the stores, spread over the time."""


class RoamingClient(Client):
    """A client that sends each request, and each repetition, to a random one of several servers."""

    def __init__(self, https: list[httpx2.AsyncClient], tally: Tally, rng: random.Random) -> None:
        super().__init__(https[0], tally, rng)
        self._https = https

    async def _request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        while True:
            try:
                response = await self._rng.choice(self._https).request(method, path, **options)
            except httpx2.TransportError:
                await asyncio.sleep(self._rng.random() * 0.2)
                continue
            if response.status_code < 500:
                return response
            await asyncio.sleep(self._rng.random() * 0.2)


class Deployment:
    """Two servers, four workers, PostgreSQL and S3."""

    def __init__(self, folder: Path) -> None:
        self.postgres = PostgresServer(*DURABLE).start()
        self.s3 = S3Server().start()
        self.s3.create_bucket()
        self.url = self.postgres.url("postgres")
        shared = ("--ledger", self.url, "--blobs", "s3://images", "--max-interruptions", "1000", "--lease", LEASE)
        environment = self.s3.environment
        options = (*UNLIMITED, *shared, "--no-engines")
        self.servers = [
            ServerProcess(folder / f"server{number}", *options, "--port", str(port), **environment)
            for number, port in enumerate(free_ports(SERVERS))
        ]
        self.workers = [
            WorkerProcess(folder / f"worker{number}", *shared, "--step-delay", "0.05", **environment)
            for number in range(WORKERS)
        ]

    def start(self) -> None:
        for server in self.servers:
            server.key = self.servers[0].key if server is not self.servers[0] else ""
            server.start()
        for worker in self.workers:
            worker.launch()

    def kill_one(self, rng: random.Random, tally: Tally) -> None:
        """Kill a server or a worker with its engine, and start it again."""
        process = rng.choice([*self.servers, *self.workers])
        tally.kills["a server" if isinstance(process, ServerProcess) else "a worker"] += 1
        process.kill_group()
        process.launch()

    def restart_store(self, step: str) -> None:
        store = self.s3 if "S3" in step else self.postgres
        (self.postgres.stop if step.startswith("stop") else store.kill)()
        time.sleep(OUTAGE)
        store.start()

    def close(self) -> None:
        for process in (*self.servers, *self.workers):
            if hasattr(process, "process") and process.process.poll() is None:
                process.kill_group()
        self.postgres.remove()
        self.s3.remove()

    # --- afterwards ---

    def delete_obsolete_files(self) -> None:
        """Have retention delete the files of attempts that were cut off, which are due an hour later."""
        with psycopg.connect(self.url, autocommit=True) as ledger:
            ledger.execute("UPDATE obsolete_files SET not_before = 0")
            ledger.execute("DELETE FROM task_leases")  # the holder of retention may have been killed
            self.servers[0].kill_group()
            self.servers[0].start()
            until(lambda: ledger.execute("SELECT count(*) FROM obsolete_files").fetchone() == (0,), 90)

    def stored(self) -> set[str]:
        """Return the names of the images in S3."""
        found = (item["path"] for part in obstore.list(self.s3.client("images")) for item in part)
        return {str(path).rpartition("/")[2] for path in found if "/umrgen_" in str(path)}


def trouble(deployment: Deployment, tally: Tally, rng: random.Random, seconds: float, enough: threading.Event) -> None:
    """Kill and restart until the time is over or `enough` is set; each of STEPS happens in any case.

    On the main thread: a process that is tied to this one ends with the thread that started it.
    """
    begun, steps = time.monotonic(), list(STEPS)
    while (time.monotonic() - begun < seconds and not enough.is_set()) or steps:
        passed = (time.monotonic() - begun) / seconds
        if steps and (passed > 1 - len(steps) / (len(STEPS) + 1) or enough.is_set()):
            step = steps.pop(0)
            tally.kills[step] += 1
            deployment.restart_store(step)
        else:
            deployment.kill_one(rng, tally)
        enough.wait(rng.random() * 2)


async def load(
    urls: Sequence[str],
    key: str,
    tally: Tally,
    rng: random.Random,
    *,
    clients: int,
    enough: threading.Event,
    jobs: int,
) -> None:
    """Run the clients until there are enough jobs, or `enough` is set; then let them finish."""
    async with AsyncExitStack() as stack:
        headers = {"Authorization": f"Bearer {key}"}
        https = [
            await stack.enter_async_context(httpx2.AsyncClient(base_url=url, headers=headers, timeout=30))
            for url in urls
        ]
        stop = asyncio.Event()
        running = [asyncio.create_task(RoamingClient(https, tally, rng).work(stop)) for _ in range(clients)]
        while not enough.is_set() and len(tally.receipts) < jobs:  # noqa: ASYNC110 - the other thread sets it
            await asyncio.sleep(0.2)
        enough.set()
        stop.set()
        await asyncio.gather(*running)


def torture(folder: Path, *, seconds: float, jobs: int, clients: int = 12, seed: int = 0) -> tuple[Tally, list[str]]:
    """Return the observations of the clients, and the violations."""
    rng, tally = random.Random(seed), Tally()
    deployment = Deployment(folder)
    try:
        deployment.start()
        enough = threading.Event()
        urls, key = [server.url for server in deployment.servers], deployment.servers[0].key
        work = load(urls, key, tally, random.Random(seed + 1), clients=clients, enough=enough, jobs=jobs)
        with ThreadPoolExecutor(1) as thread:
            loading = thread.submit(asyncio.run, work)
            try:
                trouble(deployment, tally, rng, seconds, enough)
            finally:
                enough.set()
            loading.result()
        for worker in deployment.workers:
            worker.stop()
        deployment.delete_obsolete_files()
        wrong, recorded = check_jobs(deployment.servers[0], tally, REASONS)
        stored = deployment.stored()
        wrong += [f"{name} is an image without a record" for name in stored - recorded]
        lost = {name for name in recorded - stored if image_of_thumbnail(name) is None}
        wrong += [f"{name} is a record without an image" for name in lost]  # a thumbnail is made again when requested
        return tally, wrong
    finally:
        deployment.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--jobs", type=int, default=2000, help="the number of jobs after which none is submitted")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally, wrong = torture(Path(folder), seconds=options.seconds, jobs=options.jobs, seed=options.seed)
    ends = Counter(job["error_code"] or job["state"] for job in tally.ended.values())
    attempts = Counter(job["attempt"] for job in tally.ended.values())
    print(
        f"{dict(tally.kills)} in {time.monotonic() - begun:.0f} s; {tally.submits} submits under {len(tally.receipts)} "
        f"keys; jobs: {dict(ends)}, by attempts: {dict(sorted(attempts.items()))}; wrong: {len(wrong)}"
    )
    for message in wrong[:20]:
        print(f"  {message}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
