"""The ports that Ray opens, as far as it reports them, and those of this process."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

__all__ = ["listening", "node_ports"]

LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""


def node_ports(node: Mapping[str, Any]) -> str:
    """Return the address of a node, and its ports by name, as `ray.nodes()` reports them."""
    ports = ", ".join(
        f"{name} {number}" for name, number in sorted(node.items()) if name.endswith("Port") and number > 0
    )
    return f"node {node.get('NodeManagerAddress')}: {ports}"


def listening() -> list[str]:
    """Return the addresses on which this process listens."""
    sockets = _own_sockets()
    found = [
        _address(local) for table in ("tcp", "tcp6") for local, state, inode in _rows(table)
        if state == LISTEN and inode in sockets
    ]  # fmt: skip
    return sorted(found)


def _own_sockets() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # it was closed
            found.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    return found


def _rows(table: str) -> Iterable[tuple[str, str, str]]:
    """Yield the local address, the state and the inode of each socket."""
    with suppress(OSError):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            yield columns[1], columns[3], columns[9]


def _address(text: str) -> str:
    """Return an address such as `0100007F:1F90` (groups of 4 bytes, little-endian) in the usual form."""
    host, _, port = text.partition(":")
    words = b"".join(bytes.fromhex(host[first : first + 8])[::-1] for first in range(0, len(host), 8))
    address = ip_address(words)
    mapped = getattr(address, "ipv4_mapped", None)
    shown = str(mapped or address)
    return f"[{shown}]:{int(port, 16)}" if ":" in shown else f"{shown}:{int(port, 16)}"
