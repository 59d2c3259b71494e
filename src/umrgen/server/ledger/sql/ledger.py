"""A ledger in an SQL database: its stores over one `Database`."""

from umrgen.server.ledger.sql.calls import SqlCallStore
from umrgen.server.ledger.sql.coordination import SqlCoordinationStore
from umrgen.server.ledger.sql.database import Database
from umrgen.server.ledger.sql.jobs import SqlJobStore
from umrgen.server.ledger.sql.keys import SqlKeyStore
from umrgen.server.ledger.sql.outputs import SqlOutputStore
from umrgen.server.ledger.sql.uploads import SqlUploadStore
from umrgen.server.ledger.sql.webhooks import SqlWebhookStore

__all__ = ["SqlStores"]


class SqlStores:
    """The stores of `Ledger`. Subclasses open and close the database."""

    def __init__(self, database: Database) -> None:
        self.jobs = SqlJobStore(database)
        self.outputs = SqlOutputStore(database)
        self.uploads = SqlUploadStore(database)
        self.webhooks = SqlWebhookStore(database)
        self.keys = SqlKeyStore(database)
        self.calls = SqlCallStore(database)
        self.coordination = SqlCoordinationStore(database)
