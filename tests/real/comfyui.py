"""A real ComfyUI, started on a free port of the loopback interface from the folder that `UMRGEN_TEST_COMFYUI` names."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2

from support import tied, until

__all__ = ["RealComfyUI"]

START = 180.0
"""Seconds until it must respond."""


class RealComfyUI:
    """A `with` block in which ComfyUI runs on the CPU."""

    def __init__(self, log: Path) -> None:
        self._folder = Path(os.environ["UMRGEN_TEST_COMFYUI"])
        self._python = os.environ.get("UMRGEN_TEST_COMFYUI_PYTHON", sys.executable)
        self._log = log
        old = '"0.3.' in (self._folder / "comfyui_version.py").read_text()
        self._arguments = ("--preview-method", "auto") if old else ()
        """Newer versions send previews if the prompt asks for them."""
        self._process: subprocess.Popen[bytes]
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx2.Client(base_url=self.url, timeout=60, trust_env=False)

    def __enter__(self) -> "RealComfyUI":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.http.close()
        self.stop(signal.SIGKILL)

    def start(self) -> None:
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the process. The kernel ends it with the thread that called this."""
        listen = ("--cpu", "--listen", "127.0.0.1", "--port", str(self.port))
        command = tied(self._python, "main.py", *listen, *self._arguments)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)

    def wait(self) -> None:
        until(self._responds, START)

    def _responds(self) -> Any:
        assert self._process.poll() is None, f"ComfyUI ended: {self._log.read_text()[-2000:]}"
        return self.get("/system_stats")

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self._process.poll() is None:
            self._process.send_signal(how)
        self._process.wait(60)

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    @property
    def version(self) -> str:
        return str(self.get("/system_stats")["system"]["comfyui_version"])

    def running(self) -> list[str]:
        return [_given_id(item) for item in self.get("/queue")["queue_running"]]

    def pending(self) -> list[str]:
        return [_given_id(item) for item in self.get("/queue")["queue_pending"]]

    def entry(self, prompt_id: str) -> Any:
        """Return the history of the prompt that was sent with this id."""
        return next((entry for entry in self.history().values() if _given_id(entry["prompt"]) == prompt_id), None)

    def history(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/history")
        return found

    def checkpoint(self) -> str:
        """Return the checkpoint that the tests use: the first one whose name has `random`, or else the first."""
        info = self.get("/object_info/CheckpointLoaderSimple")["CheckpointLoaderSimple"]
        kind, *more = info["input"]["required"]["ckpt_name"]
        names: list[str] = kind if isinstance(kind, list) else more[0]["options"]
        return next((name for name in names if "random" in name), names[0])

    def output(self, file: str) -> Path:
        return self._folder / "output" / file


def _given_id(item: Any) -> str:
    """Return the id that a prompt was sent with: that of its client, since old versions choose the id themselves."""
    return str(item[3]["client_id"])


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
