"""The parts of the Ray executor that need no Ray."""

import socket
import subprocess
import sys
from typing import Any

import pytest

from support import Clock
from umrgen import __version__
from umrgen.server import implementations
from umrgen.server.executors.ray.connection import ERROR
from umrgen.server.executors.ray.head_watch import HeadWatch
from umrgen.server.executors.ray.ports import listening, node_ports
from umrgen.server.executors.ray.security import ClusterRefused, check_security
from umrgen.server.executors.ray.spec import EngineSpec, RaySpec, checked
from umrgen.server.implementations import make_executor
from umrgen.server.settings import BadSettings, Settings


def node(address: str) -> dict[str, Any]:
    return {
        "NodeManagerAddress": address,
        "NodeManagerPort": 7001,
        "ObjectManagerPort": 7002,
        "MetricsExportPort": 0,
        "AgentPort": -1,
    }


@pytest.mark.parametrize(
    ("head", "nodes"),
    [
        ("10.0.0.5:6379", ["127.0.0.1"]),
        ("127.0.0.1:6379", ["127.0.0.1", "10.0.0.5"]),  # the head listens on all addresses
        ("0.0.0.0:6379", ["127.0.0.1"]),
        ("head.example.org:6379", []),
        ("[2001:db8::1]:6379", []),
        ("127.0.0.1:6379", ["None"]),
    ],
)
def test_a_cluster_without_a_token_is_refused_on_a_network(head: str, nodes: list[str]) -> None:
    with pytest.raises(ClusterRefused, match="accepts calls without a token") as refused:
        check_security(head, False, map(node, nodes))
    assert head in str(refused.value)
    check_security(head, True, map(node, nodes))


@pytest.mark.parametrize("head", ["127.0.0.1:6379", "localhost:6379", "[::1]:6379"])
def test_a_cluster_without_a_token_is_used_on_loopback(head: str) -> None:
    check_security(head, False, [node("127.0.0.1"), node("::1")])


def test_every_port_that_ray_reports_is_named() -> None:
    assert node_ports(node("10.0.0.5")) == "node 10.0.0.5: NodeManagerPort 7001, ObjectManagerPort 7002"


@pytest.mark.parametrize(("family", "host", "shown"), [
    (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
    (socket.AF_INET6, "::1", "[::1]"),
    (socket.AF_INET6, "::ffff:127.0.0.1", "127.0.0.1"),
])  # fmt: skip
def test_the_ports_of_this_process_are_read(family: socket.AddressFamily, host: str, shown: str) -> None:
    with socket.socket(family) as bound:
        bound.bind((host, 0))
        address = f"{shown}:{bound.getsockname()[1]}"
        assert address not in listening()
        bound.listen()
        assert address in listening()
    assert address not in listening()


def test_a_specification_passes_a_command_line() -> None:
    spec = RaySpec("auto", {"GPU": 0.5}, EngineSpec("procedural", {"step_delay": 0.5}, 4000))
    assert RaySpec.from_json(spec.to_json()) == spec


def test_a_node_with_another_version_is_refused() -> None:
    head, _ = checked(({"is": "placed", "node": "10.0.0.5", "version": "0.0.1"}, b""))
    assert head == {"is": "unavailable", "error": f"the node 10.0.0.5 has umrgen 0.0.1; this server has {__version__}"}
    for frame in ({"is": "placed", "node": "10.0.0.5", "version": __version__}, b""), ({"is": "step"}, b"preview"):
        assert checked(frame) == frame


def test_the_server_imports_no_ray() -> None:
    code = "import sys, umrgen.server.executors.ray.executor; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_head_that_does_not_respond_is_reported_once_and_when_it_is_back() -> None:
    watch = HeadWatch("10.0.0.5:6379")
    lines = [watch.observe(responds) for responds in (True, False, False, True, *[False] * 5, True, True)]
    away = ["Ray: its head at 10.0.0.5:6379 does not respond; its engines draw on, and no other one is started"]
    back = ["Ray: its head at 10.0.0.5:6379 responds again"]
    assert lines == [[], [], [], [], [], [], away, [], [], back, []]


def test_errors_are_found_among_what_ray_prints() -> None:
    printed = (
        "[2026-11-28 02:56:02,378 E 21164 21254] rpc_client.h:204: Failed to connect to GCS within 60 seconds.\n"
        "[2026-11-28 02:56:02,378 I 21164 21254] (raylet) accessor.cc:475: Received a notification\n"
        "    [state-dump] NodeManager.deadline_timer.debug_state_dump - 1 total (1 active)\n"
        "Traceback (most recent call last):\n"
        '  File "driver.py", line 1, in <module>\n'
        "ModuleNotFoundError: No module named 'umrgen'\n"
    )
    assert ERROR.findall(printed) == [
        "rpc_client.h:204: Failed to connect to GCS within 60 seconds.",
        "ModuleNotFoundError: No module named 'umrgen'",
    ]


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementations, "find_spec", lambda name: None)
    with pytest.raises(BadSettings, match="packages for Ray are not installed") as missing:
        make_executor(Settings(executor="ray"), Clock())
    assert missing.value.next == "pip install 'umrgen[server,ray]'"


def test_an_engine_that_is_a_server_of_its_own_is_refused() -> None:
    settings = Settings(executor="ray", engine="comfyui", engine_option=("url=http://127.0.0.1:8188",))
    with pytest.raises(BadSettings, match="the engine comfyui is a server of its own"):
        make_executor(settings, Clock())


def test_resources_are_numbers_by_name() -> None:
    assert Settings().resources_in_ray == {"GPU": 1.0}
    settings = Settings.load({"ray_resources": "GPU=0.5, CPU = 2,big_memory=1"}, {})
    assert settings.resources_in_ray == {"GPU": 0.5, "CPU": 2.0, "big_memory": 1.0}


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:6379", "head.example.org:6379", "[::1]:6379"])
def test_addresses_of_a_head_are_accepted(address: str) -> None:
    assert Settings.load({"ray_address": address}, {}).ray_address == address


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ray_address", "ray://127.0.0.1:10001", "HOST:PORT of the head of a Ray cluster; got 'ray://"),
        ("ray_address", "127.0.0.1", "must be auto, or the HOST:PORT"),
        ("ray_address", "local", "must be auto, or the HOST:PORT"),
        ("ray_resources", "GPU", "must be resources such as GPU=1"),
        ("ray_resources", "GPU=0", "must be resources such as GPU=1"),
        ("ray_resources", "GPU=-1", "must be resources such as GPU=1"),
        ("ray_resources", "GPU=nan", "must be resources such as GPU=1"),
        ("ray_resources", "GPU=1.5", "write a part of 1, or a whole number; got 'GPU=1.5'"),
        ("ray_resources", "GPU=1,GPU=1", "each once"),
        ("ray_resources", ",", "one or more resources"),
        ("executor", "slurm", "must be one of local, ray"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        Settings.load({name: value}, {})
