"""Routes: HTTP ⇄ values of `umrgen.jobs`, and nothing else."""

from dataclasses import dataclass, field

from umrgen.server.clock import Clock
from umrgen.server.config import Settings
from umrgen.server.estimates import Estimates
from umrgen.server.executors import Executor
from umrgen.server.http.encoded import Encoded
from umrgen.server.keys import Keys
from umrgen.server.ledger import Ledger
from umrgen.server.previews import Previews
from umrgen.server.storage import Storage
from umrgen.server.waiters import Waiters
from umrgen.server.webhooks.addresses import Allow

__all__ = ["Services"]


@dataclass(slots=True)
class Services:
    """What the routes may use; put together in `umrgen.server.app`."""

    settings: Settings
    clock: Clock
    ledger: Ledger
    storage: Storage
    executor: Executor
    keys: Keys
    waiters: Waiters
    estimates: Estimates
    previews: Previews
    webhooks_allowed: Allow = field(default_factory=Allow)
    encoded: Encoded = field(default_factory=Encoded)
    draining: bool = False
