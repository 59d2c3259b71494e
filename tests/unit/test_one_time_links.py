from support import Clock
from umrgen.server.services.one_time_links import GOOD_FOR, OneTimeLinks


def test_a_ticket_is_valid_once() -> None:
    tickets = OneTimeLinks(Clock())  # type: ignore[arg-type]
    ticket, other = tickets.issue(), tickets.issue()
    assert ticket != other
    assert tickets.take(ticket)
    assert not tickets.take(ticket)
    assert tickets.take(other)


def test_a_ticket_expires_after_ten_minutes() -> None:
    clock = Clock()
    tickets = OneTimeLinks(clock)  # type: ignore[arg-type]
    early, late = tickets.issue(), tickets.issue()
    clock.at += GOOD_FOR - 1
    assert tickets.take(early)
    clock.at += 1
    assert not tickets.take(late)
    assert GOOD_FOR == 600
