"""Named SQL: `statements.sql` holds queries, each under a line `-- name: ...`; migrations are files with numbers."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files

from umrgen.server.domain.job import Output
from umrgen.server.ledger.sql.rows import COLUMNS
from umrgen.server.ledger.values import Call, Key, LiveWorker, Upload, Webhook

__all__ = ["Dialect", "load_migrations", "load_statements"]

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "job": COLUMNS,
    "output": tuple(field.name for field in fields(Output)),
    "upload": tuple(field.name for field in fields(Upload)),
    "webhook": tuple(field.name for field in fields(Webhook)),
    "key": tuple(field.name for field in fields(Key)),
    "call": tuple(field.name for field in fields(Call)),
    "worker": tuple(field.name for field in fields(LiveWorker)),
}
_IN = re.compile(r"\{in (\w+)\}")
_MATCHES = "(:engine = '' OR engine = :engine) AND created_at > :after AND created_at < :until AND "
"""The tests of a `JobFilter` for which there is no index."""


@dataclass(frozen=True)
class Dialect:
    """The differences of a database's SQL from the statements."""

    contains: Callable[[str], str]
    """The test that a column is in the list parameter of this name, to follow the column."""
    words: str
    """The test that the column `searched` contains all elements of the list parameter `words`."""
    parameters: Callable[[str], str] = str
    """Rewrites a statement whose parameters are `:name`."""


@cache
def load_statements(dialect: Dialect) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Return the statements by name, and the list parameters of those that have any.

    `{job}` is replaced by the columns of a job's record, `{:job}` by a parameter for each of them, and in the same way
    `output`, `upload`, `webhook`, `key`, `call` and `worker`. `{in ids}` becomes the test whether the column before it
    is in the list `:ids`, and `{matches}` the tests of a `JobFilter`.
    """
    _, *parts = _NAME.split(files(__package__).joinpath("statements.sql").read_text())
    statements: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in statements:
            raise ValueError(f"two statements are called {name}")
        sql = "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip()
        for record, columns in _COLUMNS.items():
            sql = sql.replace(f"{{{record}}}", ", ".join(columns))
            sql = sql.replace(f"{{:{record}}}", ", ".join(f":{column}" for column in columns))
        found = (*_IN.findall(sql), *(["words"] if "{matches}" in sql else []))
        if found:
            lists[name] = found
        sql = sql.replace("{matches}", _MATCHES + dialect.words)
        statements[name] = dialect.parameters(_IN.sub(lambda match: dialect.contains(match[1]), sql))
    return statements, lists


@cache
def load_migrations(package: str) -> tuple[str, ...]:
    """Return the migrations of a database's package, in order; the database's version is how many of them it has."""
    folder = files(package).joinpath("migrations")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    for number, name in enumerate(names, 1):
        if not name.startswith(f"{number:04d}_"):
            raise ValueError(f"migration {name} is out of order: expected number {number:04d}")
    return tuple(folder.joinpath(name).read_text() for name in names)
