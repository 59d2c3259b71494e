"""One-time links: each opens the studio once, without an API key. `umrgen serve` and `umrgen studio` make them.

A link is a file in the state folder, so that the command can make one for the running server. The file's name has the
hash of the ticket and the time at which it expires.
"""

import hashlib
import secrets
from pathlib import Path

from umrgen.clock import Clock
from umrgen.durable import make_folder

__all__ = ["GOOD_FOR", "OneTimeLinks"]

GOOD_FOR = 600.0
"""Seconds for which a ticket is valid."""


class OneTimeLinks:
    """Issues tickets and accepts each once. Only their hashes are stored."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock

    def issue(self) -> str:
        """Return a new ticket, and remove those that have expired. Raises OSError."""
        make_folder(self._folder, mode=0o700)
        for file in self._folder.iterdir():
            if not self._is_valid(file):
                file.unlink(missing_ok=True)
        ticket = secrets.token_urlsafe(32)
        (self._folder / f"{_hash(ticket)}.{self._clock.now() + int(GOOD_FOR * 1000)}").touch(mode=0o600)
        return ticket

    def take(self, ticket: str) -> bool:
        """Return whether the ticket is valid, and invalidate it."""
        for file in self._folder.glob(f"{_hash(ticket)}.*"):
            try:
                file.unlink()  # of two calls with one ticket, one succeeds
            except OSError:
                return False
            return self._is_valid(file)
        return False

    def _is_valid(self, file: Path) -> bool:
        expires = file.suffix.removeprefix(".")
        return expires.isdigit() and self._clock.now() < int(expires)


def _hash(ticket: str) -> str:
    """Return the ticket's hash: the duration of a look-up by hash discloses nothing of the ticket."""
    return hashlib.sha256(ticket.encode()).hexdigest()
