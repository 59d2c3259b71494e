"""A process of `umrgen work`, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import UmrgenProcess

__all__ = ["WorkerProcess", "worker"]


class WorkerProcess(UmrgenProcess):
    """A process of `umrgen work`."""

    def launch(self) -> "WorkerProcess":
        """Start the process; return when it has opened the ledger."""
        assert self._launch("work", "--state", str(self.state))["state"] == str(self.state)
        return self


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
