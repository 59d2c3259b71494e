"""The proxy that the environment sets for an address: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`."""

import os
import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

__all__ = ["Proxy", "is_loopback", "proxy_for"]


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy's URL, and the environment variable that sets it."""

    url: str
    variable: str

    def __str__(self) -> str:
        return f"the proxy {self.address} of {self.variable}"

    @property
    def address(self) -> str:
        """The URL without the user name and password."""
        return re.sub(r"//[^/]*@", "//", self.url)


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy for requests to `url`; None for an address of this machine, and for those of `no_proxy`."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if is_loopback(host):
        return None
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    _, excluded = _variable("no_proxy")
    if any(_matches(entry, host, port) for entry in re.split(r"[\s,]+", excluded) if entry):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        variable, value = _variable(name)
        if value:
            return Proxy(value if "://" in value else f"http://{value}", variable)
    return None


def _variable(name: str) -> tuple[str, str]:
    """Return the name and value of a variable, in lower case or else in upper case; the value may be empty."""
    for spelling in (name, name.upper()):
        if spelling == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ:
            continue  # in a CGI program, a header of the request sets it
        if value := os.environ.get(spelling, "").strip():
            return spelling, value
    return name, ""


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def _matches(entry: str, host: str, port: int | None) -> bool:
    """Return whether an entry of `no_proxy` is `*`, this host or a domain above it, or a network of its address."""
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        pass  # one of them is a name
    name, _, digits = entry.lower().rpartition(":") if re.search(r"[^:]:\d+$", entry) else (entry.lower(), "", "")
    name = name.strip("[]").removeprefix("*").strip(".")
    return (not digits or int(digits) == port) and (host == name or host.endswith(f".{name}"))
