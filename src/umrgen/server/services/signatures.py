"""Signed image URLs: an expiry time and a signature in the query."""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from pathlib import Path

from umrgen.clock import Clock
from umrgen.server.ledger import CoordinationStore

__all__ = ["Signatures"]


class Signatures:
    """Signs the URLs of outputs for `ttl` seconds; with 0, URLs have and need no signature."""

    def __init__(self, ttl: int, clock: Clock) -> None:
        self._ttl = ttl
        self._clock = clock
        self._secret = b""

    async def load(self, store: CoordinationStore, earlier: Path) -> None:
        """Load the secret that all servers of the ledger share; make it at the first start.

        `earlier`: the secret's file of the first version, whose signed URLs stay valid.
        """
        proposal = earlier.read_bytes() if earlier.is_file() else secrets.token_bytes(32)
        self._secret = await store.secret("image-urls", proposal)

    @property
    def enabled(self) -> bool:
        """Whether URLs are signed."""
        return self._ttl > 0

    def sign(self, url: str) -> str:
        """Return the URL of an output (which has a query already) with expiry time and signature."""
        if not self.enabled:
            return url
        expires = self._clock.now() // 1000 + self._ttl
        return f"{url}&expires={expires}&signature={self._signature(url.partition('?')[0], expires)}"

    def is_valid(self, path: str, expires: str, signature: str) -> bool:
        """Return whether a server of this ledger signed this path with this expiry time."""
        if not (expires.isascii() and expires.isdigit() and len(expires) < 15):
            return False
        expected = self._signature(path, int(expires))
        return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))

    def is_expired(self, expires: str) -> bool:
        """Return whether the expiry time has passed."""
        return int(expires) < self._clock.now() // 1000

    def _signature(self, path: str, expires: int) -> str:
        digest = hmac.digest(self._secret, f"{path}\n{expires}".encode(), hashlib.sha256)
        return urlsafe_b64encode(digest[:18]).decode()
