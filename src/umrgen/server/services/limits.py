"""Rate limits: requests per API key, and failed guesses per client address."""

import logging
import math
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from umrgen.server.clock import Clock
from umrgen.server.ledger import Caps, Key
from umrgen.server.settings import Settings

__all__ = ["Allowance", "FailureThrottle", "Limits", "client_prefix", "policy_headers"]

log = logging.getLogger(__name__)

MINUTE = 60.0
ADDRESSES = 10_000
"""Addresses remembered; of more, those that were heard of longest ago are forgotten."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a key has left of its requests a minute (the fields of `RateLimit`)."""

    quota: int
    remaining: int
    reset: float
    """Seconds until the quota is whole again."""
    retry_after: float = 0.0
    """Seconds until the next request is let in; 0: this one is."""

    def headers(self) -> dict[str, str]:
        return policy_headers("minute", self.quota, 60, math.ceil(self.reset), self.remaining)


def policy_headers(
    name: str, quota: int, window: int | None = None, reset: int | None = None, remaining: int = 0
) -> dict[str, str]:
    """The fields `RateLimit-Policy` and `RateLimit` for one policy; a window and what is left of it in seconds."""
    return {
        "RateLimit-Policy": f'"{name}";q={quota}' + (f";w={window}" if window else ""),
        "RateLimit": f'"{name}";r={remaining}' + (f";t={reset}" if reset is not None else ""),
    }


class GcraLimiter:
    """A minute's worth at once, and as many again each minute: one number per name (GCRA).

    That number is the moment at which the bucket will be full again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def wait(self, name: str, rate: int) -> float:
        """Seconds until `take` would be let in; 0 when it would be now."""
        full_at = self._full_at.get(name)
        return 0.0 if full_at is None else max(0.0, full_at + MINUTE / rate - MINUTE - self._clock.monotonic())

    def take(self, name: str, rate: int) -> bool:
        """Whether there was one left to take."""
        now, interval = self._clock.monotonic(), MINUTE / rate
        full_at = max(self._full_at.get(name, now), now) + interval
        if full_at - now > MINUTE + 1e-6:
            return False
        self._full_at[name] = full_at
        return True

    def left(self, name: str, rate: int) -> tuple[int, float]:
        """How many can be taken now, and seconds until the bucket is full."""
        full_in = max(0.0, self._full_at.get(name, 0.0) - self._clock.monotonic())
        return max(0, int((MINUTE - full_in) / MINUTE * rate + 1e-6)), full_in

    def charge(self, name: str, rate: int, count: int) -> None:
        """Take `count` more, there or not: what is not there is owed."""
        now = self._clock.monotonic()
        self._full_at[name] = max(self._full_at.get(name, now), now) + count * MINUTE / rate

    def keep(self, name: str, count: int) -> None:
        """Remember this name and those that were heard of last, `count` in all."""
        self._full_at.move_to_end(name)
        while len(self._full_at) > count:
            self._full_at.popitem(last=False)


class Limits:
    """What each key may ask for: its own numbers, or the server's where it has none. 0: no limit."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._limiter = GcraLimiter(clock)

    def rate(self, key: Key) -> int:
        return self._settings.rate if key.rate is None else key.rate

    def take(self, key: Key) -> bool:
        """Count one request; False when the key has none left, and then it is not counted."""
        rate = self._settings.rate if key.rate is None else key.rate
        return not rate or self._limiter.take(key.id, rate)

    def charge(self, key: Key, count: int) -> None:
        """Count `count` further requests: what was answered was worth as many."""
        if count and (rate := self.rate(key)):
            self._limiter.charge(key.id, rate, count)

    def allowance(self, key: Key) -> Allowance | None:
        """How the key stands; None without a limit."""
        rate = self.rate(key)
        if not rate:
            return None
        left, full_in = self._limiter.left(key.id, rate)
        return Allowance(rate, left, full_in, self._limiter.wait(key.id, rate))

    def caps(self, key: Key) -> Caps:
        settings = self._settings
        return Caps(
            queued=settings.session_queued,
            alive=settings.concurrent if key.concurrent is None else key.concurrent,
            daily=settings.daily if key.daily is None else key.daily,
        )


class FailureThrottle:
    """Addresses that guess, be it keys or image names: so many wrong ones a minute, then they wait."""

    def __init__(self, per_minute: int, of_what: str, clock: Clock) -> None:
        """`of_what`: what is guessed, for the log."""
        self._of_what = of_what
        self._per_minute = per_minute
        self._limiter = GcraLimiter(clock)

    def wait(self, address: str) -> float:
        """Seconds for which nothing more is tried for this address; 0 while it has behaved."""
        return self._limiter.wait(client_prefix(address), self._per_minute)

    def record_failure(self, address: str) -> None:
        """Count a wrong guess of this address."""
        name = client_prefix(address)
        if self._limiter.take(name, self._per_minute) and self._limiter.wait(name, self._per_minute):
            log.warning(
                "an address is slowed: it has made %d wrong %s in a minute",
                self._per_minute,
                self._of_what,
                extra={"address": address},
            )
        self._limiter.keep(name, ADDRESSES)


def client_prefix(address: str) -> str:
    """Return the address, or for IPv6 its /64: one subscriber has all addresses in it."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))
    return address
