"""Compare each ledger with a model by random sequences of calls: concurrent submits, workers with an expired
lease, changes of the wall clock, cancellations and restarts.
"""

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from postgres import shared_databases
from umrgen.model import State
from umrgen.server.domain.job import Change, Conflict, Job, Output
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger import Caps, Idempotency, IdempotencyConflict, JobCounts, Ledger, QueueFull
from umrgen.server.ledger.postgres.ledger import PostgresLedger
from umrgen.server.ledger.sqlite.file import SqliteLedger
from umrgen.server.ledger.sqlite.memory import MemoryLedger

SPEC = GenerationRequest("a lighthouse", seed=7)
SESSIONS = ("sid_a", "sid_b", "sid_c")
LEASE = 30_000


@dataclass
class ModelJob:
    """A job in the model."""

    session: str
    priority: int
    number: int
    state: State = State.QUEUED
    token: int = 0
    lease_until: int | None = None
    output: str | None = None


@dataclass
class Model:
    """A model of a ledger's rules, without a database."""

    jobs: dict[str, ModelJob] = field(default_factory=dict)
    served: dict[str, int] = field(default_factory=dict)
    turn: int = 0
    posted: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)

    def queued(self, session: str) -> list[str]:
        waiting = [name for name, job in self.jobs.items() if (job.session, job.state) == (session, State.QUEUED)]
        return sorted(waiting, key=lambda name: (-self.jobs[name].priority, self.jobs[name].number))

    def running(self, session: str) -> int:
        return sum((job.session, job.state) == (session, State.RUNNING) for job in self.jobs.values())

    def order(self) -> list[str]:
        """Return the queued jobs in the order in which they are claimed without further submits."""
        queues = {session: self.queued(session) for session in SESSIONS}
        served, order = dict(self.served), []
        while waiting := [session for session in SESSIONS if queues[session]]:
            session = min(waiting, key=lambda name: (served.get(name, 0), name))
            order.append(queues[session].pop(0))
            served[session] = self.turn + len(order)
        return order

    def next(self, cap: int) -> str | None:
        allowed = [name for name in self.order() if not cap or self.running(self.jobs[name].session) < cap]
        return allowed[0] if allowed else None

    def claim(self, name: str, lease_until: int) -> None:
        job = self.jobs[name]
        job.state, job.token, job.lease_until = State.RUNNING, job.token + 1, lease_until
        self.turn += 1
        self.served[job.session] = self.turn

    def holds(self, name: str, token: int) -> bool:
        job = self.jobs[name]
        return job.state is State.RUNNING and job.token == token

    def end(self, name: str, state: State, output: str | None = None) -> None:
        job = self.jobs[name]
        job.state, job.lease_until, job.output = state, None, output


