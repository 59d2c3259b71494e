"""Maintenance of a ledger in PostgreSQL. Its backup is that of the database: `pg_dump`, or the provider's."""

from collections.abc import Iterable
from contextlib import closing

import psycopg

from umrgen.server.ledger.postgres.connection import PostgresAddress
from umrgen.server.ledger.postgres.schema import schema_version, stored_version
from umrgen.server.ledger.sql.checks import LedgerReport, Sizes, check_records
from umrgen.server.ledger.sql.database import Row

__all__ = ["check"]


def check(url: str, sizes: Sizes) -> LedgerReport:
    """Check the ledger's schema, its counts and change numbers, and by `sizes` that each image on record exists.

    PostgreSQL itself enforces the references, and checks its pages. Changes nothing. Raises LedgerUnavailable.
    """
    report, address = LedgerReport(), PostgresAddress(url)
    with closing(address.connect()) as connection:
        try:
            _check(connection, sizes, report)
        except psycopg.Error as error:
            raise address.unavailable(error) from None
    return report.shortened()


def _check(connection: psycopg.Connection, sizes: Sizes, report: LedgerReport) -> None:
    version, known = stored_version(connection), schema_version()
    if version != known:
        report.errors.append(f"its schema has version {version}, this program's {known}: start the server once")
        return

    def execute(sql: str) -> Iterable[Row]:
        return connection.execute(sql.encode())

    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")  # one snapshot for all checks
        check_records(execute, sizes, report)
