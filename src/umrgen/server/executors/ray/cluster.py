"""The connection of this process to a Ray cluster. Refuses one that any program of the network can use."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import ray

from umrgen.server.executors.ray.ports import is_loopback, listening, node_ports, on_loopback
from umrgen.text import printable

__all__ = ["ClusterRefused", "ClusterWatch", "connect"]

CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""A call of Ray's head (GCS) without arguments, which needs the token in token mode."""
CALL_SECONDS = 5.0
CHECK_SECONDS = 1.0
"""Seconds between two looks at the nodes."""
AUTO = "auto"
"""The cluster of this machine, or of RAY_ADDRESS."""

INSECURE = (
    "Ray at {} accepts calls without a token, and listens on the network: any program that reaches it can run code "
    "there. Start its nodes with RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH), and this server "
    "with the same; or, on one machine, with --node-ip-address=127.0.0.1"
)


class ClusterRefused(Exception):
    """The cluster cannot be used. The message is for the operator."""


def connect(address: str) -> str:
    """Connect this process, and return a line with the ports that Ray has opened. Raises ClusterRefused."""
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS") or AUTO
    if "://" in address:
        raise ClusterRefused(
            f"{printable(address)} is an address of Ray Client, which is not supported; start a node on this machine "
            "(ray start --address=HOST:6379 --num-cpus=0), and give HOST:6379"
        )
    if address != AUTO:
        requires_token(address)  # first: it takes seconds to find out that nothing responds, and Ray a minute
    try:
        ray.init(address, log_to_driver=False, logging_level="WARNING")
    except Exception as error:
        raise ClusterRefused(_connection_error(address, error)) from None
    head = ray.get_runtime_context().gcs_address
    nodes = alive_nodes()
    if not requires_token(head) and not (is_loopback(head.rpartition(":")[0]) and on_loopback(nodes.values())):
        raise ClusterRefused(INSECURE.format(head))
    return _ports(head, nodes.values())


def _connection_error(address: str, error: Exception) -> str:
    said = printable(f"{type(error).__name__}: {error}")[:300]
    return (
        f"Ray at {printable(address)} cannot be used: {said}. This machine must be a node of the cluster (ray start "
        "--address=HOST:6379 --num-cpus=0), with the same versions of Ray and Python, and the same token"
    )


def requires_token(address: str) -> bool:
    """Return whether Ray's head refuses a call without a token. Raises ClusterRefused if it does not respond."""
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(CALL, request_serializer=bytes, response_deserializer=bytes)
        try:
            call(b"", timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            code = getattr(error, "code", lambda: None)()
            if code is grpc.StatusCode.UNAUTHENTICATED:
                return True
            name = code.name.lower() if code is not None else type(error).__name__
            raise ClusterRefused(f"no head of a Ray cluster responds at {printable(address)} ({name})") from None
    return False


def alive_nodes() -> dict[str, Mapping[str, Any]]:
    """Return the nodes that are alive, by id."""
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def _ports(head: str, nodes: Iterable[Mapping[str, Any]]) -> str:
    parts = [f"head {head}", *map(node_ports, nodes), f"this server's connection {', '.join(listening())}"]
    return f"connected to Ray. Its ports: {'; '.join(parts)}"


class ClusterWatch:
    """Watches the nodes of the cluster."""

    def __init__(self) -> None:
        self._own = ray.get_runtime_context().get_node_id()
        self._nodes = alive_nodes()

    async def changes(self) -> list[str]:
        """Wait, and return a line for each node that came or went. Raises ClusterRefused when our own is gone.

        Ray's head keeps no state: after its restart it is another cluster, which does not know this process.
        """
        await asyncio.sleep(CHECK_SECONDS)
        before, self._nodes = self._nodes, await asyncio.to_thread(alive_nodes)
        if self._own not in self._nodes:
            raise ClusterRefused("the node of this machine is not in the Ray cluster any more")
        return [
            *(f"Ray: a node came: {node_ports(self._nodes[node])}" for node in self._nodes.keys() - before.keys()),
            *(f"Ray: a node is gone: {node_ports(before[node])}" for node in before.keys() - self._nodes.keys()),
        ]
