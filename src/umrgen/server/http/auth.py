"""Authentication of a request by its bearer key, or by the cookie of the studio."""

import hmac
from collections.abc import Mapping

from starlette.types import Scope

from umrgen.server.http import Services
from umrgen.server.http.problems import Problem
from umrgen.server.http.studio_cookie import device_secret
from umrgen.server.services.caller import Caller
from umrgen.server.services.refusal import Refusal

__all__ = ["address_of", "authenticate", "bearer", "has_credentials", "open_for_operator"]


def address_of(scope: Scope) -> str:
    """Return the client's address; behind a trusted proxy, the one in X-Forwarded-For."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def bearer(headers: Mapping[bytes, bytes]) -> str:
    """Return the secret of `Authorization: Bearer`. Raises Problem `unauthorized`."""
    scheme, _, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    secret = secret.strip()
    if not secret:
        raise Problem("unauthorized", "this call needs an API key")
    if scheme.lower() != "bearer":
        raise Problem("unauthorized", "the Authorization header must be of the form: Bearer KEY")
    return secret


def has_credentials(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request has an Authorization header, or the cookie of the studio: valid or not."""
    return bool(headers.get(b"authorization")) or device_secret(headers) is not None


async def authenticate(services: Services, scope: Scope, headers: Mapping[bytes, bytes]) -> Caller:
    """Return the caller, with this request counted. Raises Problem `unauthorized` or `rate_limited`."""
    device = device_secret(headers)
    try:
        if device is not None:
            caller = await services.authentication.accept_device(device, address_of(scope))
        else:
            caller = await services.authentication.accept(bearer(headers), address_of(scope))
    except Refusal as refusal:
        problem = Problem.of(refusal)
        if refusal.code == "rate_limited" and refusal.quota is None:
            problem.headers["Connection"] = "close"  # each further attempt costs the client a new connection
        raise problem from None
    scope.setdefault("state", {})["key_id"] = caller.key.id
    return caller


async def open_for_operator(services: Services, scope: Scope, headers: Mapping[bytes, bytes]) -> Caller | None:
    """Accept the metrics token, or any API key if there is no such token. Return its caller; None for the token.

    Raises Problem.
    """
    token = services.settings.metrics_token
    if token and hmac.compare_digest(token.encode(), bearer(headers).encode("latin-1")):
        return None
    caller = await authenticate(services, scope, headers)
    if token:
        raise Problem("unauthorized", "this call needs the metrics token")
    return caller
