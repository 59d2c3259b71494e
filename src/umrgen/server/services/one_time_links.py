"""One-time links: each opens the studio once, for the reader of the server's terminal."""

import hashlib
import secrets

from umrgen.clock import Clock

__all__ = ["GOOD_FOR", "OneTimeLinks"]

GOOD_FOR = 600.0
"""Seconds from its making in which a ticket is taken."""


class OneTimeLinks:
    """Makes tickets and takes each of them once. They live as long as the process; only hashes are kept."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}

    def issue(self) -> str:
        ticket = secrets.token_urlsafe(32)
        self._until[_hash(ticket)] = self._clock.monotonic() + GOOD_FOR
        return ticket

    def take(self, ticket: str) -> bool:
        """Whether it was good; from now on it is not."""
        until = self._until.pop(_hash(ticket), None)
        return until is not None and self._clock.monotonic() < until


def _hash(ticket: str) -> bytes:
    """With 256 random bits in a ticket, how long a lookup of its hash takes tells nothing."""
    return hashlib.sha256(ticket.encode()).digest()
