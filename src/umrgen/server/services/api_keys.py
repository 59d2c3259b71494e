"""API keys: created, checked and revoked. Only their hashes are stored."""

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from umrgen.clock import Clock
from umrgen.errors import UmrgenError
from umrgen.server.ledger import Key, KeyStore, LedgerUnavailable

__all__ = ["ApiKeys", "NewKey", "PublicKey", "UnusableKey", "UnusableNewKey", "check_usable", "hash_key"]

_PRINTED_IN_THE_GUIDE = bytes.fromhex("edb0f035bd0f9fb4d3e310827546f39f27c8f404bf4f338ccdad5914c0388fa8")
MIN_LENGTH = 20
CACHE_SECONDS = 0.5
"""Seconds for which an accepted key is cached; within them, a revocation by another process has no effect."""
USES_WRITTEN_EVERY = 60.0
"""Seconds between two writes of the times at which keys were last used."""
ADOPTED = "from the settings"
"""The name of a key that comes from the setting `api_key`."""
STUDIO_OF = "studio of "
"""The start of the name of a browser that stays signed in, which is no API key (`remembered_devices`)."""
_SESSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{7,63}")


class UnusableKey(UmrgenError):
    """This API key is too easy to guess."""

    code = "unusable_key"
    next = f"Use {MIN_LENGTH} characters or more, or let `umrgen keys create` make one."


class PublicKey(UnusableKey):
    """This API key is printed in the public guide, so it is not secret."""

    code = "public_key"
    next = "Choose another UMRGEN_SERVER_KEY, or create another key with `umrgen keys create`."


class UnusableNewKey(UmrgenError):
    """A key cannot be created with these properties."""

    code = "bad_grant"


@dataclass(frozen=True, slots=True)
class NewKey:
    """The properties of a new key. Times in milliseconds; a limit of None is the server's default, 0 is no limit."""

    name: str = ""
    session_id: str | None = None
    """The session of an earlier key that this one replaces; None: a new session."""
    expires_at: int | None = None
    rate: int | None = None
    concurrent: int | None = None
    daily: int | None = None


def hash_key(key: str) -> bytes:
    """Return the hash under which a key is stored.

    A key has 256 random bits, so neither a salt nor a slow hash adds security.
    """
    return hashlib.sha256(key.encode()).digest()


def _new_id() -> str:
    return f"key_{secrets.token_hex(6)}"


def check_usable(key: str) -> None:
    """Raise UnusableKey or PublicKey for a key that this server will not run with."""
    if hmac.compare_digest(hash_key(key), _PRINTED_IN_THE_GUIDE):
        raise PublicKey
    if len(key) < MIN_LENGTH or not key.isprintable() or not key.isascii() or " " in key:
        raise UnusableKey


