"""A server's address and the key for it, as the client holds them."""

import pytest

from umrgen import UmrgenError
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
