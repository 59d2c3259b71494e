"""Image URLs that are good for a while: an expiry and a signature in their query."""

import hashlib
import hmac
import os
import secrets
from base64 import urlsafe_b64encode
from functools import cached_property
from pathlib import Path

from umrgen.durable import sync_folder
from umrgen.server.clock import Clock

__all__ = ["Signatures"]


def _load_secret(path: Path) -> bytes:
    """The server's own signing secret, made at the first start; it lies in a file for this user alone."""
    if not path.exists():
        made = path.with_suffix(f".{secrets.token_hex(4)}")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        made.replace(path)
        sync_folder(path.parent)
    return path.read_bytes()


class Signatures:
    """Signs the URLs of outputs for `ttl` seconds; with 0, URLs stay as they are and need no signature."""

    def __init__(self, secret: Path, ttl: int, clock: Clock) -> None:
        """`secret` is the file of the signing secret; it is made when it is needed first."""
        self._file = secret
        self._ttl = ttl
        self._clock = clock

    @cached_property
    def _secret(self) -> bytes:
        return _load_secret(self._file)

    @property
    def wanted(self) -> bool:
        return self._ttl > 0

    def sign(self, url: str) -> str:
        """The URL of an output (which has a query already) with expiry and signature."""
        if not self.wanted:
            return url
        expires = self._clock.now() // 1000 + self._ttl
        return f"{url}&expires={expires}&signature={self._signature(url.partition('?')[0], expires)}"

    def genuine(self, path: str, expires: str, signature: str) -> bool:
        """Whether this server signed this path with this expiry."""
        if not (expires.isascii() and expires.isdigit() and len(expires) < 15):
            return False
        expected = self._signature(path, int(expires))
        return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))

    def over(self, expires: str) -> bool:
        return int(expires) < self._clock.now() // 1000

    def _signature(self, path: str, expires: int) -> str:
        digest = hmac.digest(self._secret, f"{path}\n{expires}".encode(), hashlib.sha256)
        return urlsafe_b64encode(digest[:18]).decode()
