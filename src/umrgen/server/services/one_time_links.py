"""One-time links: the server prints one at its start, and each opens the studio once, without an API key."""

import hashlib
import secrets

from umrgen.clock import Clock

__all__ = ["GOOD_FOR", "OneTimeLinks"]

GOOD_FOR = 600.0
"""Seconds for which a ticket is valid."""


class OneTimeLinks:
    """Issues tickets and accepts each once. Only their hashes are kept, in memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}

    def issue(self) -> str:
        """Return a new ticket."""
        ticket = secrets.token_urlsafe(32)
        self._until[_hash(ticket)] = self._clock.monotonic() + GOOD_FOR
        return ticket

    def take(self, ticket: str) -> bool:
        """Return whether the ticket is valid, and invalidate it."""
        until = self._until.pop(_hash(ticket), None)
        return until is not None and self._clock.monotonic() < until


def _hash(ticket: str) -> bytes:
    """Return the ticket's hash: the duration of a look-up by hash discloses nothing of the ticket."""
    return hashlib.sha256(ticket.encode()).digest()
