"""The proxy of the environment: which one, and never for this machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umrgen import AsyncClient, Client, UmrgenError
from umrgen.client.proxies import is_loopback, proxy_for
from umrgen.client.stdlib_transport import is_supported

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, *map(str.upper, NAMES), "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("variable", [*NAMES[:3], *(name.upper() for name in NAMES[:3])])
@pytest.mark.parametrize("value", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "127.0.0.1:9", "nonsense://["])
@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:3088", "http://localhost", "https://127.8.9.1", "http://[::1]:80/x", "http://a.localhost"],
)
def test_an_address_of_this_machine_has_no_proxy(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, url: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert proxy_for(url) is None
    assert is_supported(url)
    AsyncClient(url, journal=None)


@given(st.ip_addresses())
def test_loopback_addresses(address: object) -> None:
    mapped = getattr(address, "ipv4_mapped", None) or address
    assert is_loopback(str(address)) == (mapped.is_loopback or mapped.is_unspecified)


@pytest.mark.parametrize(
    ("environment", "url", "found"),
    [
        ({"http_proxy": "http://p:1"}, "http://example.com", ("http_proxy", "http://p:1")),
        ({"HTTP_PROXY": "p:1"}, "http://example.com", ("HTTP_PROXY", "http://p:1")),
        ({"HTTP_PROXY": "p:1", "REQUEST_METHOD": "GET"}, "http://example.com", None),
        ({"http_proxy": "p:1"}, "https://example.com", None),
        ({"http_proxy": "p:1", "ALL_PROXY": "socks5://s"}, "https://example.com", ("ALL_PROXY", "socks5://s")),
        ({"https_proxy": "p:1", "HTTPS_PROXY": "q:1"}, "https://example.com", ("https_proxy", "http://p:1")),
        ({"https_proxy": " "}, "https://example.com", None),
    ],
)
def test_the_variable(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, found: tuple[str, str] | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(url)
    assert (None if proxy is None else (proxy.variable, proxy.url)) == found


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
@pytest.mark.parametrize(
    ("entries", "excluded"),
    [
        ("*", True),
        ("example.com", True),
        (".example.com", True),
        ("*.example.com", True),
        ("a,img.EXAMPLE.com , b", True),
        ("a img.example.com", True),
        ("img.example.com:8080", True),
        ("img.example.com:81", False),
        ("ample.com", False),
        ("10.0.0.0/8", False),
        ("", False),
        ("[", False),
    ],
)
def test_no_proxy(monkeypatch: pytest.MonkeyPatch, variable: str, entries: str, excluded: bool) -> None:
    monkeypatch.setenv("http_proxy", "p:1")
    monkeypatch.setenv(variable, entries)
    assert (proxy_for("http://img.example.com:8080/x") is None) == excluded


@pytest.mark.parametrize(("entries", "excluded"), [("10.0.0.0/8", True), ("10.1.2.3", True), ("11.0.0.0/8", False)])
def test_no_proxy_for_addresses(monkeypatch: pytest.MonkeyPatch, entries: str, excluded: bool) -> None:
    monkeypatch.setenv("http_proxy", "p:1")
    monkeypatch.setenv("no_proxy", entries)
    assert (proxy_for("http://10.1.2.3:8080") is None) == excluded


@pytest.mark.parametrize("value", ["socks5://user:secret@127.0.0.1:9", "ftp://user:secret@127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(UmrgenError, match="ALL_PROXY") as refused:
        Client("http://example.com", journal=None)
    assert refused.value.code == "proxy_unusable"
    assert "ALL_PROXY" in refused.value.next
    assert "secret" not in f"{refused.value}{refused.value.next}"


def test_an_unreachable_proxy_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:9")
    with Client("http://example.com", journal=None, submit_patience=0) as client, pytest.raises(UmrgenError) as failed:
        client.submit("a boat")
    assert "the proxy http://127.0.0.1:9 of HTTP_PROXY" in str(failed.value)
