"""Functions and classes that several tests use: a real server process on a free port, the CLI, clocks, requests."""

import codecs
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import httpx2

from umrgen.server.domain.request import GenerationRequest
from umrgen.server.engines import DrawTask

SMALL = {"width": 512, "height": 512, "steps": 1}
"""The parameters of the image that is drawn fastest among those that the contract allows."""


UNLIMITED = ("--rate", "0", "--failed-logins", "100000", "--missed-outputs", "100000")
"""Options for a server that many tests share: no rate limit, and no throttling of failed requests."""


GUIDE = Path(__file__).parents[2] / "shared" / "guide" / "image-retrieval-guide.md"
"""The guide that the contract was written from. The repository does not have it, and no test requires it."""

TIED = (sys.executable, "-I", "-S", str(Path(__file__).with_name("tied.py")))


def tied(*command: str) -> list[str]:
    """Return a command that ends with this process and has the default signal handlers.

    Its process id is that of the Popen: tied.py replaces itself by the command.
    """
    return [*TIED, *command]


def clean_environment(**changes: str) -> dict[str, str]:
    """Return this process's environment without the variables that configure UMRGEN, with `changes`.

    A PYTHONPATH goes in front of the present one, which may lead to a mutated copy of the sources; "" empties it.
    """
    present = os.environ.get("PYTHONPATH")
    if present and changes.get("PYTHONPATH"):
        changes["PYTHONPATH"] += os.pathsep + present
    return {name: value for name, value in os.environ.items() if not name.startswith("UMRGEN_")} | changes


