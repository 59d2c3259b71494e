"""The state of this server's signing certificate: for the log, the metrics, and the decision to accept jobs."""

import logging
from datetime import UTC, datetime

from umrgen.clock import Clock
from umrgen.server.signing import ManifestSigner, SigningFailed

__all__ = ["SigningStatus"]

log = logging.getLogger(__name__)


class SigningStatus:
    """Checks the certificate on each call, and logs each change of the result."""

    def __init__(self, signer: ManifestSigner, clock: Clock) -> None:
        self._signer = signer
        self._clock = clock
        self._logged: str | None = None

    def trouble(self) -> str | None:
        """Return the reason why an image cannot be signed now, as shown to callers; None while it can."""
        reason = self._reason()
        if reason != self._logged:
            self._log(reason)
            self._logged = reason
        return reason

    def refusal(self) -> str | None:
        """Return the reason why no job is accepted: images must be signed, and cannot be."""
        return self.trouble() if self._signer.options.required else None

    def seconds_left(self) -> float:
        """Return the seconds until the certificate expires; 0 for one that is expired or cannot be read."""
        try:
            expires = self._signer.credentials(self._now()).expires
        except SigningFailed:
            return 0.0
        return max(0.0, (expires - self._now()).total_seconds())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now() / 1000, UTC)

    def _reason(self) -> str | None:
        try:
            self._signer.credentials(self._now())
        except SigningFailed as error:
            return f"images cannot be signed: {error}"
        return None

    def _log(self, reason: str | None) -> None:
        if reason is None:
            log.info("images are signed again")
            return
        following = "no job is accepted" if self._signer.options.required else "images stay unsigned"
        log.error("%s; %s. umrgen provenance check shows more", reason, following)
