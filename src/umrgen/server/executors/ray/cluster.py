"""The connection of this process to a Ray cluster. Refuses one that any program of the network can use."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import grpc
import ray

from umrgen.server.executors.ray.head_watch import HeadWatch
from umrgen.server.executors.ray.ports import listening, node_ports
from umrgen.server.executors.ray.security import ClusterRefused, check_security
from umrgen.text import printable

__all__ = ["ClusterWatch", "connect", "requires_token"]

CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""A call of Ray's head (GCS) without arguments, which needs the token in token mode."""
CALL_SECONDS = 5.0
CHECK_SECONDS = 1.0
"""Seconds between two checks of the nodes."""
AUTO = "auto"
"""The cluster of this machine, or of RAY_ADDRESS."""


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
        # First: it takes seconds to find out that nothing responds, and Ray a minute.
        check_security(address, requires_token(address), ())
    try:
        ray.init(address, log_to_driver=False, logging_level="WARNING")
    except Exception as error:
        raise ClusterRefused(_connection_error(address, error)) from None
    head, nodes = ray.get_runtime_context().gcs_address, alive_nodes().values()
    check_security(head, requires_token(head), nodes)
    return _ports(head, nodes)


def _connection_error(address: str, error: Exception) -> str:
    said = printable(f"{type(error).__name__}: {error}")[:300]
    return (
        f"Ray at {printable(address)} cannot be used: {said}. This machine must be a node of the cluster (ray start "
        "--address=HOST:6379 --num-cpus=0), with the same versions of Ray and Python, and the same token"
    )


def requires_token(address: str) -> bool:
    """Return whether Ray's head refuses a call without a token. Raises ClusterRefused if it does not respond."""
    answer = _call_without_token(address)
    if answer not in (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED):
        raise ClusterRefused(f"no head of a Ray cluster responds at {printable(address)} ({answer.name.lower()})")
    return answer is grpc.StatusCode.UNAUTHENTICATED


def _call_without_token(address: str) -> grpc.StatusCode:
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(CALL, request_serializer=bytes, response_deserializer=bytes)
        try:
            call(b"", timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            return error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    return grpc.StatusCode.OK


def alive_nodes() -> dict[str, Mapping[str, Any]]:
    """Return the connected nodes, by id."""
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def _ports(head: str, nodes: Iterable[Mapping[str, Any]]) -> str:
    parts = [f"head {head}", *map(node_ports, nodes), f"this server's connection {', '.join(listening())}"]
    return f"connected to Ray. Its ports: {'; '.join(parts)}"


class ClusterWatch:
    """Watches the nodes of the cluster."""

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        self._head = context.gcs_address
        self._own = context.get_node_id()
        self._nodes = alive_nodes()
        self._head_watch = HeadWatch(printable(self._head))

    async def changes(self) -> list[str]:
        """Wait, and return a line for each node that was added or lost, and when the head stops to respond.

        While the head does not respond, the actors draw on. After its restart it is another cluster, unless it kept its
        state, and does not know this process. Ray itself ends this process when its head is away for a minute. Raises
        ClusterRefused when our own node is gone.
        """
        await asyncio.sleep(CHECK_SECONDS)
        found = await asyncio.to_thread(self._alive)
        lines = self._head_watch.observe(found is not None)
        before, self._nodes = self._nodes, self._nodes if found is None else found
        if self._own not in self._nodes:
            raise ClusterRefused("the node of this machine was removed from the Ray cluster")
        return [
            *lines,
            *(f"Ray: a node was added: {node_ports(self._nodes[node])}" for node in self._nodes.keys() - before.keys()),
            *(f"Ray: a node was lost: {node_ports(before[node])}" for node in before.keys() - self._nodes.keys()),
        ]

    def _alive(self) -> dict[str, Mapping[str, Any]] | None:
        """Return the connected nodes; None while the head does not respond.

        Ray aborts the process of a caller whose head is away, so call the head first.
        """
        with suppress(ClusterRefused):
            requires_token(self._head)
            return alive_nodes()
        return None