class LedgerMachine(RuleBasedStateMachine):
    """Applies each operation to the ledger and the model, and compares them. Subclasses choose the ledger."""

    leases = Bundle("leases")

    def make(self) -> Ledger:
        raise NotImplementedError

    @initialize()
    def open(self) -> None:
        self.runner = asyncio.Runner()
        self.model = Model()
        self.reported: dict[str, Job] = {}
        self.now = 1_000_000
        self.ledger = self.make()
        self.do(self.ledger.open(self.on_commit))

    def teardown(self) -> None:
        self.do(self.ledger.close())
        self.runner.close()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def on_commit(self, jobs: Any) -> None:
        for job in jobs:
            assert job.version > (self.reported[job.id].version if job.id in self.reported else 0)
            self.reported[job.id] = job

    def change(self, name: str, change: Change, *, allowed: bool, **values: Any) -> bool:
        """Change a job, and assert that the ledger does so if and only if the model allows it. Return `allowed`."""
        try:
            self.do(self.ledger.jobs.change(name, change, now=self.now, **values))
        except Conflict:
            assert not allowed, "the ledger refused a change that the model allows"
        else:
            assert allowed, "the ledger made a change that the model refuses"
        return allowed

    # --- rules ---

    @rule(session=st.sampled_from(SESSIONS), priority=st.integers(-2, 2), cap=st.sampled_from((0, 0, 3)))
    def submit(self, session: str, priority: int, cap: int) -> None:
        name = f"ext_{len(self.model.jobs)}"
        full = bool(cap) and len(self.model.queued(session)) >= cap
        try:
            self.do(
                self.ledger.jobs.submit(
                    name, session, SPEC, "procedural", now=self.now, priority=priority, caps=Caps(queued=cap)
                )
            )
        except QueueFull:
            assert full
        else:
            assert not full
            self.model.jobs[name] = ModelJob(session, priority, len(self.model.jobs))

    @rule(
        session=st.sampled_from(SESSIONS),
        key=st.sampled_from(("one", "two")),
        digest=st.sampled_from((b"this", b"that")),
        callers=st.integers(1, 5),
    )
    def post(self, session: str, key: str, digest: bytes, callers: int) -> None:
        """Several concurrent submits with one idempotency key."""
        first = len(self.model.jobs)

        async def submit_concurrently() -> list[Any]:
            once = Idempotency(key, digest, kept_for=2**40)
            posts = (
                self.ledger.jobs.submit(
                    f"ext_{first}_{number}", session, SPEC, "procedural", now=self.now, idempotency=once
                )
                for number in range(callers)
            )
            return await asyncio.gather(*posts, return_exceptions=True)

        results = self.do(submit_concurrently())
        known = self.model.posted.get((session, key))
        if known and known[0] != digest:
            assert all(isinstance(result, IdempotencyConflict) for result in results)
            return
        (name,) = {job.id for job, _ in results}
        assert sum(new for _, new in results) == (0 if known else 1)
        if known:
            assert name == known[1]
        else:
            self.model.posted[session, key] = (digest, name)
            self.model.jobs[name] = ModelJob(session, 0, first)

    @rule(target=leases, limit=st.sampled_from((1, 1, 1, 3)), cap=st.sampled_from((0, 0, 1, 2)))
    def claim(self, limit: int, cap: int) -> Any:
        until = self.now + LEASE
        jobs = self.do(self.ledger.jobs.claim("worker", now=self.now, lease_until=until, limit=limit, running_cap=cap))
        for job in jobs:
            assert job.id == self.model.next(cap)
            self.model.claim(job.id, until)
        assert len(jobs) == limit or self.model.next(cap) is None
        return multiple(*jobs)

    @rule(lease=leases, step=st.integers(1, 4))
    def progress(self, lease: Job, step: int) -> None:
        """A heartbeat of a worker whose lease may have expired."""
        until, ours = self.now + LEASE, self.model.holds(lease.id, lease.token)
        if self.change(lease.id, Change.PROGRESS, allowed=ours, token=lease.token, step=step, lease_until=until):
            self.model.jobs[lease.id].lease_until = until

    @rule(lease=leases)
    def complete(self, lease: Job) -> None:
        output = Output(f"{lease.id}_{lease.token}.png", lease.session_id, 3, "00" * 32, 512, 512)
        ours = self.model.holds(lease.id, lease.token)
        if self.change(lease.id, Change.COMPLETE, allowed=ours, token=lease.token, outputs=(output,)):
            self.model.end(lease.id, State.COMPLETED, output.name)

    @rule(lease=consumes(leases), change=st.sampled_from((Change.FAIL, Change.RELEASE)))
    def give_up(self, lease: Job, change: Change) -> None:
        if self.change(lease.id, change, allowed=self.model.holds(lease.id, lease.token), token=lease.token):
            self.model.end(lease.id, State.FAILED if change is Change.FAIL else State.QUEUED)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.model.jobs:
            name = data.draw(st.sampled_from(sorted(self.model.jobs)))
            if self.change(name, Change.CANCEL, allowed=not self.model.jobs[name].state.over):
                self.model.end(name, State.FAILED)

    @rule(milliseconds=st.integers(-2 * LEASE, 4 * LEASE))
    def set_clock(self, milliseconds: int) -> None:
        self.now += milliseconds

    @rule(data=st.data(), renews=st.booleans())
    def release_expired(self, data: st.DataObject, renews: bool) -> None:
        """Release jobs with an expired lease; a worker that renews its lease after the query keeps its job."""
        expired_leases = self.do(self.ledger.jobs.expired_leases(now=self.now))
        late = {n for n, job in self.model.jobs.items() if job.lease_until is not None and job.lease_until < self.now}
        assert {job.id for job in expired_leases} == late
        for job in expired_leases:
            if renews:
                self.progress(job, 1)
            guard = {"token": job.token, "version": job.version}
            if self.change(job.id, Change.RELEASE, allowed=not renews, **guard):
                self.model.end(job.id, State.QUEUED)

    @rule()
    def restart(self) -> None:
        self.do(self.ledger.close())
        self.do(self.ledger.open(self.on_commit))

    # --- invariants ---

    @invariant()
    def every_job_equals_the_models(self) -> None:
        order = self.model.order()
        jobs = self.do(self.ledger.jobs.get_many(list(self.model.jobs)))
        assert {job.id for job in jobs} == set(self.model.jobs)
        for job in jobs:
            entry = self.model.jobs[job.id]
            assert (job.state, job.token, job.lease_until) == (entry.state, entry.token, entry.lease_until)
            assert [output.name for output in job.outputs] == ([entry.output] if entry.output else [])
            assert self.do(self.ledger.jobs.get(job.id)) == job == self.reported[job.id]
            position = self.do(self.ledger.jobs.queue_position(job))
            assert position == (order.index(job.id) + 1 if job.id in order else None)

    @invariant()
    def the_counts_equal_the_models(self) -> None:
        states = [job.state for job in self.model.jobs.values()]
        expected = JobCounts(states.count(State.QUEUED), states.count(State.RUNNING))
        assert self.do(self.ledger.jobs.count()) == expected


class MemoryMachine(LedgerMachine):
    def make(self) -> Ledger:
        return MemoryLedger()


class SqliteMachine(LedgerMachine):
    def make(self) -> Ledger:
        self.folder = tempfile.TemporaryDirectory()
        return SqliteLedger(Path(self.folder.name) / "ledger.sqlite3")

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


class PostgresMachine(LedgerMachine):
    def make(self) -> Ledger:
        return PostgresLedger(shared_databases().create_schema())

    def teardown(self) -> None:
        super().teardown()
        shared_databases().drop()


THOROUGH = settings.get_current_profile_name() == "random"
"""Whether this is a run of `make check`, with random examples."""

TestMemoryLedger = MemoryMachine.TestCase
TestMemoryLedger.settings = settings(max_examples=150 if THOROUGH else 40, stateful_step_count=40)
TestSqliteLedger = SqliteMachine.TestCase
TestSqliteLedger.settings = settings(max_examples=50 if THOROUGH else 15, stateful_step_count=40)
TestPostgresLedger = PostgresMachine.TestCase
TestPostgresLedger.settings = settings(max_examples=20 if THOROUGH else 4, stateful_step_count=40)
