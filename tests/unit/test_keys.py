"""API keys over a ledger in memory, on a clock that the test moves."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest

from support import Clock
from umrgen.server.ledger import Key, KeyStore
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.services import api_keys
from umrgen.server.services.api_keys import (
    CACHE_SECONDS,
    ApiKeys,
    NewKey,
    UnusableKey,
    UnusableNewKey,
    check_usable,
    hash_key,
)


@pytest.fixture
async def ledger() -> AsyncIterator[MemoryLedger]:
    ledger = MemoryLedger()
    await ledger.open()
    yield ledger
    await ledger.close()


async def accepted(keys: ApiKeys, secret: str) -> bool:
    return await keys.check(secret) is not None


async def test_the_ledger_stores_only_the_hash_of_a_key(ledger: MemoryLedger) -> None:
    secret, key = await ApiKeys(ledger.keys, Clock()).create(NewKey())
    assert key.hash == hash_key(secret)
    assert secret not in repr(await ledger.keys.all())
    assert len(secret) >= len("umr_") + 43, "256 random bits"


async def test_an_expired_key_is_refused(ledger: MemoryLedger) -> None:
    clock = Clock()
    keys = ApiKeys(ledger.keys, clock)
    secret, key = await keys.create(NewKey(expires_at=clock.now() + 1000))
    assert await accepted(keys, secret)
    assert await keys.is_still_valid(key)
    clock.at += 1.0
    assert not await accepted(keys, secret)
    assert not await keys.is_still_valid(key)
    assert await keys.usable() == []


async def test_a_revocation_by_another_process_takes_effect_within_a_second(ledger: MemoryLedger) -> None:
    clock = Clock()
    keys, other_process = ApiKeys(ledger.keys, clock), ApiKeys(ledger.keys, clock)
    secret, key = await keys.create(NewKey())
    assert await accepted(keys, secret)
    assert await other_process.revoke(key.id)
    clock.at += CACHE_SECONDS
    assert not await accepted(keys, secret)
    assert CACHE_SECONDS < 1, "the documentation promises: within a second"


async def test_a_revocation_by_this_process_takes_effect_immediately(ledger: MemoryLedger) -> None:
    keys = ApiKeys(ledger.keys, Clock())
    secret, key = await keys.create(NewKey())
    assert await accepted(keys, secret)
    await keys.revoke(key.id)
    assert not await accepted(keys, secret)


class PausedKeys:
    """The keys of a ledger, whose lookups wait for `go`, and are counted."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        self.lookups = 0
        self.go = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._keys, name)

    async def find(self, hashed: bytes) -> Key | None:
        found = await self._keys.find(hashed)
        self.lookups += 1
        await self.go.wait()
        return found


async def _until_found(paused: PausedKeys, lookups: int) -> None:
    for _ in range(1000):
        await asyncio.sleep(0)
    assert paused.lookups == lookups


async def test_the_calls_of_a_key_share_a_lookup(ledger: MemoryLedger) -> None:
    paused = PausedKeys(ledger.keys)
    keys = ApiKeys(cast("KeyStore", paused), Clock())
    secret, _ = await keys.create(NewKey())
    calls = [asyncio.create_task(accepted(keys, secret)) for _ in range(64)]
    await _until_found(paused, 1)
    calls.pop(0).cancel()  # the one that began it is cut off
    other = asyncio.create_task(accepted(keys, "another secret"))
    await _until_found(paused, 2)
    paused.go.set()
    assert all(await asyncio.gather(*calls))
    assert not await other
    assert paused.lookups == 2


async def test_a_call_after_a_revocation_shares_no_lookup_from_before_it(ledger: MemoryLedger) -> None:
    paused = PausedKeys(ledger.keys)
    keys = ApiKeys(cast("KeyStore", paused), Clock())
    secret, key = await keys.create(NewKey())
    before = asyncio.create_task(accepted(keys, secret))
    await _until_found(paused, 1)
    await keys.revoke(key.id)
    after = asyncio.create_task(accepted(keys, secret))
    await _until_found(paused, 2)
    paused.go.set()
    assert (await before, await after) == (True, False)


