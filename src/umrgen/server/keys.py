"""API keys: made here, shown once, kept as a hash."""

import hashlib
import hmac
import secrets

from umrgen.errors import UmrgenError
from umrgen.server.clock import Clock
from umrgen.server.ledger import Key, Ledger

__all__ = ["Keys", "PublicKey", "UnusableKey", "check_usable", "hash_key"]

_PRINTED_IN_THE_GUIDE = bytes.fromhex("edb0f035bd0f9fb4d3e310827546f39f27c8f404bf4f338ccdad5914c0388fa8")
MIN_LENGTH = 20
TRUSTED_SECONDS = 0.5
"""How long a key is believed without asking the ledger again: it may be revoked by another process."""


class UnusableKey(UmrgenError):
    """This API key is too easy to guess."""

    code = "unusable_key"
    next = f"Use {MIN_LENGTH} characters or more, or let `umrgen keys create` make one."


class PublicKey(UnusableKey):
    """This API key is printed in the public guide: everybody has it."""

    code = "public_key"
    next = "Unset UMRGEN_API_KEY here, or make a key of your own with `umrgen keys create`."


def hash_key(key: str) -> bytes:
    """A key has 256 random bits, so a plain hash cannot be run backwards; no salt, no stretching."""
    return hashlib.sha256(key.encode()).digest()


def check_usable(key: str) -> None:
    """Raise UnusableKey or PublicKey for a key that this server will not run with."""
    if hmac.compare_digest(hash_key(key), _PRINTED_IN_THE_GUIDE):
        raise PublicKey
    if len(key) < MIN_LENGTH or not key.isprintable() or not key.isascii() or " " in key:
        raise UnusableKey


class Keys:
    """Creates, checks and revokes keys. Each has a session of its own."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._trusted: dict[bytes, tuple[Key, float]] = {}

    async def create(self, name: str) -> tuple[str, Key]:
        """A new key: the secret itself, to be shown once, and its record."""
        secret = f"umr_{secrets.token_urlsafe(32)}"
        return secret, await self._add(secret, name)

    async def adopt(self, secret: str, name: str) -> Key:
        """Accept a key that somebody else made. Raises UnusableKey."""
        check_usable(secret)
        return await self._ledger.key(hash_key(secret)) or await self._add(secret, name)

    async def _add(self, secret: str, name: str) -> Key:
        key = Key(
            id=f"key_{secrets.token_hex(6)}",
            hash=hash_key(secret),
            session_id=f"sid_{secrets.token_hex(16)}",
            name=name,
            created_at=self._clock.now(),
        )
        await self._ledger.add_key(key)
        return key

    def trusted(self, secret: str) -> Key | None:
        """The key's record if it was accepted a moment ago; None says nothing about it."""
        hashed = hash_key(secret)
        if (entry := self._trusted.get(hashed)) is None:
            return None
        key, until = entry
        if self._clock.monotonic() < until:
            return key
        del self._trusted[hashed]
        return None

    async def check(self, secret: str) -> Key | None:
        """The key's record, or None when it is unknown or revoked."""
        if key := self.trusted(secret):
            return key
        hashed = hash_key(secret)
        key = await self._ledger.key(hashed)
        if key is None or key.revoked_at is not None or not hmac.compare_digest(key.hash, hashed):
            return None
        if hmac.compare_digest(hashed, _PRINTED_IN_THE_GUIDE):
            return None
        self._trusted[hashed] = (key, self._clock.monotonic() + TRUSTED_SECONDS)
        return key

    async def usable(self) -> list[Key]:
        """The keys that open the door now."""
        return [key for key in await self._ledger.keys() if key.revoked_at is None]

    async def all(self) -> list[Key]:
        return await self._ledger.keys()

    async def revoke(self, key_id: str) -> bool:
        self._trusted.clear()
        return await self._ledger.revoke_key(key_id, now=self._clock.now())
