"""A process of sd-server on a free port of the loopback interface, which ends with this process."""

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from umrgen.server.engines import EngineFailure
from umrgen.server.engines.sdcpp import tether

__all__ = ["SdProcess"]

END_WAIT = 10.0
"""Seconds until a process that does not end is killed."""


class SdProcess:
    """A running sd-server."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{port}"

    @classmethod
    async def start(cls, binary: str, arguments: Sequence[str]) -> "SdProcess":
        """Start the program. Raises EngineFailure if there is none."""
        program = shutil.which(binary)
        if program is None:
            raise EngineFailure(
                f"there is no program {binary!r}; install stable-diffusion.cpp and put sd-server on the PATH, "
                "or set the option binary"
            )
        port = _free_port()
        listen = ("--listen-ip", "127.0.0.1", "--listen-port", str(port))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(Path(tether.__file__)), program, *arguments, *listen),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith("UMRGEN_")},
        )
        return cls(process, port)

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.returncode

    async def stop(self) -> None:
        """End the process, and wait for its end."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), END_WAIT)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
