"""When a webhook that was not delivered is tried again."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["DAY_MS", "FURTHEST", "next_try", "retry_after"]

DAY_MS = 24 * 3600 * 1000
MINUTE, HOUR = 60, 3600
DELAYS = (5, 30, 2 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 4 * HOUR)
"""Seconds after the first attempt, the second, ...; the last of them from then on."""
JITTER = 0.2
"""Share by which a delay is made longer or shorter, so that what failed together does not come back together."""
FURTHEST = DELAYS[-1] * (1 + JITTER)
"""Seconds that an attempt is put off at most."""


def next_try(attempts: int, ended_at: int, now: int, *, asked: float | None, random: float) -> int | None:
    """The time of the next attempt after `attempts` of them, in ms; None when a day has passed since the job's end.

    `asked` is the receiver's Retry-After in seconds: it may put an attempt off, by the longest delay at most;
    `random` lies between 0 and 1.
    """
    delay = DELAYS[min(attempts, len(DELAYS)) - 1] * (1 - JITTER + 2 * JITTER * random)
    if asked is not None:
        delay = max(delay, min(asked, DELAYS[-1]))
    at = now + math.ceil(delay * 1000)
    return at if at <= ended_at + DAY_MS else None


def retry_after(value: str, now: int) -> float | None:
    """Seconds that a Retry-After header asks to wait, in either of its forms; None when it makes no sense."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.fromtimestamp(now / 1000, UTC)).total_seconds())
