"""Simulated histories of a server, fewer than in `make simulate`: see tests/simulation/lives.py."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from simulation import lives
from simulation.leaping import Stuck
from simulation.lives import play

from umrgen.server.domain.job import Job, advance
from umrgen.server.ledger.sql import job_changes
from umrgen.server.ledger.sql.statements import load_statements
from umrgen.server.ledger.sqlite.connection import DIALECT
from umrgen.server.scheduler.attempt import Attempt
from umrgen.server.scheduler.dispatcher import Dispatcher
from umrgen.server.services.retention import Retention


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.mark.parametrize("hundred", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 5))])
def test_every_acknowledged_job_ends_once(hundred: int) -> None:
    seeds = range(100 * hundred, 100 * hundred + (100 if hundred else 40))  # the first is in the quick run
    ends = sum(sum(play(seed).values()) for seed in seeds)
    assert ends > 5 * len(seeds), "the histories have too few jobs"


def test_a_seed_repeats_its_history() -> None:
    assert play(11) == play(11)


async def nothing(*_: Any, **__: Any) -> None:
    """Replaces a part that a fault removes."""


def no_turns(patch: pytest.MonkeyPatch) -> None:
    statements, _ = load_statements(DIALECT)
    patch.setitem(statements, "next_jobs", statements["next_jobs"].replace("turn.served, ", ""))


def no_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        job_changes, "advance", lambda job, change, **values: advance(job, change, **values | {"token": None})
    )


def no_recovery(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatcher, "recover", nothing)


def no_check_of_leases(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatcher, "_check_lease", nothing)


def ended_leases_counted_as_crashes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatcher, "_check_lease", lambda self, job: Attempt(job, self._context).lease_expired())


def no_deletion(patch: pytest.MonkeyPatch) -> None:
    async def none(retention: Retention, now: int) -> int:
        return 0

    patch.setattr(Retention, "_delete_files", none)


def no_deletion_of_obsolete_images(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lives.ServerProcess, "delete", nothing)


def interruptions_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attempt, "interrupted", lambda self: self._retry("engine_crashed", "the server was stopped"))


def restarts_without_limit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attempt, "interrupted", lambda self: self._release("stopped", self.job.interruptions + 1))


def attempts_without_limit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attempt, "_retry", lambda self, code, what: self._release(what, self.job.interruptions))


def cancellations_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attempt, "end", lambda self: None)


def new_jobs_ignored(patch: pytest.MonkeyPatch) -> None:
    notify = Dispatcher.notify

    def notify_of_ends(self: Dispatcher, jobs: Sequence[Job]) -> None:
        if any(job.over for job in jobs):
            notify(self, jobs)

    patch.setattr(Dispatcher, "notify", notify_of_ends)


def capacity_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lives.ServerProcess, "watch", lambda self, on_capacity: None)


FAULTS = (
    *(no_turns, no_fence, no_recovery, no_check_of_leases, ended_leases_counted_as_crashes, no_deletion),
    *(no_deletion_of_obsolete_images, interruptions_counted, restarts_without_limit, attempts_without_limit),
    *(cancellations_ignored, new_jobs_ignored, capacity_ignored),
)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_simulation_detects_a_fault_of_the_server(fault: Callable[[pytest.MonkeyPatch], None]) -> None:
    """At least one history violates an invariant for each of these faults."""
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        with pytest.raises((AssertionError, TimeoutError, Stuck)):
            for seed in range(500):
                play(seed)
