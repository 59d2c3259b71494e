"""API keys over a ledger in memory, on a clock that the test moves."""

from collections.abc import AsyncIterator

import pytest

from support import Clock
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
