"""Who is calling, and whether he has asked too much: the bearer key of a request, and its limits."""

import hmac
import math
from collections.abc import Mapping

from starlette.types import Scope

from umrgen.server.http import Services
from umrgen.server.http.problems import Problem
from umrgen.server.ledger import Key

__all__ = ["address_of", "asked_too_much", "authenticate", "bearer", "open_for_operator"]

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="umrgen"'}


def address_of(scope: Scope) -> str:
    """Where the call comes from; behind a trusted proxy, as the proxy told it."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def bearer(headers: Mapping[bytes, bytes]) -> str:
    """The secret of `Authorization: Bearer`. Raises Problem `unauthorized`, in words that tell nothing new."""
    scheme, _, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    secret = secret.strip()
    if not secret:
        raise Problem("unauthorized", "this call needs an API key", headers=_CHALLENGE)
    if scheme.lower() != "bearer":
        raise Problem("unauthorized", "the Authorization header must be of the form: Bearer KEY", headers=_CHALLENGE)
    return secret


async def authenticate(services: Services, scope: Scope, headers: Mapping[bytes, bytes]) -> Key:
    """The caller's key, with this request counted. Raises Problem `unauthorized` or `rate_limited`."""
    key = await services.keys.check(bearer(headers))
    if key is None:
        address = address_of(scope)
        wait = services.logins.wait(address)
        services.logins.record_failure(address)
        if wait:
            words = "too many wrong API keys came from this address"
            # Each further guess costs its connection, too.
            raise Problem("rate_limited", words, retry_after=math.ceil(wait), headers={"Connection": "close"})
        raise Problem("unauthorized", "this API key is not accepted", headers=_CHALLENGE)
    scope.setdefault("state", {})["key_id"] = key.id
    if not services.limits.take(key):
        raise asked_too_much(services, key)
    return key


def asked_too_much(services: Services, key: Key) -> Problem:
    """The refusal of a key that has no request left."""
    allowance = services.limits.allowance(key)
    assert allowance is not None
    return Problem(
        "rate_limited",
        f"this key may make {allowance.quota} requests a minute",
        retry_after=math.ceil(allowance.retry_after),
        headers=allowance.headers(),
    )


async def open_for_operator(services: Services, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
    """Let in who may see the server's own state: the metrics token, or without one any key. Raises Problem."""
    token = services.settings.metrics_token
    if token and hmac.compare_digest(token.encode(), bearer(headers).encode("latin-1")):
        return
    await authenticate(services, scope, headers)
    if token:
        raise Problem("unauthorized", "this call needs the metrics token", headers=_CHALLENGE)
