"""Signed URLs: what was signed is genuine, what was changed is not."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import hypothesis.strategies as st
from hypothesis import given

from support import Clock
from umrgen.server.services.signatures import Signatures

URL = "/outputs/sid_1/umrgen_7_ab.png?session_id=sid_1"


def parts(url: str) -> tuple[str, str, str]:
    query = parse_qs(urlsplit(url).query)
    return urlsplit(url).path, query["expires"][0], query["signature"][0]


def test_what_was_signed_is_genuine_until_its_time(tmp_path: Path) -> None:
    clock = Clock()
    signatures = Signatures(tmp_path / "secret", 60, clock)
    path, expires, signature = parts(signatures.sign(URL))
    assert signatures.genuine(path, expires, signature)
    assert not signatures.over(expires)
    clock.at += 61
    assert signatures.over(expires)
    again = Signatures(tmp_path / "secret", 60, clock)
    assert again.genuine(path, expires, signature), "the secret outlives the server"
    assert not Signatures(tmp_path / "other", 60, clock).genuine(path, expires, signature)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_without_a_time_nothing_is_signed_and_no_secret_made(tmp_path: Path) -> None:
    signatures = Signatures(tmp_path / "secret", 0, Clock())
    assert signatures.sign(URL) == URL
    assert not (tmp_path / "secret").exists()


@given(st.text(), st.text(), st.text())
def test_nothing_else_is(path: str, expires: str, signature: str) -> None:
    signatures = Signatures(Path("never made"), 60, Clock())
    signatures.__dict__["_secret"] = b"x" * 32
    assert not signatures.genuine(path, expires, signature)
    right, when, genuine = parts(signatures.sign(URL))
    assert signatures.genuine(right, when, genuine)
    assert not signatures.genuine(path, when, genuine) or path == right
    assert not signatures.genuine(right, expires, genuine) or expires == when
