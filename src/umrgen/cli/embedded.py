"""A temporary server for one command, in a process that ends with it."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from umrgen.durable import make_folder, sync
from umrgen.errors import ConnectionFailed, OutputCorrupt, ServerError, TargetUnusable, UmrgenError, WaitTimeout
from umrgen.paths import data_home

__all__ = ["EmbeddedServer", "embedded_server"]

_ARGUMENTS = ("--host", "127.0.0.1", "--port", "0", "--drain", "0", "--json", "--until-eof")
_PACKAGES = ("msgspec", "numpy", "starlette", "granian")
_UNFINISHED = (WaitTimeout, ConnectionFailed, ServerError, OutputCorrupt, TargetUnusable, KeyboardInterrupt)


@dataclass(slots=True)
class EmbeddedServer:
    """The address, API key and state folder of a running embedded server."""

    url: str
    key: str
    state: Path
    keep: bool = False
    """Whether the state folder stays after the end: it has unfinished jobs."""


def _check_installed() -> None:
    if any(find_spec(name) is None for name in _PACKAGES):
        raise UmrgenError(
            "no server is configured, and the server's packages are not installed",
            code="no_server",
            next="Run `umrgen login` to use a server (or set UMRGEN_BASE_URL and UMRGEN_API_KEY); to start one here: "
            "pip install 'umrgen[server]'",
        )


@contextmanager
def embedded_server(state: Path | None = None) -> Iterator[EmbeddedServer]:
    """Start a server in a new state folder, or in that of an interrupted command. Raises UmrgenError.

    The folder is removed at the end, except after an interruption or an error that leaves its job unfinished, and when
    the caller sets `keep`.
    """
    _check_installed()
    keep = state is not None  # a folder with an unfinished job stays when its server does not start
    state = state or _new_state_folder()
    key = _client_key(state)
    log_path = state / "server.log"
    with log_path.open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "umrgen", "serve", *_ARGUMENTS, "--state", str(state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | {"UMRGEN_SERVER_KEY": key},
            text=True,
            start_new_session=True,  # Ctrl-C must not reach the server, which stops when its input ends
        )
    server: EmbeddedServer | None = None
    try:
        server = EmbeddedServer(_address(process, log_path), key, state)
        keep = False
        yield server
    except _UNFINISHED:
        keep = True
        raise
    finally:
        with process:  # closes its input and waits for it
            pass
        if not keep and not (server and server.keep):
            shutil.rmtree(state, ignore_errors=True)


def _new_state_folder() -> Path:
    """Return a new folder for a server: in the user's data folder, or a temporary one when that is not writable."""
    try:
        folder = data_home() / "embedded" / secrets.token_hex(8)
        make_folder(data_home(), mode=0o700)  # `umrgen serve` warns of a folder that others can enter
        make_folder(folder, mode=0o700)
    except (OSError, UmrgenError):
        return Path(tempfile.mkdtemp(prefix="umrgen-"))
    return folder


def _client_key(state: Path) -> str:
    """Return the server's API key, which is in its state folder, readable by this user only."""
    make_folder(state, mode=0o700)
    path = state / "client-key"
    if not path.is_file():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"umr_{secrets.token_urlsafe(32)}")
        sync(path)
    if not (key := path.read_text()):
        raise UmrgenError(
            f"the key of an interrupted server is lost: {path} is empty",
            code="no_key",
            next=f"Its images, if there are any, are in {state / 'outputs'}.",
        )
    return key


def _address(process: subprocess.Popen[str], log_path: Path) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        reason = log_path.read_text().strip().splitlines()[-1:] or ["it printed no error"]
        raise UmrgenError(f"the embedded server did not start: {reason[0].removeprefix('umrgen: ')}", code="no_server")
    url: str = json.loads(line)["url"]
    return url
