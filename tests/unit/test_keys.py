"""API keys over a ledger in memory, on a clock of the test's own."""

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


async def accepted(checking: ApiKeys, secret: str) -> bool:
    return await checking.check(secret) is not None


async def test_the_ledger_knows_a_key_by_its_hash_alone(ledger: MemoryLedger) -> None:
    secret, key = await ApiKeys(ledger.keys, Clock()).create(NewKey())
    assert key.hash == hash_key(secret)
    assert secret not in repr(await ledger.keys.all())
    assert len(secret) >= len("umr_") + 43, "256 random bits"


async def test_a_key_is_refused_from_its_end_on(ledger: MemoryLedger) -> None:
    clock = Clock()
    checking = ApiKeys(ledger.keys, clock)
    secret, key = await checking.create(NewKey(expires_at=clock.now() + 1000))
    assert await accepted(checking, secret)
    assert await checking.is_still_valid(key)
    clock.at += 1.0
    assert not await accepted(checking, secret)
    assert not await checking.is_still_valid(key)
    assert await checking.usable() == []


async def test_what_another_process_revokes_is_believed_for_half_a_second(ledger: MemoryLedger) -> None:
    clock = Clock()
    checking, elsewhere = ApiKeys(ledger.keys, clock), ApiKeys(ledger.keys, clock)
    secret, key = await checking.create(NewKey())
    assert await accepted(checking, secret)
    assert await elsewhere.revoke(key.id)
    clock.at += CACHE_SECONDS
    assert not await accepted(checking, secret)
    assert CACHE_SECONDS < 1, "the documents say: within a second"


async def test_what_this_process_revokes_is_refused_at_once(ledger: MemoryLedger) -> None:
    checking = ApiKeys(ledger.keys, Clock())
    secret, key = await checking.create(NewKey())
    assert await accepted(checking, secret)
    await checking.revoke(key.id)
    assert not await accepted(checking, secret)


async def test_a_key_that_is_printed_in_the_guide_is_refused_even_when_it_is_on_record(
    ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    checking = ApiKeys(ledger.keys, Clock())
    secret, _ = await checking.create(NewKey())
    monkeypatch.setattr(api_keys, "_PRINTED_IN_THE_GUIDE", hash_key(secret))
    assert not await accepted(checking, secret)


async def test_a_key_of_the_settings_ends_with_them(ledger: MemoryLedger) -> None:
    checking, first = ApiKeys(ledger.keys, Clock()), "a-first-key-of-the-settings"
    await checking.adopt(first)
    assert await accepted(checking, first)
    again = ApiKeys(ledger.keys, Clock())
    await again.adopt("")
    assert not await accepted(again, first)


async def test_each_key_has_a_session_of_its_own(ledger: MemoryLedger) -> None:
    checking = ApiKeys(ledger.keys, Clock())
    sessions = {(await checking.create(NewKey()))[1].session_id for _ in range(5)}
    assert len(sessions) == 5
    with pytest.raises(UnusableNewKey):
        await checking.create(NewKey(session_id="../x"))


@pytest.mark.parametrize("key", ["", "short", "x" * 19, "a key with spaces that is long", "a-long-key-with-\x00-in-it"])
def test_a_key_that_is_easy_to_guess_is_refused(key: str) -> None:
    with pytest.raises(UnusableKey):
        check_usable(key)
    check_usable("x" * 20)
