from pathlib import Path

from support import Clock
from umrgen.server.services.one_time_links import GOOD_FOR, OneTimeLinks


def test_a_ticket_is_valid_once(tmp_path: Path) -> None:
    tickets = OneTimeLinks(tmp_path / "links", Clock())
    ticket, other = tickets.issue(), tickets.issue()
    assert ticket != other
    assert tickets.take(ticket)
    assert not tickets.take(ticket)
    assert OneTimeLinks(tmp_path / "links", Clock()).take(other), "another process may have made it"


def test_a_ticket_expires_after_ten_minutes(tmp_path: Path) -> None:
    clock = Clock()
    tickets = OneTimeLinks(tmp_path / "links", clock)
    early, late, never = tickets.issue(), tickets.issue(), tickets.issue()
    clock.at += GOOD_FOR - 1
    assert tickets.take(early)
    clock.at += 1
    assert not tickets.take(late)
    assert GOOD_FOR == 600
    tickets.issue()
    assert len(list((tmp_path / "links").iterdir())) == 1, f"{never} must be removed"


def test_a_ticket_is_stored_as_its_hash_for_this_user_only(tmp_path: Path) -> None:
    ticket = OneTimeLinks(tmp_path / "links", Clock()).issue()
    (file,) = (tmp_path / "links").iterdir()
    assert ticket not in file.name
    assert (file.stat().st_mode & 0o77, (tmp_path / "links").stat().st_mode & 0o77) == (0, 0)


def test_a_foreign_text_is_no_ticket(tmp_path: Path) -> None:
    tickets = OneTimeLinks(tmp_path / "links", Clock())
    assert not tickets.take("../../x")
    tickets.issue()
    assert not tickets.take("*")
