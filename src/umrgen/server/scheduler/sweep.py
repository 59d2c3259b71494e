"""Files without a record: what a crash left between storing an image and writing down that it is there."""

import logging
from collections.abc import Set

from umrgen.server.blobs import Storage
from umrgen.server.ledger import LedgerUnavailable, OutputStore

__all__ = ["sweep"]

log = logging.getLogger(__name__)


async def sweep(storage: Storage, outputs: OutputStore, *, before: int, storing: Set[str]) -> None:
    """Remove every stored file that was last written before `before` (ms since the epoch) and has no record.

    Give it the moment at which the server started, and the names that are on their way to their record:
    a clock that was set back makes the youngest file look old.
    """
    removed = 0
    try:
        async for session_id, names in storage.older(before):
            # In this order: a name leaves `storing` only when it is on record, or removed.
            doubtful = set(names) - storing
            for name in doubtful - await outputs.known_files(sorted(doubtful)):
                await storage.delete(session_id, name)
                removed += 1
    except (OSError, LedgerUnavailable) as error:
        log.warning("the sweep was broken off: %s", error)
    log.info("sweep: %d files without a record were removed", removed)