class ApiKeys:
    """Creates, checks and revokes keys. Each key belongs to one session."""

    def __init__(self, keys: KeyStore, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._cached: dict[str, Key] = {}
        """Recently accepted keys by their secret; emptied every CACHE_SECONDS, so that no secret stays longer."""
        self._cached_until = 0.0
        self._lookups: dict[bytes, asyncio.Future[Key | None]] = {}
        """The lookups that are not done yet, by hash: when the cache is emptied, the calls of a key share one."""
        self._uses: dict[str, int] = {}

    async def create(self, grant: NewKey) -> tuple[str, Key]:
        """Create a key; return its secret, which is shown once, and its record. Raises UnusableNewKey."""
        if grant.session_id is not None and not _SESSION.fullmatch(grant.session_id):
            raise UnusableNewKey(
                f"a session must have 8 to 64 letters, digits, - and _; got {grant.session_id!r}",
                next="See the sessions: umrgen keys list",
            )
        secret = f"umr_{secrets.token_urlsafe(32)}"
        return secret, await self._add(secret, grant)

    async def adopt(self, secret: str) -> None:
        """Accept the key of the settings, and revoke the keys of earlier settings. "" is no key.

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
            id=_new_id(),
            hash=hash_key(secret),
            created_at=self._clock.now(),
            **asdict(grant) | {"session_id": grant.session_id or f"sid_{secrets.token_hex(16)}"},
        )
        await self._keys.add(key)
        return key

    async def check(self, secret: str) -> Key | None:
        """Return the key's record; None when it is unknown, expired or revoked."""
        if key := self._cached_key(secret):
            return key
        hashed = hash_key(secret)
        return self._accept(secret, hashed, await self._find(hashed))

    async def _find(self, hashed: bytes) -> Key | None:
        lookup = self._lookups.get(hashed)
        if lookup is None:
            lookup = self._lookups[hashed] = asyncio.ensure_future(self._keys.find(hashed))
            lookup.add_done_callback(lambda done: self._end_lookup(hashed, done))
        return await asyncio.shield(lookup)  # a call that is cut off does not end the lookup of the others

    def _end_lookup(self, hashed: bytes, lookup: "asyncio.Future[Key | None]") -> None:
        if self._lookups.get(hashed) is lookup:
            del self._lookups[hashed]
        if not lookup.cancelled():
            lookup.exception()  # all calls that wait for it may be cut off

    def _forget(self) -> None:
        """Let the next call of each key read it from the ledger, where it is about to change."""
        self._cached.clear()
        self._lookups.clear()

    def _cached_key(self, secret: str) -> Key | None:
        if self._clock.monotonic() >= self._cached_until:
            self._cached.clear()
            return None
        # A dict compares salted hashes before the strings, so the lookup's duration discloses nothing of a secret.
        return self._cached.get(secret)

    def _accept(self, secret: str, hashed: bytes, key: Key | None) -> Key | None:
        """Return the key that the ledger has under this hash, if it is valid, and cache it."""
        if key is None or not self._is_valid(key) or not hmac.compare_digest(key.hash, hashed):
            return None
        if hmac.compare_digest(hashed, _PRINTED_IN_THE_GUIDE):
            return None
        if not self._cached:
            self._cached_until = self._clock.monotonic() + CACHE_SECONDS
        self._cached[secret] = key
        self._uses[key.id] = self._clock.now()
        return key

    async def is_still_valid(self, key: Key) -> bool:
        """Return whether a key that was accepted earlier is neither revoked nor expired now."""
        now = await self._keys.get(key.id)
        return now is not None and self._is_valid(now)

    def _is_valid(self, key: Key) -> bool:
        return key.revoked_at is None and (key.expires_at is None or self._clock.now() < key.expires_at)

    async def keep_uses(self) -> None:
        """Write every USES_WRITTEN_EVERY seconds when keys were last used, until the task is cancelled."""
        while True:
            await self._clock.sleep(USES_WRITTEN_EVERY)
            await self.write_uses()

    async def write_uses(self) -> None:
        """Write when keys were last used; after a failure of the ledger, the next call writes it."""
        uses, self._uses = self._uses, {}
        if uses:
            try:
                await self._keys.record_uses(uses)
            except LedgerUnavailable:
                self._uses = uses | self._uses

    async def usable(self) -> list[Key]:
        """Return the API keys that are neither revoked nor expired."""
        keys = await self._keys.all()
        return [key for key in keys if self._is_valid(key) and not key.name.startswith(STUDIO_OF)]

    async def all(self) -> list[Key]:
        return await self._keys.all()

    async def first_session(self) -> str | None:
        """Return the session of the oldest key, revoked or not: the operator's session. None without a key."""
        keys = await self._keys.all()
        return min(keys, key=lambda key: key.created_at).session_id if keys else None

    async def rotate(self, key_id: str, *, grace: int = 0) -> tuple[str, Key] | None:
        """Replace a key by a new one with its name, session, limits and expiry; return its secret and its record.

        The old key is valid for `grace` more milliseconds, or until it expires, if that is earlier. None if there is no
        such key, or if it is revoked. Raises UnusableNewKey for the key of the settings, and for a browser.
        """
        old = await self._keys.get(key_id)
        if old is None:
            return None
        if old.name.startswith(STUDIO_OF):
            raise UnusableNewKey("this is a browser that stays signed in", next="Rotate the key of its user.")
        if old.name == ADOPTED:
            raise UnusableNewKey("this key is that of the setting api_key", next="Change the setting, and restart.")
        if old.expires_at is not None and old.expires_at <= self._clock.now():
            advice = f"Create another one for its jobs: umrgen keys create --session {old.session_id}"
            raise UnusableNewKey("this key has expired, and its successor would, too", next=advice)
        secret, now = f"umr_{secrets.token_urlsafe(32)}", self._clock.now()
        new = replace(old, id=_new_id(), hash=hash_key(secret), created_at=now, last_used_at=None, revoked_at=None)
        self._forget()
        return (secret, new) if await self._keys.replace(key_id, new, now=now, until=now + grace) else None

    async def limit(self, key_id: str, changes: Mapping[str, int | None]) -> Key | None:
        """Change the limits of a key that `changes` names: rate, concurrent, daily; None is the server's default.

        Return the key with its new limits, None if there is no such key.
        """
        key = await self._keys.get(key_id)
        if key is None:
            return None
        limits = {"rate": key.rate, "concurrent": key.concurrent, "daily": key.daily} | dict(changes)
        await self._keys.limit(key_id, rate=limits["rate"], concurrent=limits["concurrent"], daily=limits["daily"])
        self._forget()
        return await self._keys.get(key_id)

    async def revoke(self, key_id: str) -> bool:
        self._forget()
        return await self._keys.revoke(key_id, now=self._clock.now())
