"""The HTTP interface: handlers decode a request, call one service, and encode the result."""

from dataclasses import dataclass, field

from umrgen.clock import Clock
from umrgen.server.allowed_hosts import AllowedHosts
from umrgen.server.http.terminal_responses import TerminalResponseCache
from umrgen.server.metrics import Metrics
from umrgen.server.services.api_keys import ApiKeys
from umrgen.server.services.authentication import Authentication
from umrgen.server.services.call_references import CallReferences
from umrgen.server.services.cancellations import Cancellations
from umrgen.server.services.job_edits import JobEdits
from umrgen.server.services.job_waits import JobWaits
from umrgen.server.services.limits import RateLimits
from umrgen.server.services.one_time_links import OneTimeLinks
from umrgen.server.services.outputs import Outputs
from umrgen.server.services.remembered_devices import RememberedDevices
from umrgen.server.services.server_state import ServerState
from umrgen.server.services.signatures import Signatures
from umrgen.server.services.submissions import Submissions
from umrgen.server.services.templates import Templates
from umrgen.server.services.uploads import Uploads
from umrgen.server.services.verifications import Verifications
from umrgen.server.settings import Settings
from umrgen.server.signing import ManifestSigner

__all__ = ["Services"]


@dataclass(slots=True)
class Services:
    """The services and values that the handlers use; made in `umrgen.server.composition`."""

    settings: Settings
    clock: Clock
    keys: ApiKeys
    hosts: AllowedHosts
    job_waits: JobWaits
    state: ServerState
    submissions: Submissions
    cancellations: Cancellations
    job_edits: JobEdits
    limits: RateLimits
    tickets: OneTimeLinks
    """Links that open the studio without a key."""
    uploads: Uploads
    templates: Templates
    call_references: CallReferences
    outputs: Outputs
    authentication: Authentication
    devices: RememberedDevices
    """Browsers that stay signed in to the studio."""
    signatures: Signatures
    verifications: Verifications
    metrics: Metrics
    signer: ManifestSigner | None = None
    """Signs converted images; None: images are not signed."""
    terminal_responses: TerminalResponseCache = field(default_factory=TerminalResponseCache)
