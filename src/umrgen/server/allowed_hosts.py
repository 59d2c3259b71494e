"""The host names of this server. A request with another one may be a DNS rebinding attack by a web page."""

from ipaddress import ip_address
from urllib.parse import urlsplit

__all__ = ["AllowedHosts"]

NAMES_KEPT = 1000


class AllowedHosts:
    """The check of Host headers. An address cannot be rebound, so every address is accepted."""

    def __init__(self, allowed: tuple[str, ...], own: str) -> None:
        self._own = own
        self.allow(allowed)

    def allow(self, allowed: tuple[str, ...]) -> None:
        """Accept these names from now on, in the place of the earlier ones."""
        self._any = "*" in allowed
        self._names = {name.lower().rstrip(".") for name in (*allowed, self._own, "localhost")}
        self._known: dict[bytes, bool] = {}

    def accept(self, host: bytes) -> bool:
        """Return whether a Host header names this server."""
        known = self._known.get(host)
        if known is None:
            known = self._accept(host.decode("latin-1"))
            if known and len(host) < 256 and len(self._known) < NAMES_KEPT:
                self._known[host] = known  # only accepted ones, so that other callers cannot fill the cache
        return known

    def _accept(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if self._any or name.rstrip(".") in self._names:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True
