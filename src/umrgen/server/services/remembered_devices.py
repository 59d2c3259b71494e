"""Browsers that stay signed in to the studio: each has a secret, which its cookie holds and which no script can read.

A secret is stored as a key of the ledger whose name refers to the key with which the user signed in. It is valid while
that key is, it acts with that key's session and limits, and it is no API key: its hash is that of another text.
"""

import re
import secrets
from contextlib import suppress

from umrgen.clock import Clock
from umrgen.server.ledger import Key, KeyStore, LedgerUnavailable
from umrgen.server.services.api_keys import STUDIO_OF, hash_key

__all__ = ["LASTS", "RememberedDevices"]

LASTS = 30 * 86_400
"""Seconds for which a browser stays signed in."""
MOST = 10
"""Browsers of one key; another one replaces the oldest."""
_NAME = re.compile(STUDIO_OF + r"(key_[0-9a-f]{12}): (.*)", re.DOTALL)
_DEVICE = re.compile(r"[^\w .,()/+-]")


class RememberedDevices:
    """Remembers browsers, and accepts, lists and revokes them."""

    def __init__(self, keys: KeyStore, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def remember(self, owner: Key, device: str) -> str:
        """Return the secret of a new browser of this key. `device`: a description for its owner.

        Deletes the records of browsers, of all keys, whose time is over.
        """
        browsers = await self._all()
        remembered = sorted(self._valid_of(owner, browsers), key=lambda browser: browser.created_at)
        ended = [browser for browser in browsers if not self._is_valid(browser)]
        for browser in [*ended, *remembered[: max(0, len(remembered) - MOST + 1)]]:
            await self._keys.delete(browser.id)
        secret = secrets.token_urlsafe(32)
        now = self._clock.now()
        await self._keys.add(
            Key(
                id=f"key_{secrets.token_hex(6)}",
                hash=_hash(secret),
                session_id=owner.session_id,
                name=f"{STUDIO_OF}{owner.id}: {_DEVICE.sub('', device)[:60] or 'a browser'}",
                created_at=now,
                expires_at=min(now + LASTS * 1000, owner.expires_at or now + LASTS * 1000),
            )
        )
        return secret

    async def accept(self, secret: str) -> Key | None:
        """Return the key of a browser's user; None when the browser or this key is unknown, expired or revoked."""
        device = await self._keys.find(_hash(secret))
        named = _NAME.fullmatch(device.name) if device else None
        if device is None or named is None or not self._is_valid(device):
            return None
        owner = await self._keys.get(named[1])
        if owner is None or not self._is_valid(owner):
            return None
        await self._note_use(device)
        return owner

    async def of(self, owner: Key) -> list[Key]:
        """Return the valid browsers of a key."""
        return self._valid_of(owner, await self._all())

    async def revoke(self, owner: Key, device_id: str) -> bool:
        """Sign a browser out; return whether this key has it."""
        if all(key.id != device_id for key in await self.of(owner)):
            return False
        return await self._keys.delete(device_id)

    async def forget(self, secret: str) -> None:
        """Sign the browser with this secret out."""
        device = await self._keys.find(_hash(secret))
        if device is not None and _NAME.fullmatch(device.name):
            await self._keys.delete(device.id)

    @staticmethod
    def description(key: Key) -> str:
        """Return the description that `remember` was given."""
        named = _NAME.fullmatch(key.name)
        return named[2] if named else ""

    async def _all(self) -> list[Key]:
        return [key for key in await self._keys.all() if _NAME.fullmatch(key.name)]

    def _valid_of(self, owner: Key, browsers: list[Key]) -> list[Key]:
        start = f"{STUDIO_OF}{owner.id}: "
        return [browser for browser in browsers if browser.name.startswith(start) and self._is_valid(browser)]

    def _is_valid(self, key: Key) -> bool:
        return key.revoked_at is None and (key.expires_at is None or self._clock.now() < key.expires_at)

    async def _note_use(self, device: Key) -> None:
        """Write the time of use, at most once an hour."""
        now = self._clock.now()
        if device.last_used_at is None or now - device.last_used_at > 3_600_000:
            with suppress(LedgerUnavailable):  # it is for the list only
                await self._keys.record_uses({device.id: now})


def _hash(secret: str) -> bytes:
    """Return the hash of a browser's secret. That of an API key is of the secret alone, so neither can be the other."""
    return hash_key(f"studio cookie: {secret}")
