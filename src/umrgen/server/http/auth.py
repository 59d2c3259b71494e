"""Who is calling: the bearer key of a request."""

from collections.abc import Mapping

from umrgen.server.http import Services
from umrgen.server.http.problems import Problem
from umrgen.server.ledger import Key

__all__ = ["authenticate"]

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="umrgen"'}


async def authenticate(services: Services, headers: Mapping[bytes, bytes]) -> Key:
    """The caller's key. Raises Problem `unauthorized`; the words say only what the caller knows."""
    scheme, _, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    secret = secret.strip()
    if not secret:
        raise Problem("unauthorized", "this call needs an API key", headers=_CHALLENGE)
    if scheme.lower() != "bearer":
        raise Problem("unauthorized", "the Authorization header must be of the form: Bearer KEY", headers=_CHALLENGE)
    key = await services.keys.check(secret)
    if key is None:
        raise Problem("unauthorized", "this API key is not accepted", headers=_CHALLENGE)
    return key
