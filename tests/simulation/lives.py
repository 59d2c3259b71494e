"""Simulate server processes in virtual time: `python tests/simulation/lives.py --histories 10000`.

The real dispatcher, attempts, leases, retention, batches and SQL run on a fake clock, with a storage and an engine
that fail at random: they crash, stall, refuse a call or report a full disk. A response of the ledger is lost, or a
call to it is repeated late. The process is killed at any step of any task, several times, and restarts with the
durable data. `--seed N` repeats one history.
"""

import argparse
import asyncio
import contextlib
import hashlib
import logging
import math
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulation.leaping import LeapingLoop
from umrgen.model import State
from umrgen.server.blobs import BlobStoreUnavailable
from umrgen.server.domain.job import Change, Conflict, Job
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask, EngineCrashed, EngineFailure, EngineInfo, EngineStalled
from umrgen.server.executors import OnPreview, OnStep, VerifiedImage
from umrgen.server.ledger import Idempotency, LedgerUnavailable
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.scheduler.attempt import AttemptContext, DispatchPolicy
from umrgen.server.scheduler.dispatcher import Dispatcher
from umrgen.server.scheduler.leases import TaskLease
from umrgen.server.scheduler.previews import Previews
from umrgen.server.services.retention import INTERVAL, Retention, RetentionPolicy

SESSIONS = ("sid_a", "sid_b", "sid_c")
CANCEL_DELAY = 1.0
"""Seconds within which the drawing of a job that is over must stop."""
FAILURES = {"engine_failed", "engine_crashed", "engine_stalled", "storage_failed", "cancelled", "interrupted"}


class InvariantViolation(AssertionError):
    """An invariant does not require."""


class ProcessKilled(BaseException):
    """Raised in each task of a killed process, so that it writes nothing; no handler catches it."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise InvariantViolation(message)


class InvariantChecker:
    """Receives every commit, and checks the invariants after each."""

    def __init__(self, files: dict[str, bytes], policy: DispatchPolicy) -> None:
        self.jobs: dict[str, Job] = {}
        self.violations: list[str] = []
        self.faults: Counter[str] = Counter()
        """The number of faults of each job that may be counted as failed attempts."""
        self._files = files
        self._fair = not policy.running_cap
        self._policy = policy
        self.over_at: dict[str, float] = {}
        self._passed: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def on_commit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            try:
                self._check(self.jobs.get(job.id), job)
            except InvariantViolation as violation:
                self.violations.append(f"{job.id}: {violation}")
            self.jobs[job.id] = job
            if job.over:
                self.over_at[job.id] = asyncio.get_running_loop().time()

    def _check(self, before: Job | None, job: Job) -> None:
        require(before is None or not before.over, "it ended twice")
        require(job.tries <= self._policy.max_attempts, "it was tried too often")
        require(job.tries <= self.faults[job.id] + 1, "an attempt without a fault was counted as failed")
        require(job.interruptions <= self._policy.max_interruptions, "it was interrupted too often")
        if job.state is State.COMPLETED:
            names = {output.name for output in job.outputs}
            require(1 <= len(names) == len(job.outputs), "completed without an image")
            require(names <= set(self._files), "completed, and the file of one of its images is missing")
        if job.state is State.FAILED:
            require(job.error_code in FAILURES and bool(job.error), f"it failed without a reason: {job.error_code}")
        if before is not None and before.state is State.QUEUED and job.state is State.RUNNING:
            require(job.token == before.token + 1, "two leases have the same fencing token")
            self._check_fairness(job.session_id)

    def _check_fairness(self, session: str) -> None:
        waiting = {job.session_id for job in self.jobs.values() if job.state is State.QUEUED}
        self._passed[session].clear()
        for other in set(SESSIONS) - {session}:
            if other not in waiting:
                self._passed[other].clear()
            elif self._fair:
                self._passed[other][session] += 1
                require(self._passed[other][session] <= 1, f"{other} waits behind more than one job of {session}")


@dataclass
class World:
    """The state outside of the process, which survives a kill: ledger, files, wall clock, random generator."""

    rng: random.Random
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    files: dict[str, bytes] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    wall: int = 1_800_000_000_000
    faults_enabled: bool = True
    """Whether disks and engines fail; False in the last part of a history, so that every job can end."""
    engine_failure_rate: float = 0.04
    """Probability of a failure of the engine in each step."""

    def happens(self, probability: float) -> bool:
        return self.rng.random() < probability


STORE_OF = {
    "submit": "jobs",
    "get": "jobs",
    "claim": "jobs",
    "expired_leases": "jobs",
    "obsolete_files": "outputs",
    "forget_files": "outputs",
    "newest": "outputs",
    "acquire": "coordination",
}
"""The store of each ledger method that the server's code calls."""


