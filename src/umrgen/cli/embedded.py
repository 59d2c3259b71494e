"""A server of one's own for one call: a real one, in a process that ends with this one."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from umrgen.errors import UmrgenError, WaitTimeout
from umrgen.paths import data_home

__all__ = ["embedded_server"]

_ARGUMENTS = ("--host", "127.0.0.1", "--port", "0", "--drain", "0", "--json", "--until-eof")
_NEEDED = ("msgspec", "numpy", "starlette", "uvicorn")


def _check_installed() -> None:
    if any(find_spec(name) is None for name in _NEEDED):
        raise UmrgenError(
            "no server is configured, and this installation cannot be one",
            code="no_server",
            next="Set UMRGEN_BASE_URL and UMRGEN_API_KEY to use a server, or: pip install 'umrgen[server]'",
        )


@contextmanager
def embedded_server() -> Iterator[tuple[str, str]]:
    """Start a server in a folder of its own; give its address and key. Raises UmrgenError.

    The folder goes with the call. Only after an interruption it stays: the job in it is still alive.
    """
    _check_installed()
    state = data_home() / "embedded" / secrets.token_hex(8)
    state.mkdir(parents=True, mode=0o700)
    key = f"umr_{secrets.token_urlsafe(32)}"
    log_path = state / "server.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "umrgen", "serve", *_ARGUMENTS, "--state", str(state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | {"UMRGEN_API_KEY": key},
            text=True,
            start_new_session=True,  # Ctrl-C is for us; the server goes when its input ends
        )
    wanted_later = False
    try:
        yield _address(process, log_path), key
    except (WaitTimeout, KeyboardInterrupt):
        wanted_later = True
        raise
    finally:
        with process:  # closes its input and waits for it
            pass
        if not wanted_later:
            shutil.rmtree(state, ignore_errors=True)


def _address(process: subprocess.Popen[str], log_path: Path) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        reason = log_path.read_text().strip().splitlines()[-1:] or ["it said nothing"]
        raise UmrgenError(f"the embedded server did not start: {reason[0].removeprefix('umrgen: ')}", code="no_server")
    url: str = json.loads(line)["url"]
    return url
