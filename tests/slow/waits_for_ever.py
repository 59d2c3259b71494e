"""A test that starts a server, tells its processes' ids, and never ends: test_stopping.py runs it and stops the run.

Its name keeps it out of every other run.
"""

import json
import os
import threading
from pathlib import Path

from support import ServerProcess, server, submit, until


def pids(running: ServerProcess) -> list[int]:
    return [os.getpid(), running.process.pid, *running.engine_pids()]


def test_never_ends(state: Path) -> None:
    with server(state, "--step-delay", "30") as running, running.http() as http:
        submit(http)
        until(running.engine_pids)
        told = Path(os.environ["TOLD"])
        told.with_suffix(".new").write_text(json.dumps(pids(running)))
        told.with_suffix(".new").replace(told)
        threading.Event().wait()
