"""Routes: HTTP ⇄ values of `umrgen.jobs`, and nothing else."""

import asyncio
from dataclasses import dataclass, field

from umrgen.server.allowed_hosts import AllowedHosts
from umrgen.server.clock import Clock
from umrgen.server.config import Settings
from umrgen.server.estimates import Estimates
from umrgen.server.executors import Executor
from umrgen.server.http.terminal_responses import TerminalResponseCache
from umrgen.server.images import Images
from umrgen.server.ledger import Ledger
from umrgen.server.limits import FailureThrottle, Limits
from umrgen.server.metrics import Metrics
from umrgen.server.one_time_links import OneTimeLinks
from umrgen.server.previews import Previews
from umrgen.server.services.admission import Admission
from umrgen.server.services.api_keys import ApiKeys
from umrgen.server.services.cancellations import Cancellations
from umrgen.server.services.job_waits import JobWaits
from umrgen.server.services.submissions import Submissions
from umrgen.server.services.uploads import Uploads
from umrgen.server.signatures import Signatures
from umrgen.server.storage import Storage

__all__ = ["Services"]


@dataclass(slots=True)
class Services:
    """What the routes may use; put together in `umrgen.server.application`."""

    settings: Settings
    clock: Clock
    ledger: Ledger
    storage: Storage
    images: Images
    executor: Executor
    keys: ApiKeys
    hosts: AllowedHosts
    waits: JobWaits
    admission: Admission
    submissions: Submissions
    cancellations: Cancellations
    estimates: Estimates
    previews: Previews
    limits: Limits
    logins: FailureThrottle
    """Of addresses that try keys."""
    guesses: FailureThrottle
    """Of addresses that try image names."""
    tickets: OneTimeLinks
    """Links that open the studio without a key."""
    uploads: Uploads
    signatures: Signatures
    metrics: Metrics
    heavy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held for a slice of a call that looks at many jobs: one at a time, so that light calls get in between."""
    terminal_responses: TerminalResponseCache = field(default_factory=TerminalResponseCache)
