"""The plans by which PostgreSQL finds the rows of each statement."""

from collections.abc import Iterator
from typing import Any

import psycopg

from postgres import PostgresDatabases
from umrgen.server.ledger.postgres.connection import WORDS, PostgresAddress
from umrgen.server.ledger.postgres.pipeline import numbered
from umrgen.server.ledger.postgres.schema import migrate
from umrgen.server.ledger.sql.statements import Dialect, load_statements

DIALECT = Dialect(contains=lambda name: f"= ANY(:{name})", words=WORDS)
SCANNED = {"ledger_clock", "kept", "sessions", "keys", "workers"}
"""Tables of one row or few rows, and the counts of all sessions."""

SORTED = {"unclaimed_call", "oldest_active"}
"""Statements that sort the jobs of one call, and those of a session that are not over."""
OLD_RECORDS = (
    """INSERT INTO jobs (id, session_id, request, engine, state, version, attempt, interruptions, token, step,
                         created_at, completed_at, outputs, changed)
       SELECT 'ext_' || n, 'sid_' || n % 50, '{}', 'procedural', 'completed', 3, 1, 0, 1, 4, n, n, '[{}]', n
       FROM generate_series(1, 5000) AS n""",
    """INSERT INTO outputs (name, session_id, job_id, bytes, sha256, width, height, media_type, created_at)
       SELECT n || '.png', 'sid_' || n % 50, 'ext_' || n, 3, '', 512, 512, 'image/png', n
       FROM generate_series(1, 5000) AS n""",
    "ANALYZE",
    "UPDATE outputs SET expired_at = (created_at * 7919) % 2000 + 1 WHERE created_at <= 2000",
)


def _planned(connection: psycopg.Connection, sql: str) -> dict[str, Any]:
    """Return the plan of a statement, as JSON."""
    text, names = numbered(sql)
    connection.execute(b"PREPARE planned AS " + text.rstrip().removesuffix(b";"))
    values = f"({', '.join(['NULL'] * len(names))})" if names else ""
    row = connection.execute(f"EXPLAIN (FORMAT json) EXECUTE planned{values}", prepare=False).fetchone()
    connection.execute("DEALLOCATE planned")
    assert row is not None
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


def _parts(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _parts(part)


def _sorts_for_its_first_rows(plan: dict[str, Any]) -> bool:
    """Return whether the plan sorts all rows of which a LIMIT needs the first ones."""
    limits = [part for part in _parts(plan) if part["Node Type"] == "Limit"]
    return any("Sort" in part["Node Type"] for limit in limits for part in _parts(limit))


def test_the_plans_of_a_ledger_with_old_records_read_only_the_first_ones(postgres: PostgresDatabases) -> None:
    """By statistics from before the images were deleted, PostgreSQL would read and sort all old records for 50."""
    connection = PostgresAddress(postgres.create()).connect()
    migrate(connection)
    for sql in OLD_RECORDS:
        connection.execute(sql)
    plans = {name: _planned(connection, sql) for name, sql in load_statements(DIALECT)[0].items()}
    connection.close()
    assert {name for name, plan in plans.items() if _sorts_for_its_first_rows(plan)} <= SORTED
    limited = [name for name, plan in plans.items() if any(part["Node Type"] == "Limit" for part in _parts(plan))]
    assert {"old_completed_jobs", "old_failed_jobs"} <= set(limited)


def test_the_plans_of_a_new_ledger_read_no_whole_table(postgres: PostgresDatabases) -> None:
    """A connection keeps its plans while the tables grow."""
    connection = PostgresAddress(postgres.create()).connect()
    migrate(connection)
    scanned: dict[str, str] = {}
    for name, sql in load_statements(DIALECT)[0].items():
        parts = _parts(_planned(connection, sql))
        scanned |= {part["Relation Name"]: name for part in parts if part["Node Type"] == "Seq Scan"}
    connection.close()
    assert {table: name for table, name in scanned.items() if table not in SCANNED} == {}
    assert "sessions" in scanned, "the plans say how the rows are found"
