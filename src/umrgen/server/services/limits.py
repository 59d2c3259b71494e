"""Rate limits: requests per API key, and failed attempts per client address."""

import logging
import math
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network

from umrgen.clock import Clock
from umrgen.server.ledger import Caps, Key
from umrgen.server.services.refusal import Quota, Refusal
from umrgen.server.settings import Settings

__all__ = ["AddressLimit", "FailureThrottle", "RateLimits", "client_prefix"]

log = logging.getLogger(__name__)

MINUTE = 60.0
ADDRESSES = 10_000
"""Addresses that are tracked; the least recently used ones are dropped."""


class GcraLimiter:
    """A rate limit per name with a burst of one minute's requests (GCRA): one number per name.

    That number is the time at which the whole burst is available again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def wait(self, name: str, rate: int) -> float:
        """Return the seconds until `take` succeeds; 0 if it would succeed now."""
        full_at = self._full_at.get(name)
        return 0.0 if full_at is None else max(0.0, full_at + MINUTE / rate - MINUTE - self._clock.monotonic())

    def take(self, name: str, rate: int) -> bool:
        """Count one request; return False, and do not count it, if none is left."""
        now, interval = self._clock.monotonic(), MINUTE / rate
        full_at = max(self._full_at.get(name, now), now) + interval
        if full_at - now > MINUTE + 1e-6:
            return False
        self._full_at[name] = full_at
        return True

    def left(self, name: str, rate: int) -> tuple[int, float]:
        """Return how many requests are left now, and the seconds until all are available again."""
        full_in = max(0.0, self._full_at.get(name, 0.0) - self._clock.monotonic())
        return max(0, int((MINUTE - full_in) / MINUTE * rate + 1e-6)), full_in

    def charge(self, name: str, rate: int, count: int) -> None:
        """Count `count` more requests, even if fewer are left."""
        now = self._clock.monotonic()
        self._full_at[name] = max(self._full_at.get(name, now), now) + count * MINUTE / rate

    def keep(self, name: str, count: int) -> None:
        """Keep this name and the most recently used ones, `count` in all."""
        self._full_at.move_to_end(name)
        while len(self._full_at) > count:
            self._full_at.popitem(last=False)


class RateLimits:
    """The limits of each key: those of the key, or else the server's defaults. 0: no limit."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        """Replaced when the settings are reloaded."""
        self._limiter = GcraLimiter(clock)

    def rate(self, key: Key) -> int:
        """Return the key's requests a minute."""
        return self.settings.rate if key.rate is None else key.rate

    def take(self, key: Key) -> bool:
        """Count one request; return False, and do not count it, if the key has none left."""
        rate = self.settings.rate if key.rate is None else key.rate
        return not rate or self._limiter.take(key.id, rate)

    def charge(self, key: Key, count: int) -> None:
        """Count `count` further requests, for a response that cost as much."""
        if count and (rate := self.rate(key)):
            self._limiter.charge(key.id, rate, count)

    def quota(self, key: Key) -> Quota | None:
        """Return what the key has left of its requests a minute; None without a limit."""
        rate = self.rate(key)
        if not rate:
            return None
        left, full_in = self._limiter.left(key.id, rate)
        return Quota("minute", rate, window=60, reset=math.ceil(full_in), remaining=left)

    def wait(self, key: Key) -> float:
        """Return the seconds until the key may make its next request."""
        rate = self.rate(key)
        return self._limiter.wait(key.id, rate) if rate else 0.0

    def caps(self, key: Key) -> Caps:
        """Return the key's limits on jobs, which the job store enforces."""
        settings = self.settings
        return Caps(
            queued=settings.session_queued,
            active=settings.concurrent if key.concurrent is None else key.concurrent,
            daily=settings.daily if key.daily is None else key.daily,
        )


class FailureThrottle:
    """A limit on failed attempts per client address: wrong API keys, or wrong image URLs."""

    def __init__(self, per_minute: int, attempts: str, clock: Clock) -> None:
        """`attempts`: the kind of the failed attempts, for the log: `API keys` or `image URLs`."""
        self._attempts = attempts
        self._per_minute = per_minute
        self._limiter = GcraLimiter(clock)

    def wait(self, address: str) -> float:
        """Return the seconds for which requests of this address are refused; 0 if they are not."""
        return self._limiter.wait(client_prefix(address), self._per_minute)

    def record_failure(self, address: str) -> None:
        """Count a failed attempt of this address."""
        name = client_prefix(address)
        if self._limiter.take(name, self._per_minute) and self._limiter.wait(name, self._per_minute):
            log.warning(
                "an address is throttled after %d wrong %s in a minute",
                self._per_minute,
                self._attempts,
                extra={"address": address},
            )
        self._limiter.keep(name, ADDRESSES)


class AddressLimit:
    """A limit on requests without a key per client address."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._per_minute = per_minute
        self._limiter = GcraLimiter(clock)

    def take(self, address: str) -> None:
        """Count a request of this address. Raises Refusal `rate_limited`, and does not count it, above the limit."""
        name = client_prefix(address)
        if not self._limiter.take(name, self._per_minute):
            wait = math.ceil(self._limiter.wait(name, self._per_minute))
            detail = f"an address may make {self._per_minute} such requests a minute without an API key"
            raise Refusal("rate_limited", detail, retry_after=wait)
        self._limiter.keep(name, ADDRESSES)


def client_prefix(address: str) -> str:
    """Return the address; for IPv6 its /64 network, because one subscriber has all addresses in it."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))
    return address
