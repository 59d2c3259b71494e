"""A Ray cluster for tests, of several nodes on loopback, in a process that ends with this one.

`python tests/ray_cluster.py` runs it: a command per line of standard input, as JSON, and a response per line. Ray's own
`Cluster` needs the main thread of its process, and prints.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from support import clean_environment, tied

__all__ = ["RayCluster", "ray_cluster", "ray_is_here"]

TESTS = Path(__file__).parent
TOKEN = secrets.token_hex(32)


class RayCluster:
    """A head without processors, and nodes with some. The port of the head stays the same."""

    def __init__(self, *, token: bool = True, engines: Path = TESTS) -> None:
        """`engines`: the folder of the engines that its nodes import."""
        mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN} if token else {"RAY_AUTH_MODE": "disabled"}
        self.environment = mode | {"RAY_USAGE_STATS_ENABLED": "0"}
        """The variables of a server that uses this cluster."""
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by stop
        self._process = subprocess.Popen(
            tied(sys.executable, __file__),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=clean_environment(PYTHONPATH=f"{engines}{os.pathsep}{TESTS}", **self.environment),
            text=True,
        )
        self.address = ""

    def start(self) -> None:
        self.address = str(self._receive())

    def add(self, cpus: int) -> int:
        """Start a node with this number of processors; return its number."""
        return int(self._do("add", cpus))

    def kill(self, node: int) -> None:
        """Kill a node and its processes, without a warning."""
        self._do("kill", node)

    def kill_head(self) -> None:
        self._do("kill head")

    def start_head(self) -> None:
        """Start a head on the port of the first one. It has no record of the cluster before."""
        self._do("start head")

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
        self._errors.close()

    def _do(self, *command: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(command)}\n")
        self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            self._errors.seek(0)
            raise RuntimeError(f"the cluster has ended: {self._errors.read()[-2000:]}")
        return json.loads(line)


def ray_is_here() -> bool:
    return find_spec("ray") is not None


@contextmanager
def ray_cluster(*cpus: int, token: bool = True, engines: Path = TESTS) -> Iterator[RayCluster]:
    """Yield a cluster with a node for each number of processors."""
    cluster = RayCluster(token=token, engines=engines)
    try:
        cluster.start()
        for number in cpus:
            cluster.add(number)
        yield cluster
    finally:
        cluster.stop()


def patiently(start: Callable[[], Any]) -> Any:
    """Try to start a node three times: Ray gives up after 30 s, which is short on a machine with other load."""
    for _ in range(2):
        with suppress(Exception):
            return start()
    return start()


def main() -> None:
    responses = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-")  # short, for the sockets in it
    common = {"node_ip_address": "127.0.0.1", "temp_dir": folder}
    head = common | {"num_cpus": 0, "include_dashboard": False}
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    port = int(cluster.address.rpartition(":")[2])
    nodes: list[Any] = []
    print(json.dumps(cluster.address), file=responses, flush=True)
    for line in sys.stdin:
        result = None
        match json.loads(line):
            case ["add", cpus]:
                nodes.append(patiently(partial(cluster.add_node, num_cpus=cpus, **common)))
                result = len(nodes) - 1
            case ["kill", node]:
                cluster.remove_node(nodes[node], allow_graceful=False)
            case ["kill head"]:
                cluster.remove_node(cluster.head_node, allow_graceful=False)
            case ["start head"]:
                cluster.add_node(gcs_server_port=port, **head)
        print(json.dumps(result), file=responses, flush=True)
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
