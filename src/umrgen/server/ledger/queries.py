"""Named SQL: a `.sql` file holds queries, each under a line `-- name: ...`."""

import re
from functools import cache
from importlib.resources import files

from umrgen.server.ledger.rows import COLUMNS

__all__ = ["load_migrations", "load_queries"]

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


@cache
def load_queries(dialect: str) -> dict[str, str]:
    """The queries of `<dialect>.sql` by name, their describing comments dropped and their columns filled in."""
    text = files(__package__).joinpath(f"{dialect}.sql").read_text()
    _, *parts = _NAME.split(text)
    queries: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in queries:
            raise ValueError(f"two queries are called {name}")
        query = "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip()
        queries[name] = query.replace("{job}", ", ".join(COLUMNS)).replace("{each}", ", ".join("?" * len(COLUMNS)))
    return queries


@cache
def load_migrations(dialect: str) -> tuple[str, ...]:
    """The migrations in order; the database's own version says how many of them it has."""
    folder = files(__package__).joinpath("migrations", dialect)
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    for number, name in enumerate(names, 1):
        if not name.startswith(f"{number:04d}_"):
            raise ValueError(f"migration {name} is out of its order: expected number {number:04d}")
    return tuple(folder.joinpath(name).read_text() for name in names)
