"""The security check of a Ray cluster: it requires a token, or only this machine can reach it."""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

__all__ = ["ClusterRefused", "check_security"]

INSECURE = (
    "Ray at {} accepts calls without a token, and listens on the network: any program that reaches it can run code "
    "there. Start its nodes with RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH), and this server "
    "with the same; or, on one machine, with --node-ip-address=127.0.0.1"
)


class ClusterRefused(Exception):
    """The cluster cannot be used. The message is for the operator."""


def check_security(head: str, protected: bool, nodes: Iterable[Mapping[str, Any]]) -> None:
    """Raise ClusterRefused for a cluster without token authentication (`protected`), unless it is on loopback only."""
    if not protected and not _on_loopback(head, nodes):
        raise ClusterRefused(INSECURE.format(head))


def _is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the host. A name that is not an address can be anywhere."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _on_loopback(head: str, nodes: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether the head (HOST:PORT) and all nodes are on loopback: Ray listens on all addresses for any other."""
    hosts = [head.rpartition(":")[0], *(str(node.get("NodeManagerAddress")) for node in nodes)]
    return all(_is_loopback(host) for host in hosts)
