"""PostgreSQL's errors as the ledger's: what happened and what to do, without the password of the URL."""

import re

import psycopg
from psycopg import errors

from umrgen.server.ledger.errors import LedgerUnavailable
from umrgen.text import printable

__all__ = ["DEFECTS", "describe", "unavailable"]

DEFECTS = (psycopg.IntegrityError, psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError)
"""Errors of this program. The others are those of a server, a network, a lock or a disk."""
NEXT = "Check that PostgreSQL runs, and that this machine reaches it."
_HINTS: tuple[tuple[str, str], ...] = (
    (r"password authentication failed|no password supplied", "Check the user and the password of the URL."),
    (r'database ".*" does not exist', "Create the database first: createdb NAME."),
    (r'role ".*" does not exist', "Create the user first: createuser NAME."),
    (r"could not translate host name|resolve", "Check the host of the URL."),
    (r"no pg_hba.conf entry", "Allow this machine in the server's pg_hba.conf."),
    (r"too many clients|remaining connection slots", "Raise max_connections of PostgreSQL."),
    (r"permission denied|must be owner", "Let the user of the URL own the database or the schema."),
)
"""Advice by the text of an error, in the server's default language; other texts get the general advice."""


def describe(error: psycopg.Error, secret: str = "") -> str:
    """Return one line on what PostgreSQL or the network reported, without `secret`."""
    text = error.diag.message_primary or str(error).strip().partition("\n")[0] or type(error).__name__
    line = printable(text, 300)
    return line.replace(secret, "…") if secret else line


def unavailable(error: psycopg.Error, secret: str = "") -> LedgerUnavailable:
    """Return the LedgerUnavailable that reports `error`. `secret` is the password, which it does not contain."""
    text = describe(error, secret)
    advice = next((advice for pattern, advice in _HINTS if re.search(pattern, text)), NEXT)
    if isinstance(error, errors.LockNotAvailable):
        advice = "Another server of this ledger holds its lock: see whether it is stopped in a debugger, or overloaded."
    return LedgerUnavailable(f"the ledger in PostgreSQL cannot be used: {text}", next=advice)
