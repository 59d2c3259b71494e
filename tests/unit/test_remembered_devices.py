"""Browsers that stay signed in to the studio."""

from collections.abc import AsyncIterator

import pytest

from support import Clock
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.services.api_keys import ApiKeys, NewKey, UnusableNewKey
from umrgen.server.services.remembered_devices import LASTS, MOST, RememberedDevices


@pytest.fixture
async def ledger() -> AsyncIterator[MemoryLedger]:
    ledger = MemoryLedger()
    await ledger.open()
    yield ledger
    await ledger.close()


async def test_a_browser_acts_as_the_key_of_its_user(ledger: MemoryLedger) -> None:
    clock = Clock()
    keys, devices = ApiKeys(ledger.keys, clock), RememberedDevices(ledger.keys, clock)
    _, owner = await keys.create(NewKey(rate=7))
    secret = await devices.remember(owner, "Chrome on <b>Linux</b>\n")
    accepted = await devices.accept(secret)
    assert accepted is not None
    assert (accepted.id, accepted.session_id, accepted.rate) == (owner.id, owner.session_id, 7)
    (device,) = await devices.of(owner)
    assert devices.description(device) == "Chrome on bLinux/b"
    assert device.hash not in secret.encode()


async def test_the_secret_of_a_browser_is_no_api_key(ledger: MemoryLedger) -> None:
    keys, devices = ApiKeys(ledger.keys, Clock()), RememberedDevices(ledger.keys, Clock())
    api_key, owner = await keys.create(NewKey())
    secret = await devices.remember(owner, "Firefox")
    assert await keys.check(secret) is None
    assert await devices.accept(api_key) is None
    await keys.revoke(owner.id)
    assert await keys.usable() == []


async def test_a_browser_cannot_be_rotated_into_an_api_key(ledger: MemoryLedger) -> None:
    """It would outlive the key of its user, without its limits."""
    keys, devices = ApiKeys(ledger.keys, Clock()), RememberedDevices(ledger.keys, Clock())
    _, owner = await keys.create(NewKey(rate=7))
    await devices.remember(owner, "Firefox")
    (device,) = await devices.of(owner)
    with pytest.raises(UnusableNewKey, match="a browser that stays signed in"):
        await keys.rotate(device.id)
    assert len(await keys.all()) == 2


@pytest.mark.parametrize("end", ["revoked key", "revoked browser", "other key's revocation", "time", "end of the key"])
async def test_a_browser_is_signed_out(ledger: MemoryLedger, end: str) -> None:
    clock = Clock()
    keys, devices = ApiKeys(ledger.keys, clock), RememberedDevices(ledger.keys, clock)
    expires_at = clock.now() + 60_000 if end == "end of the key" else None
    _, owner = await keys.create(NewKey(expires_at=expires_at))
    _, other = await keys.create(NewKey())
    secret = await devices.remember(owner, "Firefox")
    (device,) = await devices.of(owner)
    match end:
        case "revoked key":
            await keys.revoke(owner.id)
        case "revoked browser":
            assert await devices.revoke(owner, device.id)
        case "other key's revocation":
            assert not await devices.revoke(other, device.id), "another key must not sign it out"
            assert not await devices.revoke(owner, other.id)
            await devices.forget(secret)
        case "time":
            clock.at += LASTS
        case "end of the key":
            clock.at += 60
    assert await devices.accept(secret) is None


async def test_the_records_of_browsers_that_are_signed_out_are_deleted(ledger: MemoryLedger) -> None:
    clock = Clock()
    keys, devices = ApiKeys(ledger.keys, clock), RememberedDevices(ledger.keys, clock)
    _, owner = await keys.create(NewKey())
    clock.at += 1
    _, other = await keys.create(NewKey())
    secret = await devices.remember(owner, "signed out")
    await devices.forget(secret)
    await devices.remember(owner, "revoked")
    (device,) = await devices.of(owner)
    assert await devices.revoke(owner, device.id)
    await devices.remember(other, "expired")
    clock.at += LASTS
    await keys.revoke(other.id)
    await devices.remember(owner, "signed in")
    assert [key.name.partition(": ")[2] for key in await keys.all()] == ["", "", "signed in"]
    assert [key.id for key in await keys.all()][:2] == [owner.id, other.id], "records of API keys are kept"


async def test_the_oldest_browser_is_replaced(ledger: MemoryLedger) -> None:
    clock = Clock()
    devices = RememberedDevices(ledger.keys, clock)
    _, owner = await ApiKeys(ledger.keys, clock).create(NewKey())
    secrets = []
    for _ in range(MOST + 1):
        clock.at += 1
        secrets.append(await devices.remember(owner, "Firefox"))
    assert await devices.accept(secrets[0]) is None
    assert await devices.accept(secrets[1]) is not None
    assert len(await devices.of(owner)) == MOST


async def test_the_use_of_a_browser_is_noted(ledger: MemoryLedger) -> None:
    clock = Clock()
    devices = RememberedDevices(ledger.keys, clock)
    _, owner = await ApiKeys(ledger.keys, clock).create(NewKey())
    secret = await devices.remember(owner, "Firefox")
    uses = []
    for seconds in (0, 60, 3600):
        clock.at += seconds
        await devices.accept(secret)
        (device,) = await devices.of(owner)
        uses.append(device.last_used_at)
    assert uses == [1_000_000, 1_000_000, 4_660_000], "once an hour"
