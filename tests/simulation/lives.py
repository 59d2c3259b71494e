"""Whole lives of a server, played without a clock: `python tests/simulation/lives.py --histories 10000`.

The real dispatcher, attempts, leases, sweep, batches and SQL run on a fake clock with a storage and an engine
that do what chance says: crash, stall, refuse, fill up. An answer of the ledger is lost, or what was asked of it
arrives a second time, late. The process dies at any step of any task, several times, and starts again on what
was durable. `--seed N` plays one history again.
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
SOON = 1.0
"""Seconds within which an engine has heard that its job is over."""
FAILURES = {"engine_failed", "engine_crashed", "engine_stalled", "storage_failed", "cancelled", "interrupted"}


class Broken(AssertionError):
    """An invariant does not hold."""


class Dead(BaseException):
    """The process was killed: nothing of it reaches the disk any more, and nothing catches this."""


def hold(condition: bool, words: str) -> None:
    if not condition:
        raise Broken(words)


class Witness:
    """Sees every commit, and what must hold after each."""

    def __init__(self, files: dict[str, bytes], policy: DispatchPolicy) -> None:
        self.jobs: dict[str, Job] = {}
        self.broken: list[str] = []
        self.faults: Counter[str] = Counter()
        """What went wrong with each job that may cost it an attempt."""
        self._files = files
        self._fair = not policy.running_cap
        self._policy = policy
        self.over_at: dict[str, float] = {}
        self._passed: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def see(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            try:
                self._check(self.jobs.get(job.id), job)
            except Broken as broken:
                self.broken.append(f"{job.id}: {broken}")
            self.jobs[job.id] = job
            if job.over:
                self.over_at[job.id] = asyncio.get_running_loop().time()

    def _check(self, before: Job | None, job: Job) -> None:
        hold(before is None or not before.over, "it ended twice")
        hold(job.tries <= self._policy.max_attempts, "it was tried too often")
        hold(job.tries <= self.faults[job.id] + 1, "an attempt was counted that nothing went wrong with")
        hold(job.interruptions <= self._policy.max_interruptions, "it was interrupted too often")
        if job.state is State.COMPLETED:
            names = {output.name for output in job.outputs}
            hold(1 <= len(names) == len(job.outputs), "completed without an image")
            hold(names <= set(self._files), "completed without one of its images")
        if job.state is State.FAILED:
            hold(job.error_code in FAILURES and bool(job.error), f"it failed without a reason: {job.error_code}")
        if before is not None and before.state is State.QUEUED and job.state is State.RUNNING:
            hold(job.token == before.token + 1, "a lease was given twice")
            self._served(job.session_id)

    def _served(self, session: str) -> None:
        waiting = {job.session_id for job in self.jobs.values() if job.state is State.QUEUED}
        self._passed[session].clear()
        for other in set(SESSIONS) - {session}:
            if other not in waiting:
                self._passed[other].clear()
            elif self._fair:
                self._passed[other][session] += 1
                hold(self._passed[other][session] <= 1, f"{other} waits behind more than one job of {session}")


@dataclass
class World:
    """What outlasts a process: the ledger, the files, the clock on the wall, and chance."""

    chance: random.Random
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    files: dict[str, bytes] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    wall: int = 1_800_000_000_000
    troubled: bool = True
    """Whether disks fill up and engines break; they stop doing so in the end."""
    frailty: float = 0.04
    """How often an engine breaks, by its steps."""

    def luck(self, share: float) -> bool:
        return self.chance.random() < share


STORE_OF = {
    "submit": "jobs",
    "get": "jobs",
    "claim": "jobs",
    "expired_leases": "jobs",
    "obsolete_files": "outputs",
    "forget_files": "outputs",
    "acquire": "coordination",
}
"""The calls of the ledger that a life makes."""


class Life:
    """One process: everything durable is reached through it, until it is dead."""

    def __init__(self, world: World, witness: Witness, policy: DispatchPolicy, slots: int) -> None:
        self.world = world
        self.dead = False
        self.capacity = 0
        self._places = slots
        self._on_capacity: Callable[[], None] = lambda: None
        self.info = EngineInfo("fake", "procedural", "1")
        self.trouble = None
        self.drawing: set[str] = set()
        self._late: list[asyncio.Task[None]] = []
        self.witness = witness
        previews = Previews(lambda job_id, wanted: None, lambda job_id: None)
        self.context = AttemptContext(self, self, self, self, policy, previews)  # type: ignore[arg-type]  # it is all four
        self.dispatcher = Dispatcher(self.context, "worker")
        lease = TaskLease(self, "retention", "worker", self)  # type: ignore[arg-type]
        forever, nothing = RetentionPolicy(0, 0, 0), lambda session_id, name: None
        self.retention = Retention(self, self, self, self, forever, nothing, lease)  # type: ignore[arg-type]

    async def pause(self) -> None:
        """An await: others get their turn here, and the process may have died meanwhile."""
        for _ in range(self.world.chance.randrange(3)):
            await asyncio.sleep(0)
        if self.world.luck(0.2):
            await asyncio.sleep(self.world.chance.random() * 0.05)
        if self.dead:
            raise Dead

    # --- a clock ---

    def now(self) -> int:
        return self.world.wall + int(asyncio.get_running_loop().time() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # --- a ledger: the real one, behind a wire ---

    async def open(self) -> None:
        await self.world.ledger.open(self._told)

    def _told(self, jobs: Sequence[Job]) -> None:
        self.witness.see(jobs)
        self.dispatcher.notify(jobs)

    async def _wire(self, work: Callable[[], Awaitable[Any]]) -> Any:
        await self.pause()
        if self.world.troubled and self.world.luck(0.02):
            raise LedgerUnavailable("the disk is full")
        try:
            result = await work()
        finally:
            await self.pause()  # it is committed, and the process may die before it knows
        if self.world.troubled and self.world.luck(0.01):
            for job in result if isinstance(result, list) else [result]:
                if isinstance(job, Job):
                    self.witness.faults[job.id] += 1  # leased, and its worker does not know it
            raise LedgerUnavailable("it is written, and its answer is lost")
        return result

    async def change(self, job_id: str, change: Change, **values: Any) -> Job:
        """As the ledger's own. What a worker says may arrive once more, when nobody expects it."""
        if "token" in values and self.world.luck(0.02 if change is Change.PROGRESS else 0.3):
            self._late.append(asyncio.create_task(self._say_again(job_id, change, values)))
        job: Job = await self._wire(lambda: self.world.ledger.jobs.change(job_id, change, **values))
        return job

    async def _say_again(self, job_id: str, change: Change, values: dict[str, Any]) -> None:
        await asyncio.sleep(self.world.chance.random() * 60)
        if self.dead:
            return
        with contextlib.suppress(Conflict):
            await self.world.ledger.jobs.change(job_id, change, **values)

    def __getattr__(self, name: str) -> Any:
        store = STORE_OF.get(name)
        if store is None:
            raise AttributeError(name)
        method = getattr(getattr(self.world.ledger, store), name)
        return lambda *args, **kwargs: self._wire(lambda: method(*args, **kwargs))

    def peek(self, job_id: str) -> Job | None:
        return self.world.ledger.jobs.peek(job_id)

    # --- a storage ---

    async def put(self, session_id: str, name: str, data: bytes) -> None:
        await self.pause()
        if self.world.troubled and self.world.luck(0.05):
            self.witness.faults[data.decode()] += 1
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
        """Engines start, and some end a few times without a job: the capacity changes."""
        for _ in range(self.world.chance.randint(1, 4)):
            self.capacity = self.world.chance.randint(0, self._places - 1)
            await asyncio.sleep(self.world.chance.random() * 20)
            self.capacity = self._places
            self._on_capacity()
            await asyncio.sleep(self.world.chance.random() * 100)

    async def run(
        self, task: DrawTask, on_step: OnStep, on_preview: OnPreview | None = None
    ) -> tuple[VerifiedImage, ...]:
        job_id, request = task.job_id, task.request
        # Not raised here, where the dispatcher would take it for an engine's failure.
        if job_id in self.drawing or len(self.drawing) >= self._places:
            self.witness.broken.append(f"{job_id}: drawn beside {self.drawing} in {self._places} places")
        self.drawing.add(job_id)
        try:
            for step in range(1, request.steps + 1):
                await asyncio.sleep(self.world.chance.random() * 5)
                if self.monotonic() - self.witness.over_at.get(job_id, math.inf) > SOON:
                    self.witness.broken.append(f"{job_id}: it was drawn on after its end")
                self._break_down(job_id)
                on_step(step, request.steps)
            data = job_id.encode()
            image = VerifiedImage(data, hashlib.sha256(data).hexdigest(), 512, 512)
            return (image,) * self.world.chance.choice((1, 1, 3))
        finally:
            self.drawing.discard(job_id)

    def _break_down(self, job_id: str) -> None:
        if self.world.troubled and self.world.luck(self.world.frailty):
            self.witness.faults[job_id] += 1
            kinds = [EngineCrashed("it was ended by SIGSEGV"), EngineStalled("no progress"), EngineFailure("refused")]
            raise self.world.chance.choice([*kinds, ZeroDivisionError("a fault of our own: the attempt is lost")])

    # --- callers ---

    async def caller(self, jobs: int) -> None:
        """Submits under idempotency keys, again when it gets no answer; sometimes cancels."""
        chance = self.world.chance
        for _ in range(jobs):
            await asyncio.sleep(chance.random() * 10)
            session, key = chance.choice(SESSIONS), Idempotency(f"{chance.random()}", b"")
            spec = GenerationRequest("a boat", seed=1, width=512, height=512, steps=chance.randint(1, 4))
            name = f"ext_{chance.getrandbits(64):x}"
            while True:
                try:
                    job, _ = await self.submit(
                        name, session, spec, "fake", now=self.now(), priority=chance.randint(-1, 1), idempotency=key
                    )
                    break
                except LedgerUnavailable:
                    await asyncio.sleep(1)
            self.world.acknowledged.add(job.id)
            if self.world.luck(0.2):
                await asyncio.sleep(chance.random() * 15)
                await self._cancel(job.id)

    async def _cancel(self, job_id: str) -> None:
        try:
            await self.change(job_id, Change.CANCEL, now=self.now(), error="cancelled", error_code="cancelled")
        except (Conflict, LedgerUnavailable):
            return

    async def jumps(self) -> None:
        """Somebody sets the clock."""
        while True:
            await asyncio.sleep(self.world.chance.random() * 200)
            self.world.wall += self.world.chance.randint(-3_600_000, 3_600_000)


