"""Signed URLs: a signature is valid for one path and expiry time."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import hypothesis.strategies as st
import pytest
from hypothesis import given

from support import Clock
from umrgen.server.ledger.sqlite.memory import MemoryLedger
from umrgen.server.services.signatures import Signatures

URL = "/outputs/sid_1/umrgen_7_ab.png?session_id=sid_1"


@pytest.fixture
async def ledger() -> AsyncIterator[MemoryLedger]:
    ledger = MemoryLedger()
    await ledger.open()
    yield ledger
    await ledger.close()


def parts(url: str) -> tuple[str, str, str]:
    query = parse_qs(urlsplit(url).query)
    return urlsplit(url).path, query["expires"][0], query["signature"][0]


async def loaded(ledger: MemoryLedger, ttl: int, clock: Clock, earlier: Path = Path("absent")) -> Signatures:
    signatures = Signatures(ttl, clock)
    await signatures.load(ledger.coordination, earlier)
    return signatures


async def test_a_signed_url_is_valid_until_it_expires_on_every_server_of_the_ledger(ledger: MemoryLedger) -> None:
    clock = Clock()
    signatures = await loaded(ledger, 60, clock)
    path, expires, signature = parts(signatures.sign(URL))
    assert signatures.is_valid(path, expires, signature)
    assert not signatures.is_expired(expires)
    clock.at += 61
    assert signatures.is_expired(expires)
    assert (await loaded(ledger, 60, clock)).is_valid(path, expires, signature)


async def test_the_secret_of_the_first_version_is_kept(ledger: MemoryLedger, tmp_path: Path) -> None:
    clock = Clock()
    (tmp_path / "url-secret").write_bytes(b"s" * 32)
    path, expires, signature = parts((await loaded(ledger, 60, clock, tmp_path / "url-secret")).sign(URL))
    assert (await loaded(ledger, 60, clock)).is_valid(path, expires, signature)


async def test_two_ledgers_have_two_secrets(ledger: MemoryLedger) -> None:
    path, expires, signature = parts((await loaded(ledger, 60, Clock())).sign(URL))
    other = MemoryLedger()
    await other.open()
    assert not (await loaded(other, 60, Clock())).is_valid(path, expires, signature)
    await other.close()


def test_without_a_time_to_live_urls_are_not_signed() -> None:
    assert Signatures(0, Clock()).sign(URL) == URL


@given(st.text(), st.text(), st.text())
def test_any_other_signature_is_invalid(path: str, expires: str, signature: str) -> None:
    signatures = Signatures(60, Clock())
    signatures.__dict__["_secret"] = b"x" * 32
    assert not signatures.is_valid(path, expires, signature)
    right, when, genuine = parts(signatures.sign(URL))
    assert signatures.is_valid(right, when, genuine)
    assert not signatures.is_valid(path, when, genuine) or path == right
    assert not signatures.is_valid(right, expires, genuine) or expires == when
