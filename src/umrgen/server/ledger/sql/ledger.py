"""A ledger in an SQL database: its stores over one `Database`."""

from umrgen.server.ledger.sql.calls import SqlCallStore
from umrgen.server.ledger.sql.coordination import SqlCoordinationStore
from umrgen.server.ledger.sql.database import Database, SqlConnection
from umrgen.server.ledger.sql.fingerprints import SqlFingerprintStore
from umrgen.server.ledger.sql.jobs import SqlJobStore
from umrgen.server.ledger.sql.keys import SqlKeyStore
from umrgen.server.ledger.sql.outputs import SqlOutputStore
from umrgen.server.ledger.sql.previews import SqlPreviewStore
from umrgen.server.ledger.sql.templates import SqlTemplateStore
from umrgen.server.ledger.sql.uploads import SqlUploadStore
from umrgen.server.ledger.sql.webhooks import SqlWebhookStore
from umrgen.server.ledger.sql.workers import SqlWorkerStore

__all__ = ["SqlStores", "read_time"]


def read_time(connection: SqlConnection) -> int | None:
    """Return the time of the database's machine, in milliseconds."""
    row = connection.one("database_time")
    return None if row is None else int(row[0])


class SqlStores:
    """The stores of `Ledger`. Subclasses open and close the database."""

    def __init__(self, database: Database) -> None:
        self.jobs = SqlJobStore(database)
        self.outputs = SqlOutputStore(database)
        self.fingerprints = SqlFingerprintStore(database)
        self.uploads = SqlUploadStore(database)
        self.templates = SqlTemplateStore(database)
        self.webhooks = SqlWebhookStore(database)
        self.keys = SqlKeyStore(database)
        self.calls = SqlCallStore(database)
        self.coordination = SqlCoordinationStore(database)
        self.workers = SqlWorkerStore(database)
        self.previews = SqlPreviewStore(database)

    async def time(self) -> int | None:
        """The database is on this machine, unless a subclass knows better."""
        return None
