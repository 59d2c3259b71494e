"""A server's address and the key for it, as the client holds them."""

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umrgen import AsyncClient, Client, UmrgenError
from umrgen.client.address import Server

SECRET = "umr_a-secret"


def test_the_key_is_not_shown() -> None:
    server = Server("https://pictures.example/prefix/", SECRET)
    assert server.base_url == "https://pictures.example/prefix"
    assert SECRET not in f"{server!r} {server}"
    assert server.headers()["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("url", ["", "pictures", "ftp://x", "http://", "http://x?y=1", "http://u:p@x", "http://x:0"])
def test_an_invalid_base_url_is_refused(url: str) -> None:
    with pytest.raises(UmrgenError) as refused:
        Server(url, SECRET)
    assert refused.value.code == "bad_base_url"
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("url", ["127.0.0.1:3088", "localhost:3088/umrgen", "images.example.org"])
def test_an_address_without_a_scheme_is_refused_with_it(url: str) -> None:
    with pytest.raises(UmrgenError) as refused:
        Server(url, SECRET)
    assert refused.value.code == "bad_base_url"
    assert refused.value.next == f"Write the scheme: http://{url}, or with https:// for a server with TLS."


@pytest.mark.parametrize(
    ("url", "better"),
    [
        ("http://127.0.0.1:3088/api/v1", "http://127.0.0.1:3088"),
        ("https://x.example/umrgen/api/v1/", "https://x.example/umrgen"),
        ("http://x/api", "http://x"),
    ],
)
def test_a_base_url_with_the_path_of_the_api_is_refused_with_the_right_one(url: str, better: str) -> None:
    with pytest.raises(UmrgenError) as refused:
        Server(url, SECRET)
    assert refused.value.code == "bad_base_url"
    assert refused.value.next == f"Use {better}."


@pytest.mark.parametrize(
    "url", ["http://user:pass word@x", "http://u:secret@x/", "http://\x1b[2J", "http://a b", "http://x\n"]
)
def test_a_refused_base_url_is_printable_and_without_a_password(url: str) -> None:
    try:
        assert Server(url).base_url == "http://x"  # white space around it is removed
    except UmrgenError as error:
        assert str(error).isprintable()
        assert "secret" not in str(error)
        assert "pass word" not in str(error)


def test_white_space_around_the_key_is_removed() -> None:
    assert Server("http://x", f" {SECRET}\r\n").headers()["Authorization"] == f"Bearer {SECRET}"
    assert Server("http://x", " \n").key is None


@given(st.text(st.characters(), min_size=1, max_size=8).filter(lambda text: text.strip() and not text.isascii()))
def test_a_key_that_no_header_can_have_is_refused(wrong: str) -> None:
    for key in (f"{SECRET}{wrong}{SECRET}", f"{SECRET}\r{wrong}", f"{SECRET}\n{SECRET}", f"{SECRET} x"):
        with pytest.raises(UmrgenError) as refused:
            Server("http://x", key)
        shown = "".join(traceback.format_exception(refused.value)) + repr(refused.value.as_dict())
        assert refused.value.code == "bad_api_key"
        assert SECRET not in shown


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("given_by", ["argument", "environment"])
def test_both_clients_check_the_key_at_construction(
    kind: type[Client | AsyncClient], given_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key: str | None = f"{SECRET}\r{SECRET}"
    if given_by == "environment":
        monkeypatch.setenv("UMRGEN_API_KEY", str(key))
        key = None
    with pytest.raises(UmrgenError) as refused:
        kind("http://127.0.0.1:9", key, journal=None)
    assert refused.value.code == "bad_api_key"
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("umrgen.share.zrok.io", True),
        ("UMRGEN.share.ZROK.io", True),
        ("share.zrok.io", False),
        ("evilshare.zrok.io", False),
        ("umrgen.share.zrok.io.evil.example", False),
        ("umrgen.zrok.io", False),
        ("127.0.0.1", False),
    ],
)
def test_the_header_for_zrok_goes_to_its_shares_only(host: str, sent: bool) -> None:
    assert ("skip_zrok_interstitial" in Server(f"https://{host}", SECRET).headers()) is sent
