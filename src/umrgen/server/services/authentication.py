"""Authentication: from a secret to a caller, with the limits on guessing keys and on requests."""

import math
from dataclasses import dataclass

from umrgen.server.ledger import Key
from umrgen.server.services.api_keys import ApiKeys
from umrgen.server.services.caller import Caller
from umrgen.server.services.limits import FailureThrottle, RateLimits
from umrgen.server.services.refusal import Refusal
from umrgen.server.services.remembered_devices import RememberedDevices

__all__ = ["Authentication"]


@dataclass(frozen=True, slots=True)
class Authentication:
    """Accepts callers by their API key, and throttles addresses that send wrong keys."""

    keys: ApiKeys
    devices: RememberedDevices
    limits: RateLimits
    failures: FailureThrottle

    async def accept(self, secret: str, address: str) -> Caller:
        """Return the caller, with one request counted. Raises Refusal `unauthorized` or `rate_limited`."""
        key = await self.keys.check(secret)
        if key is None:
            raise self._failed(address)
        self.count_request(key)
        return Caller(key)

    async def accept_device(self, secret: str, address: str) -> Caller:
        """As `accept`, with the secret of a browser that stays signed in; the caller is its user's key."""
        key = await self.devices.accept(secret)
        if key is None:
            raise self._failed(address)
        self.count_request(key)
        return Caller(key)

    def _failed(self, address: str) -> Refusal:
        """Count a wrong key against its address. This does not affect callers with a valid key."""
        wait = self.failures.wait(address)
        self.failures.record_failure(address)
        if wait:
            return Refusal("rate_limited", "this address has sent too many wrong API keys", retry_after=math.ceil(wait))
        return Refusal("unauthorized", "this API key is not accepted")

    def count_request(self, key: Key) -> None:
        """Count a request of this key. Raises Refusal `rate_limited` if that exceeds its limit."""
        if self.limits.take(key):
            return
        raise Refusal(
            "rate_limited",
            f"this key may make {self.limits.rate(key)} requests a minute",
            retry_after=math.ceil(self.limits.wait(key)),
            quota=self.limits.quota(key),
        )
