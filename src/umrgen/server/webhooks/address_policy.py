"""The addresses that a webhook may be sent to: public ones, and those that the operator allows.

A caller chooses the URL that this server sends a request to. It must not lead to services that only this server can
reach: itself, its private network, a cloud's metadata service (SSRF). A URL is parsed once, here, and the connection
is made to the address that was checked, so two parsers cannot disagree about it.
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
"""Ports below this belong to system services; of these only 80 and 443 are allowed."""

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMERIC = re.compile(r"\d+|0x[0-9a-f]*")
_AUTHORITY = re.compile(r"(?:\[(?P<address>[^\[\]]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>\d{0,5}))?")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_LOOPBACK = ip_address("127.0.0.1")

# The IANA registries of special addresses (RFC 6890) grow, and Python's copy of them with each release. These are
# networks that older releases of Python call global.
_SPECIAL_4 = [ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24")]
_UNICAST = ip_network("2000::/3")
# Protocol assignments with Teredo, documentation, 6to4, documentation. A tunnel address leads to the IPv4 address
# inside it; no receiver uses one, so all of them are refused.
_SPECIAL_6 = [ip_network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_NAT64 = ip_network("64:ff9b::/96")


class BadURL(ValueError):
    """The URL cannot be used for a webhook; the text says why."""


def _plain(address: Address) -> Address:
    """Return the IPv4 address of an IPv4-mapped IPv6 address, as a kernel does."""
    return getattr(address, "ipv4_mapped", None) or address


def is_public(address: Address) -> bool:
    """Return whether the address is a public unicast address: not local, private, or for a special use."""
    address = _plain(address)
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and not any(address in net for net in _SPECIAL_4)
    if address in _NAT64:  # NAT64: judged by the IPv4 address inside
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _UNICAST and address.is_global and not any(address in net for net in _SPECIAL_6)


@dataclass(frozen=True, slots=True)
class Allow:
    """The host names, addresses and networks that the operator allows in addition to public addresses."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[str]) -> "Allow":
        """Parse the entries of a setting. Raises BadSettings, which names the wrong entry."""
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
        """Return whether this host is allowed whatever it resolves to."""
        return host in self.hosts

    def address(self, address: Address) -> bool:
        """Return whether a connection to this address is allowed."""
        address = _plain(address)
        return is_public(address) or any(address in network for network in self.networks)

    def all(self, host: str, addresses: Iterable[Address]) -> bool:
        """Return whether `host` is allowed, given that it resolves to `addresses`: all of them must be."""
        return self.name(host) or all(map(self.address, addresses))


def _is_name(host: str) -> bool:
    """Return whether it is a name and not a number: resolvers read `127.1`, `2130706433` and `0x7f.1` as addresses."""
    return bool(_NAME.fullmatch(host)) and len(host) <= 253 and not _NUMERIC.fullmatch(host.rpartition(".")[2])


@dataclass(frozen=True, slots=True)
class Target:
    """A webhook's URL, parsed."""

    scheme: str
    host: str
    """In lower case; an IPv6 address without brackets."""
    port: int
    path: str
    """Including the query."""
    address: Address | None
    """The address, if the host is one."""

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> "Target":
        """Parse a URL. Raises BadURL for an ambiguous one, and for parts that no webhook needs."""
        if not _VISIBLE.fullmatch(url) or "\\" in url:
            raise BadURL("must have visible ASCII characters only; encode the others")
        if len(url) > LONGEST:
            raise BadURL(f"must have {LONGEST} characters or fewer")
        try:
            parts = urlsplit(url)
        except ValueError:
            raise BadURL("must be a valid URL") from None
        if parts.scheme not in PORTS or not url[len(parts.scheme) :].startswith("://"):
            raise BadURL("must begin with http:// or https://")
        if "@" in parts.netloc:
            raise BadURL("must not name a user or a password")
        if "#" in url:
            raise BadURL("must have no fragment")
        authority = _AUTHORITY.fullmatch(parts.netloc.lower())
        if authority is None:
            raise BadURL("must name a valid host and port")
        port = int(authority["port"] or PORTS[parts.scheme])
        if not 0 < port < 65536:
            raise BadURL("must name a port from 1 to 65535")
        address = _read_address(authority["address"]) if authority["address"] else None
        host, address = (str(address), address) if address else _read_host(authority["host"])
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, host, port, path, address)


def _read_address(text: str) -> Address:
    try:
        address = IPv6Address(text)
    except ValueError:
        raise BadURL("must name a valid IPv6 address between its brackets") from None
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
        raise BadURL("must name a host by its name, or by an address in its usual form") from None


def checked_target(url: str, allow: Allow) -> Target:
    """Parse a URL and check what can be checked before its name is resolved. Raises BadURL."""
    target = Target.parse(url)
    if allow.name(target.host):
        return target
    address = target.address
    if target.host == "localhost" or target.host.endswith(".localhost"):
        address = _LOOPBACK
    if address is not None and not allow.address(address):
        raise BadURL("must lead to a public address")
    allowed = address is not None and not is_public(address)  # the operator allows it, on any port
    if target.port < FIRST_FREE_PORT and target.port not in PORTS.values() and not allowed:
        raise BadURL(f"must name port 80, 443, or one from {FIRST_FREE_PORT} on")
    return target


def check_url(url: str, allow: Allow) -> str | None:
    """Return why `url` is refused, as a text that follows the field's name; None when it is accepted."""
    try:
        checked_target(url, allow)
    except BadURL as bad:
        return str(bad)
    return None