async def _live(life: Life, callers: int, *, until_all_are_over: bool) -> None:
    world = life.world
    world.troubled = False  # a start on a broken disk fails at once, and is tried again by whoever starts servers
    await life.open()
    await life.dispatcher.recover()
    world.troubled = callers > 0
    life.dispatcher.start()
    retaining = asyncio.create_task(life.retention.run())
    changing = [asyncio.create_task(life.jumps()), asyncio.create_task(life.engines())]
    await asyncio.gather(*(life.caller(world.chance.randint(1, 4)) for _ in range(callers)))
    if not until_all_are_over:
        await asyncio.sleep(world.chance.random() * 30)
        await life.dispatcher.drain(world.chance.random() * 10)
    else:
        world.troubled = False
        async with asyncio.timeout(24 * 3600):
            while any(not job.over for job in life.witness.jobs.values()):  # noqa: ASYNC110 - on a clock that leaps
                await asyncio.sleep(1)
        await life.dispatcher.drain(10)
        world.wall += 4 * 3_600_000  # later than the clock ever was, and than a late file can be
        await asyncio.sleep(2 * INTERVAL)
    for task in changing:
        task.cancel()
    retaining.cancel()


def _run(life: Life, callers: int, *, until_all_are_over: bool) -> None:
    """Live until the end, or until the process is killed at some step."""
    loop = LeapingLoop()
    loop.set_exception_handler(lambda loop, context: None)  # the dead leave things behind
    living = loop.create_task(_live(life, callers, until_all_are_over=until_all_are_over))

    def die() -> None:
        life.dead = True
        living.cancel()

    if not until_all_are_over and life.world.luck(0.8):
        loop.at(life.world.chance.randint(1, 900), die)
    try:
        loop.run_until_complete(asyncio.wait({living}))
        if not living.cancelled() and not life.dead:
            living.result()
        life.dead = True
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        for _ in range(4):
            loop.run_until_complete(asyncio.sleep(0))  # what is committed by now has been seen
    finally:
        life.world.wall += int(loop.time() * 1000)
        loop.close()


