"""The time of the ledger's database, on a machine whose clock differs."""

import logging

import pytest

from umrgen.server.services.ledger_clock import LedgerClock


class Machine:
    """A machine's clock, and a database whose clock is `ahead` of it, which answers after `took` seconds."""

    def __init__(self, ahead: int | None, took: float = 0.0) -> None:
        self.time, self.ahead, self.took = 1_000_000.0, ahead, took

    def now(self) -> int:
        return int(self.time)

    def monotonic(self) -> float:
        return self.time / 1000

    async def sleep(self, seconds: float) -> None:
        self.time += seconds * 1000

    async def read(self) -> int | None:
        await self.sleep(self.took / 2)
        there = None if self.ahead is None else self.now() + self.ahead
        await self.sleep(self.took / 2)
        return there


@pytest.mark.parametrize(
    ("ahead", "took", "difference"),
    [
        (60_000, 0.4, 60_000),
        (-60_000, 0.4, -60_000),
        (50, 0.0, 0),
        (None, 0.0, 0),
        (60_000, 3.0, 0),
    ],
    ids=["behind", "ahead", "synchronized", "of this machine", "too slow"],
)
async def test_the_time_of_the_database_counts(ahead: int | None, took: float, difference: int) -> None:
    machine = Machine(ahead, took)
    clock = LedgerClock(machine, machine.read)
    await clock.compare()
    assert abs(clock.now() - machine.now() - difference) <= 2


async def test_a_difference_is_logged_once_and_can_end(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(-60_000)
    clock = LedgerClock(machine, machine.read)
    with caplog.at_level(logging.WARNING):
        await clock.compare()
        await clock.compare()
    assert caplog.messages == [
        "this machine's clock differs from that of PostgreSQL by 60.0 s: PostgreSQL's time is used"
    ]
    machine.ahead = 0
    await clock.compare()
    assert clock.now() == machine.now()
