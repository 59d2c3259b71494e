"""A process of `umrgen work`, for tests."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import clean_environment, tied

__all__ = ["WorkerProcess", "worker"]


class WorkerProcess:
    """A process of `umrgen work`, which ends with this process."""

    def __init__(self, state: Path, *arguments: str, **environment: str) -> None:
        self.state = state
        self._arguments = arguments
        self._environment = environment
        self.process: subprocess.Popen[str]

    def launch(self) -> "WorkerProcess":
        """Start the process; return when it has opened the ledger."""
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "test.log").open("a") as log:
            self.process = subprocess.Popen(
                tied(sys.executable, "-m", "umrgen", "work", "--json", "--state", str(self.state), *self._arguments),
                stdout=subprocess.PIPE,
                stderr=log,
                env=clean_environment(**self._environment),
                text=True,
                start_new_session=True,  # a new process group, for kill_group
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log()
        assert json.loads(line)["state"] == str(self.state)
        return self

    def log(self) -> str:
        return (self.state / "test.log").read_text()

    def stop(self) -> int:
        self.process.terminate()
        return self._ended()

    def kill_group(self) -> None:
        """Send SIGKILL to the worker and its engine."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self._ended()

    def _ended(self) -> int:
        code = self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


@contextmanager
def worker(state: Path, *arguments: str, **environment: str) -> Iterator[WorkerProcess]:
    """Run a worker, which must end without an error."""
    running = WorkerProcess(state, *arguments, **environment).launch()
    try:
        yield running
    finally:
        code = running.stop()
    assert code == 0
    assert "Traceback" not in running.log()