async def test_the_published_key_is_refused_even_with_a_record(
    ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ApiKeys(ledger.keys, Clock())
    secret, _ = await keys.create(NewKey())
    monkeypatch.setattr(api_keys, "_PRINTED_IN_THE_GUIDE", hash_key(secret))
    assert not await accepted(keys, secret)


async def test_a_key_of_the_settings_is_revoked_when_they_change(ledger: MemoryLedger) -> None:
    keys, first = ApiKeys(ledger.keys, Clock()), "a-first-key-of-the-settings"
    await keys.adopt(first)
    assert await accepted(keys, first)
    again = ApiKeys(ledger.keys, Clock())
    await again.adopt("")
    assert not await accepted(again, first)


async def test_each_key_has_a_separate_session(ledger: MemoryLedger) -> None:
    keys = ApiKeys(ledger.keys, Clock())
    sessions = {(await keys.create(NewKey()))[1].session_id for _ in range(5)}
    assert len(sessions) == 5
    with pytest.raises(UnusableNewKey):
        await keys.create(NewKey(session_id="../x"))


@pytest.mark.parametrize("key", ["", "short", "x" * 19, "a key with spaces that is long", "a-long-key-with-\x00-in-it"])
def test_a_key_that_is_easy_to_guess_is_refused(key: str) -> None:
    with pytest.raises(UnusableKey):
        check_usable(key)
    check_usable("x" * 20)


async def test_a_rotated_key_has_the_session_and_limits_of_the_old_one(ledger: MemoryLedger) -> None:
    clock = Clock()
    keys = ApiKeys(ledger.keys, clock)
    old_secret, old = await keys.create(NewKey("laptop", expires_at=clock.now() + 90_000, rate=5, daily=0))
    assert await accepted(keys, old_secret)
    rotated = await keys.rotate(old.id)
    assert rotated is not None
    secret, new = rotated
    assert replace(new, id=old.id, hash=old.hash) == old
    assert await accepted(keys, secret)
    assert not await accepted(keys, old_secret)
    assert await keys.rotate(old.id) is None, "it is revoked"
    assert await keys.rotate("key_none") is None


async def test_an_old_key_is_valid_during_the_grace_period(ledger: MemoryLedger) -> None:
    clock = Clock()
    keys = ApiKeys(ledger.keys, clock)
    old_secret, old = await keys.create(NewKey())
    rotated = await keys.rotate(old.id, grace=60_000)
    assert rotated is not None
    clock.at += 59
    assert await accepted(keys, old_secret)
    clock.at += 2
    assert not await accepted(keys, old_secret)
    assert await accepted(keys, rotated[0])


async def test_the_key_of_the_settings_is_not_rotated(ledger: MemoryLedger) -> None:
    keys = ApiKeys(ledger.keys, Clock())
    await keys.adopt("s" * 30)
    (key,) = await keys.all()
    with pytest.raises(UnusableNewKey, match="the setting api_key"):
        await keys.rotate(key.id)
    assert await accepted(keys, "s" * 30)


async def test_an_expired_key_is_not_rotated(ledger: MemoryLedger) -> None:
    clock = Clock()
    keys = ApiKeys(ledger.keys, clock)
    _, key = await keys.create(NewKey(expires_at=clock.now() + 1000))
    clock.at += 1
    with pytest.raises(UnusableNewKey, match="has expired"):
        await keys.rotate(key.id)


async def test_only_the_named_limits_change(ledger: MemoryLedger) -> None:
    keys = ApiKeys(ledger.keys, Clock())
    secret, key = await keys.create(NewKey(rate=5, concurrent=2, daily=9))
    assert await accepted(keys, secret), "it is cached"
    assert await keys.limit(key.id, {"rate": 7, "daily": None}) == replace(key, rate=7, daily=None)
    checked = await keys.check(secret)
    assert checked is not None
    assert (checked.rate, checked.concurrent, checked.daily) == (7, 2, None)
    assert await keys.limit("key_none", {"rate": 7}) is None