def play(seed: int) -> Counter[str]:
    """One history, to its end. Raises Broken; gives how its jobs ended."""
    world = World(random.Random(seed))
    try:
        return _play(world)
    finally:
        world.ledger.discard()


def _play(world: World) -> Counter[str]:
    cap = world.chance.choice((0, 0, 0, 1))
    world.frailty = world.chance.choice((0.04, 0.04, 0.3))
    policy = DispatchPolicy(
        lease=30,
        max_attempts=3,
        max_interruptions=world.chance.choice((20, 20, 1)),
        running_cap=cap,
        storage_timeout=5,
    )
    witness = Witness(world.files, policy)
    lives, slots = world.chance.randint(1, 5), world.chance.randint(1, 3)
    for number in range(lives):
        callers, last = world.chance.randint(1, 4), number == lives - 1
        _run(Life(world, witness, policy, slots), callers, until_all_are_over=last)
    _run(Life(world, witness, policy, slots), 0, until_all_are_over=True)  # it sweeps what the others left
    hold(not witness.broken, "; ".join(witness.broken))
    for job_id in world.acknowledged:
        hold(job_id in witness.jobs and witness.jobs[job_id].over, f"{job_id} was acknowledged and never ended")
    recorded = {output.name for job in witness.jobs.values() for output in job.outputs}
    hold(recorded <= set(world.files), "an image is gone")
    hold(recorded >= set(world.files), "an image is without a record")
    return Counter(job.error_code or job.state.value for job in witness.jobs.values())


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
    print(f"{options.histories} lives of a server in {seconds:.0f} s, {len(failed)} failed; jobs: {dict(ends)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
