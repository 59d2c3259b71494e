"""A test that starts a server, writes its process ids to a file, and never ends: test_stopping.py runs and stops it.

pytest does not collect it by default, because of its file name.
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
        pids_file = Path(os.environ["PIDS_FILE"])
        pids_file.with_suffix(".new").write_text(json.dumps(pids(running)))
        pids_file.with_suffix(".new").replace(pids_file)
        threading.Event().wait()