class ServerProcess:
    """A process of the server, with a simulated clock, ledger connection, blob store and executor."""

    def __init__(self, world: World, checker: InvariantChecker, policy: DispatchPolicy, slots: int) -> None:
        self.world = world
        self.killed = False
        self.capacity = 0
        self._slots = slots
        self._on_capacity: Callable[[], None] = lambda: None
        self.info = EngineInfo("fake", "procedural", "1")
        self.trouble = None
        self.loaded = True
        self.drawing: set[str] = set()
        self._late: list[asyncio.Task[None]] = []
        self.checker = checker
        previews = Previews(lambda job_id, wanted: None, lambda job_id: None)
        self.context = AttemptContext(self, self, self, self, policy, previews)  # type: ignore[arg-type]
        self.dispatcher = Dispatcher(self.context, "worker")
        self.retention = self.new_retention()

    def new_retention(self) -> Retention:
        lease = TaskLease(self, "retention", "worker", self)  # type: ignore[arg-type]
        forever, nothing = RetentionPolicy(0, 0, 0), lambda session_id, name: None
        return Retention(self, self, self, self, self, forever, nothing, lease)  # type: ignore[arg-type]

    async def pause(self) -> None:
        """Let other tasks run. Raise ProcessKilled if the process was killed during this time."""
        for _ in range(self.world.rng.randrange(3)):
            await asyncio.sleep(0)
        if self.world.happens(0.2):
            await asyncio.sleep(self.world.rng.random() * 0.05)
        if self.killed:
            raise ProcessKilled

    # --- a clock ---

    def now(self) -> int:
        return self.world.wall + int(asyncio.get_running_loop().time() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # --- a ledger: the real one, with lost responses and repeated calls ---

    async def open(self) -> None:
        await self.world.ledger.open(self._on_commit)

    def _on_commit(self, jobs: Sequence[Job]) -> None:
        self.checker.on_commit(jobs)
        self.dispatcher.notify(jobs)

    async def _call_ledger(self, work: Callable[[], Awaitable[Any]]) -> Any:
        await self.pause()
        if self.world.faults_enabled and self.world.happens(0.02):
            raise LedgerUnavailable("the disk is full")
        try:
            result = await work()
        finally:
            await self.pause()  # the process may be killed after the commit and before the response
        if self.world.faults_enabled and self.world.happens(0.01):
            for job in result if isinstance(result, list) else [result]:
                if isinstance(job, Job):
                    self.checker.faults[job.id] += 1  # it may be leased without a worker
            raise LedgerUnavailable("the change is committed, and the response is lost")
        return result

    async def change(self, job_id: str, change: Change, **values: Any) -> Job:
        """Change a job in the ledger. A change of a worker may be sent a second time, later."""
        if "token" in values and self.world.happens(0.02 if change is Change.PROGRESS else 0.3):
            self._late.append(asyncio.create_task(self._send_duplicate(job_id, change, values)))
        job: Job = await self._call_ledger(lambda: self.world.ledger.jobs.change(job_id, change, **values))
        return job

    async def _send_duplicate(self, job_id: str, change: Change, values: dict[str, Any]) -> None:
        await asyncio.sleep(self.world.rng.random() * 60)
        if self.killed:
            return
        with contextlib.suppress(Conflict):
            await self.world.ledger.jobs.change(job_id, change, **values)

    def __getattr__(self, name: str) -> Any:
        store = STORE_OF.get(name)
        if store is None:
            raise AttributeError(name)
        method = getattr(getattr(self.world.ledger, store), name)
        return lambda *args, **kwargs: self._call_ledger(lambda: method(*args, **kwargs))

    def peek(self, job_id: str) -> Job | None:
        return self.world.ledger.jobs.peek(job_id)

    # --- a storage ---

    async def put(self, session_id: str, name: str, data: bytes) -> None:
        await self.pause()
        if self.world.faults_enabled and self.world.happens(0.05):
            self.checker.faults[data.decode()] += 1
            raise BlobStoreUnavailable("the image could not be stored: No space left on device")
        self.world.files[name] = data
        await self.pause()

    async def delete(self, session_id: str, name: str) -> None:
        await self.pause()
        self.world.files.pop(name, None)

    # --- an executor ---

    async def ready(self) -> None:
        await self.pause()

    def watch(self, on_capacity: Callable[[], None]) -> None:
        self._on_capacity = on_capacity

    async def engines(self) -> None:
        """Change the capacity a few times: an engine ends without a job, and is started again."""
        for _ in range(self.world.rng.randint(1, 4)):
            self.capacity = self.world.rng.randint(0, self._slots - 1)
            await asyncio.sleep(self.world.rng.random() * 20)
            self.capacity = self._slots
            self._on_capacity()
            await asyncio.sleep(self.world.rng.random() * 100)

    async def run(
        self, task: DrawTask, on_step: OnStep, on_preview: OnPreview | None = None, batch: object = None
    ) -> tuple[VerifiedImage, ...]:
        job_id, request = task.job_id, task.request
        # Recorded instead of raised: the dispatcher would handle an exception as a failure of the engine.
        if job_id in self.drawing or len(self.drawing) >= self._slots:
            self.checker.violations.append(f"{job_id}: drawn together with {self.drawing} in {self._slots} slots")
        self.drawing.add(job_id)
        try:
            for step in range(1, request.steps + 1):
                await asyncio.sleep(self.world.rng.random() * 5)
                if self.monotonic() - self.checker.over_at.get(job_id, math.inf) > CANCEL_DELAY:
                    self.checker.violations.append(f"{job_id}: the engine did not stop after the end of its job")
                self._fail_at_random(job_id)
                on_step(step, request.steps)
            data = job_id.encode()
            image = VerifiedImage(data, hashlib.sha256(data).hexdigest(), 512, 512)
            return (image,) * self.world.rng.choice((1, 1, 3))
        finally:
            self.drawing.discard(job_id)

    def _fail_at_random(self, job_id: str) -> None:
        if self.world.faults_enabled and self.world.happens(self.world.engine_failure_rate):
            self.checker.faults[job_id] += 1
            kinds = [EngineCrashed("it was ended by SIGSEGV"), EngineStalled("no progress"), EngineFailure("refused")]
            raise self.world.rng.choice([*kinds, ZeroDivisionError("a defect of the server: the attempt is lost")])

    # --- callers ---

    async def caller(self, jobs: int) -> None:
        """Submit jobs under idempotency keys, repeat a submit without a response; cancel some of them."""
        rng = self.world.rng
        for _ in range(jobs):
            await asyncio.sleep(rng.random() * 10)
            session, key = rng.choice(SESSIONS), Idempotency(f"{rng.random()}", b"")
            spec = GenerationRequest("a boat", seed=1, width=512, height=512, steps=rng.randint(1, 4))
            name = f"ext_{rng.getrandbits(64):x}"
            while True:
                try:
                    job, _ = await self.submit(
                        name, session, spec, "fake", now=self.now(), priority=rng.randint(-1, 1), idempotency=key
                    )
                    break
                except LedgerUnavailable:
                    await asyncio.sleep(1)
            self.world.acknowledged.add(job.id)
            if self.world.happens(0.2):
                await asyncio.sleep(rng.random() * 15)
                await self._cancel(job.id)

    async def _cancel(self, job_id: str) -> None:
        try:
            await self.change(job_id, Change.CANCEL, now=self.now(), error="cancelled", error_code="cancelled")
        except (Conflict, LedgerUnavailable):
            return

    async def set_clock(self) -> None:
        """Change the wall clock by up to an hour, again and again."""
        while True:
            await asyncio.sleep(self.world.rng.random() * 200)
            self.world.wall += self.world.rng.randint(-3_600_000, 3_600_000)


async def _serve(process: ServerProcess, callers: int, *, until_all_are_over: bool) -> None:
    world = process.world
    world.faults_enabled = False  # a start with a failing disk ends with an error, and the supervisor repeats it
    await process.open()
    await process.dispatcher.recover()
    world.faults_enabled = callers > 0
    process.dispatcher.start()
    retaining = asyncio.create_task(process.retention.run())
    changing = [asyncio.create_task(process.set_clock()), asyncio.create_task(process.engines())]
    await asyncio.gather(*(process.caller(world.rng.randint(1, 4)) for _ in range(callers)))
    if not until_all_are_over:
        await asyncio.sleep(world.rng.random() * 30)
        await process.dispatcher.drain(world.rng.random() * 10)
    else:
        world.faults_enabled = False
        async with asyncio.timeout(24 * 3600):
            while any(not job.over for job in process.checker.jobs.values()):  # noqa: ASYNC110 - in virtual time
                await asyncio.sleep(1)
        await process.dispatcher.drain(10)
        for task in changing:
            task.cancel()
        world.wall += 4 * 3_600_000  # later than every time that the clock has had, so that each file is due
        retaining.cancel()  # it does not trust a clock that jumps; a new one does
        retaining = asyncio.create_task(process.new_retention().run())
        await asyncio.sleep(2 * INTERVAL)
    for task in changing:
        task.cancel()
    retaining.cancel()


def _run(process: ServerProcess, callers: int, *, until_all_are_over: bool) -> None:
    """Run a process until its end, or until it is killed at a random step."""
    loop = LeapingLoop()
    loop.set_exception_handler(lambda loop, context: None)  # a killed process leaves tasks unfinished
    serving = loop.create_task(_serve(process, callers, until_all_are_over=until_all_are_over))

    def kill() -> None:
        process.killed = True
        serving.cancel()

    if not until_all_are_over and process.world.happens(0.8):
        loop.at(process.world.rng.randint(1, 900), kill)
    try:
        loop.run_until_complete(asyncio.wait({serving}))
        if not serving.cancelled() and not process.killed:
            serving.result()
        process.killed = True
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        for _ in range(4):
            loop.run_until_complete(asyncio.sleep(0))  # until the checker has received every commit
    finally:
        process.world.wall += int(loop.time() * 1000)
        loop.close()


def play(seed: int) -> Counter[str]:
    """Run one history to its end. Return the number of jobs by their end; raise InvariantViolation."""
    world = World(random.Random(seed))
    try:
        return _play(world)
    finally:
        world.ledger.discard()


def _play(world: World) -> Counter[str]:
    cap = world.rng.choice((0, 0, 0, 1))
    world.engine_failure_rate = world.rng.choice((0.04, 0.04, 0.3))
    policy = DispatchPolicy(
        lease=30,
        max_attempts=3,
        max_interruptions=world.rng.choice((20, 20, 1)),
        running_cap=cap,
        storage_timeout=5,
    )
    checker = InvariantChecker(world.files, policy)
    processes, slots = world.rng.randint(1, 5), world.rng.randint(1, 3)
    for number in range(processes):
        callers, last = world.rng.randint(1, 4), number == processes - 1
        _run(ServerProcess(world, checker, policy, slots), callers, until_all_are_over=last)
    last_process = ServerProcess(world, checker, policy, slots)  # it deletes the files of killed processes
    _run(last_process, 0, until_all_are_over=True)
    require(not checker.violations, "; ".join(checker.violations))
    for job_id in world.acknowledged:
        require(job_id in checker.jobs and checker.jobs[job_id].over, f"{job_id} was acknowledged and never ended")
    recorded = {output.name for job in checker.jobs.values() for output in job.outputs}
    require(recorded <= set(world.files), "the file of a recorded image is missing")
    require(recorded >= set(world.files), "a file has no record")
    return Counter(job.error_code or job.state.value for job in checker.jobs.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if options.seed is not None:
        print(dict(play(options.seed)))
        return
    begun, ends, failed = time.monotonic(), Counter[str](), []
    for seed in range(options.histories):
        try:
            ends += play(seed)
        except Exception as error:
            failed.append(seed)
            print(f"history {seed}: {type(error).__name__}: {error}", file=sys.stderr)
            if len(failed) == 5:
                break
    seconds = time.monotonic() - begun
    print(f"{options.histories} histories in {seconds:.0f} s, {len(failed)} failed; jobs: {dict(ends)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
