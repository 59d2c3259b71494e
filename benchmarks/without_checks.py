"""`umrgen` without its checks: the difference is their cost.

    python benchmarks/without_checks.py serve ...

No key is hashed or looked up, no limit counted, no name checked, no header added, nothing logged. Never
run it for anything else.
"""

from typing import Any

from umrgen.cli import main
from umrgen.server import allowed_hosts
from umrgen.server.http.middleware import SecurityMiddleware
from umrgen.server.ledger import Key
from umrgen.server.services import api_keys, limits

_known: dict[str, Key] = {}
_check = api_keys.ApiKeys.check


async def _check_once(self: api_keys.ApiKeys, secret: str) -> Key | None:
    if secret not in _known and (key := await _check(self, secret)) is not None:
        _known[secret] = key
    return _known.get(secret)


async def _straight_in(self: SecurityMiddleware, scope: Any, receive: Any, send: Any) -> None:
    scope.setdefault("state", {})
    await self._app(scope, receive, send)


api_keys.ApiKeys.check = _check_once  # type: ignore[method-assign]
limits.RateLimits.take = lambda self, key: True  # type: ignore[method-assign]
allowed_hosts.AllowedHosts.accept = lambda self, host: True  # type: ignore[method-assign]
SecurityMiddleware.__call__ = _straight_in  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
