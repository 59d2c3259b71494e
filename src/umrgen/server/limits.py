"""How much a caller may ask: of each key by its own right, of a stranger's address by its manners."""

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from umrgen.server.clock import Clock
from umrgen.server.config import Settings
from umrgen.server.ledger import Caps, Key

__all__ = ["Allowance", "Limits", "Manners"]

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
        return {
            "RateLimit-Policy": f'"minute";q={self.quota};w=60',
            "RateLimit": f'"minute";r={self.remaining};t={-int(-self.reset // 1)}',
        }


class Buckets:
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
        return int((MINUTE - full_in) / MINUTE * rate + 1e-6), full_in

    def forget(self, keep: int) -> None:
        """Drop the names that were taken from first, down to `keep` of them."""
        while len(self._full_at) > keep:
            self._full_at.popitem(last=False)


class Limits:
    """What each key may ask for: its own numbers, or the server's where it has none. 0: no limit."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._buckets = Buckets(clock)

    def rate(self, key: Key) -> int:
        return self._settings.rate if key.rate is None else key.rate

    def take(self, key: Key) -> bool:
        """Count one request; False when the key has none left, and then it is not counted."""
        rate = self._settings.rate if key.rate is None else key.rate
        return not rate or self._buckets.take(key.id, rate)

    def may(self, key: Key) -> bool:
        """Whether `take` would let it in; counts nothing."""
        rate = self.rate(key)
        return not rate or not self._buckets.wait(key.id, rate)

    def allowance(self, key: Key) -> Allowance | None:
        """How the key stands; None without a limit."""
        rate = self.rate(key)
        if not rate:
            return None
        left, full_in = self._buckets.left(key.id, rate)
        return Allowance(rate, left, full_in, self._buckets.wait(key.id, rate))

    def caps(self, key: Key) -> Caps:
        settings = self._settings
        return Caps(
            queued=settings.session_queued,
            alive=settings.concurrent if key.concurrent is None else key.concurrent,
            daily=settings.daily if key.daily is None else key.daily,
        )


class Manners:
    """Addresses that guess, be it keys or image names: so many wrong ones a minute, then they wait."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._per_minute = per_minute
        self._buckets = Buckets(clock)

    def wait(self, address: str) -> float:
        """Seconds for which nothing more is tried for this address; 0 while it has behaved."""
        return self._buckets.wait(_group(address), self._per_minute)

    def missed(self, address: str) -> None:
        """Hear of a wrong guess."""
        self._buckets.take(_group(address), self._per_minute)
        self._buckets.forget(ADDRESSES)


def _group(address: str) -> str:
    """The address, or for IPv6 its /64: one house has as many addresses in it as it likes."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))
    return address
