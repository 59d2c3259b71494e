"""Deleting the records of old jobs, a few at a time."""

from collections.abc import Callable, Mapping

from umrgen.server.ledger.sql.database import SqlConnection, Transaction

__all__ = ["prune_jobs", "read_before_pruning"]

OLD_JOBS = ("old_failed_jobs", "old_completed_jobs")
PRUNING = ("prune_calls", "prune_idempotency", "prune_webhooks", "prune_outputs")
PRUNED_TOGETHER = 10
"""Jobs that are deleted between two readings of the clock."""


def prune_jobs(
    transaction: Transaction, before: int, limit: int, after: Mapping[str, int], in_time: Callable[[], bool]
) -> tuple[list[str], dict[str, int]]:
    """Delete old jobs while `in_time`; return their ids, and the times after which the next call reads on.

    `after` and the result have a time for each of OLD_JOBS: rows that were deleted stay in PostgreSQL's indexes for as
    long as a backup reads, and each read from the start would pass all of them. At the end, the result is empty.
    """
    old = _old_jobs(transaction.connection, before, limit, after)
    reached = dict(after)
    ids: list[str] = []
    while len(ids) < len(old) and (not ids or in_time()):
        step = old[len(ids) : len(ids) + PRUNED_TOGETHER]
        _delete_records(transaction.connection, [job_id for _, job_id, _ in step])
        reached |= {statement: at for statement, _, at in step}
        ids += [job_id for _, job_id, _ in step]
    return ids, reached if ids else {}


def _old_jobs(
    connection: SqlConnection, before: int, limit: int, after: Mapping[str, int]
) -> list[tuple[str, str, int]]:
    """Return the statement that found each job, its id, and the time of its end or of its first deleted image."""
    found: list[tuple[str, str, int]] = []
    for statement in OLD_JOBS:
        values = {"before": before, "limit": limit - len(found), "after": after.get(statement, 0)}
        found += [(statement, job_id, at) for job_id, at in connection.all(statement, values)]
    return found


def read_before_pruning(connection: SqlConnection, before: int, limit: int, after: Mapping[str, int]) -> None:
    """Read the pages that `_prune` needs: those of old records are seldom in memory, and a disk is waited for here.

    In the transaction that deletes them, the writes of all servers would wait for it.
    """
    old = _old_jobs(connection, before, limit, after)
    if old:
        connection.all("get_jobs", {"ids": [job_id for _, job_id, _ in old]})


def _delete_records(connection: SqlConnection, ids: list[str]) -> None:
    for statement in PRUNING:
        connection.send(statement, {"ids": ids})
    connection.run("prune_jobs", {"ids": ids})  # its result is waited for: so the time is known
