"""The schema of the ledger in PostgreSQL."""

import psycopg

from umrgen.server.ledger.errors import LedgerTooNew
from umrgen.server.ledger.sql.rows import searched_of
from umrgen.server.ledger.sql.statements import load_migrations

__all__ = ["migrate", "schema_version", "stored_version"]

LOCK = 7_161_735_003
"""The advisory lock under which one server at a time migrates: an arbitrary number."""
PACKAGE = "umrgen.server.ledger.postgres"
SEARCHED = 2
"""The version of the schema that added the column `searched`."""
FETCHED = 2000
"""Rows that are held in memory."""


def schema_version() -> int:
    """Return the version of the schema that this program reads and writes."""
    return len(load_migrations(PACKAGE))


def stored_version(connection: psycopg.Connection) -> int:
    """Return the version of the database's schema; 0 for a database without a ledger."""
    if connection.execute("SELECT to_regclass('ledger_schema')").fetchone() == (None,):
        return 0
    row = connection.execute("SELECT version FROM ledger_schema").fetchone()
    return int(row[0]) if row else 0


def migrate(connection: psycopg.Connection) -> None:
    """Migrate the database to the newest schema, in one transaction. Concurrent calls of several servers are safe.

    Raises LedgerTooNew when a newer program wrote it, psycopg.Error.
    """
    if stored_version(connection) == schema_version():
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        version = stored_version(connection)
        if version > schema_version():
            raise LedgerTooNew()
        for migration in load_migrations(PACKAGE)[version:]:
            connection.execute(migration.encode(), prepare=False)  # several statements
        if version < SEARCHED:
            _write_searched(connection)
        connection.execute("CREATE TABLE IF NOT EXISTS ledger_schema (version BIGINT NOT NULL)")
        connection.execute("DELETE FROM ledger_schema")
        connection.execute("INSERT INTO ledger_schema (version) VALUES (%s)", [schema_version()])


def _write_searched(connection: psycopg.Connection) -> None:
    """Write the column `searched` of all jobs."""
    with connection.cursor(name="umrgen_requests") as reader, connection.cursor() as writer:
        reader.execute("SELECT seq, request FROM jobs")
        while rows := reader.fetchmany(FETCHED):
            values = [(searched_of(request), seq) for seq, request in rows]
            writer.executemany("UPDATE jobs SET searched = %s WHERE seq = %s", values)
