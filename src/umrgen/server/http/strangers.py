"""Refused requests of callers without a key: counted, and reported in the log at most once a minute."""

import asyncio
import logging
from collections import Counter

from umrgen.server.metrics import Metrics

__all__ = ["StrangerLog"]

log = logging.getLogger("umrgen.access")

SUMMARY_SECONDS = 60.0
"""Seconds from the first refusal to the line about all of them."""


class StrangerLog:
    """Counts the 4xx responses to callers without a valid key: these could fill the log."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._statuses: Counter[int] = Counter()
        self._address = ""

    def note(self, status: int, address: str) -> None:
        """Count a response with this status to a caller at this address."""
        self._metrics.refused_stranger(status)
        if not self._statuses:
            asyncio.get_running_loop().call_later(SUMMARY_SECONDS, self._report)
        self._statuses[status] += 1
        self._address = address

    def _report(self) -> None:
        statuses, self._statuses = self._statuses, Counter()
        log.info(
            "%d requests without a valid key were refused",
            statuses.total(),
            extra={
                "statuses": ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items())),
                "last_address": self._address,
            },
        )
