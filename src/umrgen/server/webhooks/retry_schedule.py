"""The retry schedule of webhooks: backoff with jitter, for one day."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["DAY_MS", "FURTHEST", "next_try", "retry_after"]

DAY_MS = 24 * 3600 * 1000
MINUTE, HOUR = 60, 3600
DELAYS = (5, 30, 2 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 4 * HOUR)
"""Seconds after the first attempt, the second, ...; the last one repeats."""
JITTER = 0.2
"""Share by which a delay is randomly made longer or shorter, so that messages that failed together are spread."""
FURTHEST = DELAYS[-1] * (1 + JITTER)
"""The longest delay, in seconds."""


def next_try(attempts: int, ended_at: int, now: int, *, asked: float | None, random: float) -> int | None:
    """Return the time of the next attempt after `attempts` attempts, in ms; None a day after the job's end.

    `asked` is the receiver's Retry-After in seconds: it may delay an attempt, by the longest delay at most. `random`
    is from 0 to 1.
    """
    delay = DELAYS[min(attempts, len(DELAYS)) - 1] * (1 - JITTER + 2 * JITTER * random)
    if asked is not None:
        delay = max(delay, min(asked, DELAYS[-1]))
    at = now + math.ceil(delay * 1000)
    return at if at <= ended_at + DAY_MS else None


def retry_after(value: str, now: int) -> float | None:
    """Return the seconds in a Retry-After header, in either of its forms; None when it cannot be read."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        when = parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.fromtimestamp(now / 1000, UTC)).total_seconds())
    except Exception:  # the parser raises several types, and the receiver chooses its input
        return None
