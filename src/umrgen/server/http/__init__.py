"""Routes: HTTP ⇄ values of `umrgen.jobs`, and nothing else."""

import asyncio
from dataclasses import dataclass, field

from umrgen.server.clock import Clock
from umrgen.server.config import Settings
from umrgen.server.estimates import Estimates
from umrgen.server.executors import Executor
from umrgen.server.hosts import Hosts
from umrgen.server.http.terminal_responses import TerminalResponseCache
from umrgen.server.images import Images
from umrgen.server.keys import Keys
from umrgen.server.ledger import Ledger
from umrgen.server.limits import Limits, Manners
from umrgen.server.metrics import Metrics
from umrgen.server.previews import Previews
from umrgen.server.services.admission import Admission
from umrgen.server.services.cancellations import Cancellations
from umrgen.server.services.job_waits import JobWaits
from umrgen.server.services.submissions import Submissions
from umrgen.server.signatures import Signatures
from umrgen.server.storage import Storage
from umrgen.server.tickets import Tickets
from umrgen.server.uploads import Uploads

__all__ = ["Services"]


@dataclass(slots=True)
class Services:
    """What the routes may use; put together in `umrgen.server.app`."""

    settings: Settings
    clock: Clock
    ledger: Ledger
    storage: Storage
    images: Images
    executor: Executor
    keys: Keys
    hosts: Hosts
    waits: JobWaits
    admission: Admission
    submissions: Submissions
    cancellations: Cancellations
    estimates: Estimates
    previews: Previews
    limits: Limits
    logins: Manners
    """Of addresses that try keys."""
    guesses: Manners
    """Of addresses that try image names."""
    tickets: Tickets
    """Links that open the studio without a key."""
    uploads: Uploads
    signatures: Signatures
    metrics: Metrics
    heavy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held for a slice of a call that looks at many jobs: one at a time, so that light calls get in between."""
    terminal_responses: TerminalResponseCache = field(default_factory=TerminalResponseCache)
