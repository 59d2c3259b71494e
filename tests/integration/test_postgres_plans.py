"""The plans by which PostgreSQL finds the rows of each statement."""

import re

from postgres import PostgresDatabases
from umrgen.server.ledger.postgres.connection import WORDS, PostgresAddress
from umrgen.server.ledger.postgres.pipeline import numbered
from umrgen.server.ledger.postgres.schema import migrate
from umrgen.server.ledger.sql.statements import Dialect, load_statements

DIALECT = Dialect(contains=lambda name: f"= ANY(:{name})", words=WORDS)
SCANNED = {"ledger_clock", "kept", "sessions", "keys", "workers"}
"""Tables of one row or few rows, and the counts of all sessions."""


def test_the_plans_of_a_new_ledger_read_no_whole_table(postgres: PostgresDatabases) -> None:
    """A connection keeps its plans while the tables grow."""
    connection = PostgresAddress(postgres.create()).connect()
    migrate(connection)
    scanned: dict[str, str] = {}
    for name, sql in load_statements(DIALECT)[0].items():
        text, names = numbered(sql)
        connection.execute(b"PREPARE planned AS " + text.rstrip().removesuffix(b";"))
        values = f"({', '.join(['NULL'] * len(names))})" if names else ""
        for (line,) in connection.execute(f"EXPLAIN EXECUTE planned{values}", prepare=False):
            scanned |= dict.fromkeys(re.findall(r"Seq Scan on (\w+)", line), name)
        connection.execute("DEALLOCATE planned")
    connection.close()
    assert {table: name for table, name in scanned.items() if table not in SCANNED} == {}
    assert "sessions" in scanned, "the plans say how the rows are found"
