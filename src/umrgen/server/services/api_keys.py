"""API keys: made here, shown once, kept as a hash."""

import hashlib
import hmac
import re
import secrets
from dataclasses import asdict, dataclass

from umrgen.clock import Clock
from umrgen.errors import UmrgenError
from umrgen.server.ledger import Key, KeyStore, LedgerUnavailable

__all__ = ["ApiKeys", "NewKey", "PublicKey", "UnusableKey", "UnusableNewKey", "check_usable", "hash_key"]

_PRINTED_IN_THE_GUIDE = bytes.fromhex("edb0f035bd0f9fb4d3e310827546f39f27c8f404bf4f338ccdad5914c0388fa8")
MIN_LENGTH = 20
TRUSTED_SECONDS = 0.5
"""How long a key is believed without asking the ledger again: it may be revoked by another process."""
USES_WRITTEN_EVERY = 60.0
"""Seconds between two writings of when keys were last used."""
ADOPTED = "from the settings"
"""The name of a key that the setting `api_key` has brought in."""
_SESSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{7,63}")


class UnusableKey(UmrgenError):
    """This API key is too easy to guess."""

    code = "unusable_key"
    next = f"Use {MIN_LENGTH} characters or more, or let `umrgen keys create` make one."


class PublicKey(UnusableKey):
    """This API key is printed in the public guide: everybody has it."""

    code = "public_key"
    next = "Unset UMRGEN_API_KEY here, or make a key of your own with `umrgen keys create`."


class UnusableNewKey(UmrgenError):
    """A key cannot be made like that."""

    code = "bad_grant"


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a new key may. Times in milliseconds; a limit of None is the server's own, 0 is none."""

    name: str = ""
    session_id: str | None = None
    """An earlier key's session, for one that takes its place; None: a new one."""
    expires_at: int | None = None
    rate: int | None = None
    concurrent: int | None = None
    daily: int | None = None


def hash_key(key: str) -> bytes:
    """A key has 256 random bits, so a plain hash cannot be run backwards; no salt, no stretching."""
    return hashlib.sha256(key.encode()).digest()


def check_usable(key: str) -> None:
    """Raise UnusableKey or PublicKey for a key that this server will not run with."""
    if hmac.compare_digest(hash_key(key), _PRINTED_IN_THE_GUIDE):
        raise PublicKey
    if len(key) < MIN_LENGTH or not key.isprintable() or not key.isascii() or " " in key:
        raise UnusableKey


class ApiKeys:
    """Creates, checks and revokes keys. Each has a session of its own."""

    def __init__(self, keys: KeyStore, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._trusted: dict[str, Key] = {}
        """Keys that were accepted a moment ago. Emptied every TRUSTED_SECONDS: no secret stays here for longer."""
        self._trusted_until = 0.0
        self._uses: dict[str, int] = {}

    async def create(self, grant: NewKey) -> tuple[str, Key]:
        """A new key: the secret itself, to be shown once, and its record. Raises UnusableNewKey."""
        if grant.session_id is not None and not _SESSION.fullmatch(grant.session_id):
            raise UnusableNewKey("a session's name has 8 to 64 letters, digits, - and _", next="See: umrgen keys list")
        secret = f"umr_{secrets.token_urlsafe(32)}"
        return secret, await self._add(secret, grant)

    async def adopt(self, secret: str) -> None:
        """Accept the key that the settings name, and of those they named before none. "" names none.

        Raises UnusableKey.
        """
        if secret:
            check_usable(secret)
        hashed = hash_key(secret)
        for key in await self._keys.all():
            if key.name == ADOPTED and key.hash != hashed and key.revoked_at is None:
                await self._keys.revoke(key.id, now=self._clock.now())
        known = await self._keys.find(hashed)
        if known is not None and known.name == ADOPTED and known.revoked_at is not None:
            await self._keys.readmit(known.id)
        elif known is None and secret:
            await self._add(secret, NewKey(ADOPTED))

    async def _add(self, secret: str, grant: NewKey) -> Key:
        key = Key(
            id=f"key_{secrets.token_hex(6)}",
            hash=hash_key(secret),
            created_at=self._clock.now(),
            **asdict(grant) | {"session_id": grant.session_id or f"sid_{secrets.token_hex(16)}"},
        )
        await self._keys.add(key)
        return key

    async def check(self, secret: str) -> Key | None:
        """The key's record, or None when it is unknown or revoked."""
        if key := self._trusted_key(secret):
            return key
        hashed = hash_key(secret)
        return self._admit(secret, hashed, await self._keys.find(hashed))

    def _trusted_key(self, secret: str) -> Key | None:
        """The key's record if it was accepted a moment ago."""
        if self._clock.monotonic() >= self._trusted_until:
            self._trusted.clear()
            return None
        # A dict compares whole hashes, salted ones, before it compares anything else: no near miss takes longer.
        return self._trusted.get(secret)

    def _admit(self, secret: str, hashed: bytes, key: Key | None) -> Key | None:
        """The key that the ledger has under this hash, if it opens the door."""
        if key is None or not self._opens(key) or not hmac.compare_digest(key.hash, hashed):
            return None
        if hmac.compare_digest(hashed, _PRINTED_IN_THE_GUIDE):
            return None
        if not self._trusted:
            self._trusted_until = self._clock.monotonic() + TRUSTED_SECONDS
        self._trusted[secret] = key
        self._uses[key.id] = self._clock.now()
        return key

    async def still_opens(self, key: Key) -> bool:
        """Whether a key that was accepted once, maybe long ago, would be accepted now."""
        now = await self._keys.get(key.id)
        return now is not None and self._opens(now)

    def _opens(self, key: Key) -> bool:
        return key.revoked_at is None and (key.expires_at is None or self._clock.now() < key.expires_at)

    async def keep_uses(self) -> None:
        """Write down, now and then, when keys were last used: for ever."""
        while True:
            await self._clock.sleep(USES_WRITTEN_EVERY)
            await self.write_uses()

    async def write_uses(self) -> None:
        uses, self._uses = self._uses, {}
        if uses:
            try:
                await self._keys.record_uses(uses)
            except LedgerUnavailable:
                self._uses = uses | self._uses

    async def usable(self) -> list[Key]:
        """The keys that open the door now."""
        return [key for key in await self._keys.all() if self._opens(key)]

    async def all(self) -> list[Key]:
        return await self._keys.all()

    async def first_session(self) -> str | None:
        """Return the session of the first key ever made here, revoked or not: the operator's own."""
        keys = await self._keys.all()
        return min(keys, key=lambda key: key.created_at).session_id if keys else None

    async def revoke(self, key_id: str) -> bool:
        self._trusted.clear()
        return await self._keys.revoke(key_id, now=self._clock.now())