class UmrgenProcess:
    """A process of the command line, which ends with this process."""

    command: ClassVar = (
        (sys.executable, str(Path(__file__).with_name("on_uvicorn.py")))
        if os.environ.get("TEST_ON_UVICORN")
        else (sys.executable, "-m", "umrgen")
    )

    def __init__(self, state: Path, *arguments: str, **environment: str) -> None:
        self.state = state
        self._arguments = arguments
        self._environment = environment
        self.process: subprocess.Popen[str]

    def _launch(self, *command: str) -> dict[str, Any]:
        """Start the process; return the object that it prints when it has started."""
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "test.log").open("a") as log:
            self.process = subprocess.Popen(
                tied(*self.command, *command, "--json", *self._arguments),
                stdout=subprocess.PIPE,
                stderr=log,
                env=clean_environment(**self._environment),
                text=True,
                start_new_session=True,  # a new process group, for kill_group
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process did not start: {self.log()}")
        started: dict[str, Any] = json.loads(line)
        return started

    def log(self) -> str:
        return (self.state / "test.log").read_text()

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.terminate()
        return self.ended()

    def kill(self) -> None:
        """Send SIGKILL to the process."""
        self.process.kill()
        self.ended()

    def kill_group(self) -> None:
        """Send SIGKILL to the process and its engine."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.ended()

    def ended(self) -> int:
        """Wait up to 30 s for the process's end, and return the exit code."""
        code = self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


class ServerProcess(UmrgenProcess):
    """A process of `umrgen serve`, as a user starts it."""

    def __init__(self, state: Path, *arguments: str, **environment: str) -> None:
        super().__init__(state, *arguments, **environment)
        self.url = ""
        self.key = ""
        self.studio = ""

    def start(self) -> "ServerProcess":
        self.launch()
        until(lambda: httpx2.get(f"{self.url}/readyz").status_code == 200)
        return self

    def launch(self) -> None:
        """Start the process; return when it listens, before it is ready."""
        started = self._launch("serve", "--port", "0", *self._state_arguments())
        self.url = started["url"]
        self.key = started["key"] or self.key
        self.studio = started["studio"] or ""

    def _state_arguments(self) -> list[str]:
        return ["--state", str(self.state)]

    def engine_pids(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children]

    def http(self, **headers: str) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"} | headers, timeout=70)


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Return the first true value of `condition`; fail when it is false for `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            value = condition()
        except httpx2.TransportError:
            value = None
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"the condition was false for {seconds} s")
        time.sleep(0.01)


class Terminal:
    """A process whose stdin and stderr are a pseudo-terminal, which is its controlling terminal.

    With `output`, its stdout is this terminal too. The size is in rows and columns.
    """

    def __init__(
        self, *command: str, output: bool = False, size: tuple[int, int] = (24, 80), **environment: str
    ) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, size)
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *command],
            stdin=theirs,
            stderr=theirs,
            stdout=theirs if output else subprocess.DEVNULL,
            env=clean_environment(**environment),
            start_new_session=True,
        )
        os.close(theirs)
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character
        self.shown = ""

    def read_until(self, text: str) -> None:
        while text not in self.shown:
            self._show(os.read(self._ours, 4096))

    def write(self, data: str) -> None:
        """Type `data`, or respond to a query of the terminal."""
        os.write(self._ours, data.encode())

    def read_all(self) -> str:
        """Read until the process has closed the terminal; return all that it has shown."""
        with suppress(OSError):  # EIO: the terminal is closed
            while data := os.read(self._ours, 4096):
                self._show(data)
        return self.shown

    def _show(self, data: bytes) -> None:
        self.shown = (self.shown + self._decoder.decode(data)).replace("\r\n", "\n")

    def close(self) -> int:
        """Close the terminal, and return the exit code of the process."""
        os.close(self._ours)
        return self.process.wait(30)


TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


@contextmanager
def server(state: Path, *arguments: str, **environment: str) -> Iterator[ServerProcess]:
    running = ServerProcess(state, *arguments, **environment).start()
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
            try:
                running.ended()
            except subprocess.TimeoutExpired:
                running.kill()
                raise


def cli(
    *arguments: str, timeout: float = 60, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run `umrgen` with arguments, as a user does."""
    return subprocess.run(
        tied(sys.executable, "-m", "umrgen", *arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=clean_environment(**environment),
        cwd=cwd,
    )


def signing_options(folder: Path) -> list[str]:
    """Make a certificate, and return the options of a server that signs with it and trusts its root."""
    made = folder / "signing"
    assert cli("provenance", "init", str(made)).returncode == 0
    signing = [f"--signing-{name}={made / name}.pem" for name in ("certificate", "key")]
    return [*signing, f"--verify-trust={made / 'root.pem'}"]


def submit(http: httpx2.Client, prompt: str = "a lighthouse", **fields: Any) -> str:
    response = http.post("/api/v1/generate", json={"prompt": prompt} | SMALL | fields)
    assert response.status_code == 202, response.text
    job_id: str = response.json()["job_id"]
    return job_id


def finish(http: httpx2.Client, job_id: str) -> dict[str, Any]:
    """Wait for the job's end by long polls, and return the job."""
    for _ in range(10):
        job: dict[str, Any] = http.get(f"/api/v1/status/{job_id}", headers={"Prefer": "wait=60"}).json()
        if job["state"] in ("completed", "failed"):
            return job
    raise AssertionError(f"{job_id} is not over")


def problem(response: httpx2.Response, status: int, code: str) -> dict[str, object]:
    """Check that a response is a problem of the contract's shape, without internal details; return its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = response.json()
    assert body["success"] is False
    assert (body["code"], body["status"]) == (code, status)
    assert isinstance(body["error"], str)
    assert body["error"]
    assert body["next"]
    for secret in ("Traceback", "/root", "/tmp", "/home", "umr_", ".py"):
        assert secret not in response.text
    return body


class Clock:
    """A clock whose time the test sets; `sleep` advances it."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> int:
        return int(self.at * 1000)

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


def open_descriptors(folder: Path) -> list[str]:
    """Return the paths of the files in `folder` that this process has open."""
    opened = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of this listing is closed now
            opened.append(str(descriptor.readlink()))
    return sorted(path for path in opened if path.startswith(f"{folder}/"))


def draw_task(
    prompt: str,
    width: int = 512,
    height: int = 512,
    steps: int = 2,
    seed: int = 3,
    *,
    negative: str = "",
    references: tuple[bytes, ...] = (),
    job_id: str = "ext_1",
) -> DrawTask:
    """Return a task for an engine."""
    request = GenerationRequest(prompt, seed=seed, negative=negative, width=width, height=height, steps=steps)
    return DrawTask(job_id, request, references)
