"""To whom a webhook may go: public addresses, and what the operator allows beside them.

Whoever submits a job names a URL that this server will call. Behind that URL must not stand what only this
server can reach: itself, its neighbours, a cloud's metadata service. A URL is read once, here; what is
checked is what is connected to, so no second reader can understand it otherwise.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from umrgen.server.settings import BadSettings

__all__ = ["Address", "Allow", "BadURL", "Target", "check_url", "checked_target", "is_public"]

Address = IPv4Address | IPv6Address

LONGEST = 2000
PORTS = {"http": 80, "https": 443}
FIRST_FREE_PORT = 1024
"""Below it are the services of the machine itself; of these only the web's own are called."""

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMERIC = re.compile(r"\d+|0x[0-9a-f]*")
_AUTHORITY = re.compile(r"(?:\[(?P<address>[^\[\]]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>\d{0,5}))?")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_LOOPBACK = ip_address("127.0.0.1")

# The registries of special addresses (IANA, RFC 6890) grow, and Python's copy of them with each release;
# what older releases still call global stands here.
_SPECIAL_4 = [ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24")]
_UNICAST = ip_network("2000::/3")
# Protocol assignments with Teredo, documentation, 6to4, documentation. A tunnel's address leads to the IPv4
# address inside it; no receiver is behind one, so it is refused whatever it wraps.
_SPECIAL_6 = [ip_network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_NAT64 = ip_network("64:ff9b::/96")


class BadURL(ValueError):
    """This is no URL for a webhook; says why."""


def _plain(address: Address) -> Address:
    """The IPv4 address that an IPv4-mapped one is to every kernel."""
    return getattr(address, "ipv4_mapped", None) or address


def is_public(address: Address) -> bool:
    """Whether it is anybody's on the internet, and one host's: not of this machine, its networks, or a special use."""
    address = _plain(address)
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and not any(address in net for net in _SPECIAL_4)
    if address in _NAT64:  # how a network without IPv4 reaches it: as good as the address inside
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _UNICAST and address.is_global and not any(address in net for net in _SPECIAL_6)


@dataclass(frozen=True, slots=True)
class Allow:
    """What the operator allows beside public addresses: host names, addresses, networks."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[str]) -> "Allow":
        """From the entries of a setting. Raises BadSettings naming the one that is wrong."""
        hosts, networks = [], []
        for entry in filter(None, (entry.strip().lower() for entry in entries)):
            try:
                networks.append(ip_network(entry.strip("[]")))
            except ValueError:
                if "/" in entry or not _is_name(entry):
                    raise BadSettings(f"webhook_allow: {entry!r} is no host name, address or network") from None
                hosts.append(entry)
        return cls(frozenset(hosts), tuple(networks))

    def name(self, host: str) -> bool:
        """Whether this host may be called wherever it is."""
        return host in self.hosts

    def address(self, address: Address) -> bool:
        """Whether this address may be connected to."""
        address = _plain(address)
        return is_public(address) or any(address in network for network in self.networks)

    def all(self, host: str, addresses: Iterable[Address]) -> bool:
        """Whether `host` may be called, given that it resolves to `addresses`: one bad one spoils all."""
        return self.name(host) or all(map(self.address, addresses))


def _is_name(host: str) -> bool:
    """Whether it is a name and not a number: `127.1`, `2130706433` and `0x7f.1` are addresses to a resolver."""
    return bool(_NAME.fullmatch(host)) and len(host) <= 253 and not _NUMERIC.fullmatch(host.rpartition(".")[2])


@dataclass(frozen=True, slots=True)
class Target:
    """A webhook's URL in its parts."""

    scheme: str
    host: str
    """In lower case; an IPv6 address without brackets."""
    port: int
    path: str
    """With the query."""
    address: Address | None
    """When the host is one."""

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> "Target":
        """Raises BadURL for all that could be understood in two ways, and what no webhook needs."""
        if not _VISIBLE.fullmatch(url) or "\\" in url:
            raise BadURL("must have visible ASCII characters only; encode the others")
        if len(url) > LONGEST:
            raise BadURL(f"may have {LONGEST} characters at most")
        try:
            parts = urlsplit(url)
        except ValueError:
            raise BadURL("is no valid URL") from None
        if parts.scheme not in PORTS or not url[len(parts.scheme) :].startswith("://"):
            raise BadURL("must begin with http:// or https://")
        if "@" in parts.netloc:
            raise BadURL("must not name a user or a password")
        if "#" in url:
            raise BadURL("must have no fragment")
        authority = _AUTHORITY.fullmatch(parts.netloc.lower())
        if authority is None:
            raise BadURL("names no valid host and port")
        port = int(authority["port"] or PORTS[parts.scheme])
        if not 0 < port < 65536:
            raise BadURL("names a port that cannot be")
        address = _read_address(authority["address"]) if authority["address"] else None
        host, address = (str(address), address) if address else _read_host(authority["host"])
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, host, port, path, address)


def _read_address(text: str) -> Address:
    try:
        address = IPv6Address(text)
    except ValueError:
        raise BadURL("names a host that is no valid address") from None
    if address.scope_id is not None:
        raise BadURL("must name an address without a zone")
    return address


def _read_host(text: str) -> tuple[str, Address | None]:
    host = text.removesuffix(".")
    if _is_name(host):
        return host, None
    try:
        return host, IPv4Address(host)
    except ValueError:
        raise BadURL("names a host that is neither a name nor an address in its usual form") from None


def checked_target(url: str, allow: Allow) -> Target:
    """The parts of a URL that may be called, so far as one can know before its name is resolved. Raises BadURL."""
    target = Target.parse(url)
    if allow.name(target.host):
        return target
    address = target.address
    if target.host == "localhost" or target.host.endswith(".localhost"):
        address = _LOOPBACK
    if address is not None and not allow.address(address):
        raise BadURL("must lead to a public address")
    allowed = address is not None and not is_public(address)  # by the operator, and then on any port
    if target.port < FIRST_FREE_PORT and target.port not in PORTS.values() and not allowed:
        raise BadURL(f"must name port 80, 443, or one from {FIRST_FREE_PORT} on")
    return target


def check_url(url: str, allow: Allow) -> str | None:
    """Why a webhook to `url` is refused, in words that follow the field's name; None when it is not."""
    try:
        checked_target(url, allow)
    except BadURL as bad:
        return str(bad)
    return None
