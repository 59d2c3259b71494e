"""Log when the head of a Ray cluster stops responding, and when it responds again."""

__all__ = ["HeadWatch"]

MISSED = 3
"""Checks in a row without a response, after which the head is reported: a single one may be late."""


class HeadWatch:
    """Counts the checks that the head did not respond to."""

    def __init__(self, head: str) -> None:
        self._head = head
        self._missed = 0

    def observe(self, responds: bool) -> list[str]:
        """Return a line when the head has not responded for MISSED checks, and one when it responds again."""
        before, self._missed = self._missed, 0 if responds else self._missed + 1
        if self._missed == MISSED:
            return [f"Ray: its head at {self._head} does not respond; its engines draw on, and no other one is started"]
        return [f"Ray: its head at {self._head} responds again"] if responds and before >= MISSED else []
