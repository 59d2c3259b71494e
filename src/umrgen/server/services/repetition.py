"""Work that a server repeats as long as it runs, whatever happens in between."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from umrgen.clock import Clock
from umrgen.server.blobs import BlobStoreUnavailable
from umrgen.server.ledger import LedgerUnavailable

__all__ = ["repeat"]

log = logging.getLogger(__name__)


async def repeat(work: Callable[[], Awaitable[Any]], clock: Clock, interval: float, failed: str) -> None:
    """Call `work` every `interval` seconds, until the task is cancelled.

    After an exception, the next call is as usual. `failed`: what the log says then, as "no images are deleted".
    """
    while True:
        try:
            await work()
        except (LedgerUnavailable, BlobStoreUnavailable) as error:
            log.warning("%s, which is tried again in %g s: %s", failed, interval, error)
        except Exception:
            log.exception("%s, which is tried again in %g s", failed, interval)
        await clock.sleep(interval)
