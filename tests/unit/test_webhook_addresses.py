"""The addresses that webhooks may be sent to, in all spellings of an address that clients or resolvers accept."""

import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver import receiver
from umrgen.server.settings import BadSettings
from umrgen.server.webhooks.address_policy import Address, Allow, BadURL, Target, check_url, is_public
from umrgen.server.webhooks.delivery_result import PermanentFailure, TransientFailure
from umrgen.server.webhooks.sender import HttpSender

NONE_ALLOWED = Allow()


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "93.184.215.14", "172.32.0.1", "192.0.1.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101"],
)
def test_a_public_address_is_recognized(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.255.255.255",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",  # IPv4-compatible
        "::ffff:127.0.0.1",  # IPv4-mapped
        "::ffff:10.0.0.1",
        "::ffff:0:127.0.0.1",  # IPv4-translated
        "64:ff9b::127.0.0.1",  # NAT64
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::101:101",  # NAT64 within a network
        "100::1",
        "2001::1",  # Teredo
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "2002:7f00:1::",  # 6to4
        "2002:101:101::",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_a_private_or_special_address_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_an_embedded_ipv4_address_is_as_public_as_itself(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    mapped = ipaddress.IPv6Address((0xFFFF << 32) | number)
    nat64 = ipaddress.IPv6Address((0x64FF9B << 96) | number)
    assert is_public(mapped) == is_public(nat64) == is_public(address)
    assert not is_public(ipaddress.IPv6Address((0x2002 << 112) | (number << 80)))
    assert not is_public(ipaddress.IPv6Address((0x20010000 << 96) | (number ^ 0xFFFFFFFF)))
    assert not is_public(ipaddress.IPv6Address(number))
    assert not (is_public(address) and (address.is_private or address.is_multicast or address.is_reserved))


@given(st.ip_addresses(v=6))
def test_only_unicast_is_public(address: ipaddress.IPv6Address) -> None:
    if is_public(address):
        assert not address.is_private
        assert not address.is_multicast


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://a b.example/", "visible ASCII"),
        ("http://hooks.example/\r\nX-Evil: 1", "visible ASCII"),
        ("http://hooks.example/ü", "visible ASCII"),
        ("http://ｅxample.com/", "visible ASCII"),
        ("http://a\\@b.example/", "visible ASCII"),
        ("https://hooks.example/" + "x" * 2000, "2000 characters"),
        ("http:/hooks.example/", "http:// or https://"),
        ("http:hooks.example", "http:// or https://"),
        ("gopher://hooks.example/", "http:// or https://"),
        ("javascript:alert(1)", "http:// or https://"),
        ("http://u@hooks.example/", "user"),
        ("http://:@hooks.example/", "user"),
        ("http://hooks.example/#", "fragment"),
        ("http://hooks.example:0/", "port"),
        ("http://hooks.example:65536/", "port"),
        ("http://hooks.example:99999999999/", "port"),
        ("http://hooks.example:80:80/", "port"),
        ("http://hooks.example:8o/", "port"),
        ("http://hooks.example:25/", "port"),
        ("http://hooks.example:+443/", "port"),
        ("http:///path", "host"),
        ("http://:80/", "host"),
        ("http://[::1/", "valid"),
        ("http://[::1]x/", "valid"),
        ("http://x[::1]/", "valid"),
        ("http://[hooks.example]/", "valid"),
        ("http://[v1.x]/", "valid"),
        ("http://[fe80::1%25eth0]/", "address"),
        ("http://[1.2.3.4]/", "valid"),
        ("http://-a.example/", "must name a host"),
        ("http://a..example/", "must name a host"),
        ("http://.example/", "must name a host"),
        ("http://%31%32%37.0.0.1/", "must name a host"),
        ("http://ex*mple.com/", "must name a host"),
        ("http://1.2.3/", "must name a host"),
        ("http://01.02.03.04/", "must name a host"),
        ("http://1.2.3.4.5/", "must name a host"),
        ("http://0x1.0x2.0x3.0x4/", "must name a host"),
        ("http://a.0x/", "must name a host"),
        ("http://256.256.256.256/", "must name a host"),
        ("http://" + "a" * 64 + ".example/", "must name a host"),
        ("http://" + "a." * 130 + "example/", "must name a host"),
        ("http://127.0.0.1/", "public"),
        ("http://127.0.0.1./", "public"),
        ("http://[::]/", "public"),
        ("http://[0:0:0:0:0:ffff:7f00:1]/", "public"),
        ("http://LocalHost/", "public"),
        ("http://a.localhost./", "public"),
    ],
)
def test_an_invalid_or_private_url_is_refused_with_its_reason(url: str, reason: str) -> None:
    refusal = check_url(url, NONE_ALLOWED)
    assert refusal is not None
    assert reason in refusal
    assert "hooks.example" not in refusal


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://hooks.example", ("https", "hooks.example", 443, "/", "hooks.example")),
        ("HTTP://Hooks.Example.:80/a/../b", ("http", "hooks.example", 80, "/a/../b", "hooks.example")),
        (
            "https://hooks.example:8443/?a=1&b=%20",
            ("https", "hooks.example", 8443, "/?a=1&b=%20", "hooks.example:8443"),
        ),
        ("http://hooks.example:/x?", ("http", "hooks.example", 80, "/x", "hooks.example")),
        ("http://xn--bcher-kva.example/", ("http", "xn--bcher-kva.example", 80, "/", "xn--bcher-kva.example")),
        ("http://1.1.1.1:8080/", ("http", "1.1.1.1", 8080, "/", "1.1.1.1:8080")),
        ("http://[2606:4700:0::1111]/", ("http", "2606:4700::1111", 80, "/", "[2606:4700::1111]")),
        ("https://[2606:4700::1]:444/", ("https", "2606:4700::1", 444, "/", "[2606:4700::1]:444")),
        ("http://7.example/", ("http", "7.example", 80, "/", "7.example")),
    ],
)
def test_a_url_is_parsed_into_its_parts(url: str, parts: tuple[object, ...]) -> None:
    target = Target.parse(url)
    assert (target.scheme, target.host, target.port, target.path, target.authority) == parts


def test_a_public_url_is_not_refused() -> None:
    for url in ("https://hooks.example/x?y", "http://1.1.1.1:1024/", "https://intranet/", "http://[2606:4700::1]/"):
        assert check_url(url, NONE_ALLOWED) is None


@given(st.text(alphabet=st.characters(max_codepoint=0x17F), max_size=60), st.sampled_from(["", "http://", "https://"]))
def test_any_text_is_parsed_unambiguously_or_refused(text: str, start: str) -> None:
    try:
        target = Target.parse(start + text)
    except BadURL:
        return
    # The parts, joined again, are parsed to the same parts: the URL has only one interpretation.
    assert Target.parse(f"{target.scheme}://{target.authority}{target.path}") == target
    assert not set(target.host) & set("@/\\#?[] %")


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{0}", "{0:#x}", "0{0:o}"]))
def test_an_address_written_as_one_number_is_refused(number: int, form: str) -> None:
    assert check_url(f"http://{form.format(number)}/", NONE_ALLOWED) is not None


class TestAllowing:
    def test_an_entry_allows_a_host_an_address_or_a_network(self) -> None:
        allow = Allow.of([" Hooks.internal", "127.0.0.1", "10.0.0.0/8 ", "[fd00::7]", "fd01::/16", ""])
        for url in (
            "http://hooks.internal:25/",
            "http://127.0.0.1:9/",
            "http://[::ffff:127.0.0.1]/",
            "http://localhost:8000/",
            "http://10.9.8.7/",
            "https://[fd00::7]/",
            "https://[fd01:1::]/",
        ):
            assert check_url(url, allow) is None, url
        for url in ("http://127.0.0.2/", "http://11.hooks.internal:25/", "http://[fd00::8]/", "http://192.168.0.1/"):
            assert check_url(url, allow) is not None, url

    @pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/99", "http://x", "a b", "*", "1.2.3", "host:80", "x/y"])
    def test_an_invalid_entry_is_refused(self, text: str) -> None:
        with pytest.raises(BadSettings, match="webhook_allow"):
            Allow.of(["localhost", text])

    def test_a_name_with_one_private_address_is_refused(self) -> None:
        public, inside = ipaddress.ip_address("1.1.1.1"), ipaddress.ip_address("10.0.0.1")
        assert NONE_ALLOWED.all("hooks.example", [public])
        assert not NONE_ALLOWED.all("hooks.example", [public, inside])
        assert Allow.of(["hooks.example"]).all("hooks.example", [public, inside])
        assert Allow.of(["10.0.0.0/8"]).all("other.example", [public, inside])


class FakeResolver:
    """A resolver that returns another result for each call."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.queries: list[str] = []

    async def __call__(self, host: str) -> list[Address]:
        self.queries.append(host)
        return [ipaddress.ip_address(text) for text in self.answers.pop(0)]


def make_sender(allow: str, resolver: FakeResolver, seconds: float = 5.0) -> HttpSender:
    return HttpSender(Allow.of(allow.split(",")), seconds=seconds, response_bytes=1 << 16, resolve=resolver)


class TestPinning:
    async def test_the_sender_connects_to_the_address_that_was_checked(self) -> None:
        resolver = FakeResolver(["127.0.0.1"])
        with receiver() as inbox:
            sender = make_sender("127.0.0.1", resolver)
            response = await sender.send(inbox.url("/x", host="pinned.invalid"), {"x-own": "1"}, b"{}")
            await sender.aclose()
        assert (response.status, resolver.queries) == (204, ["pinned.invalid"]), "the name is resolved once"
        (request,) = inbox.requests
        assert (request.headers["host"], request.body) == (f"pinned.invalid:{inbox.port}", b"{}")

    async def test_a_name_that_resolves_to_another_address_later_is_refused(self) -> None:
        resolver = FakeResolver(["127.0.0.1"], ["127.0.0.2"])
        with receiver() as inbox:
            sender = make_sender("127.0.0.1", resolver)
            url = inbox.url(host="rebinding.invalid")
            await sender.send(url, {}, b"{}")
            with pytest.raises(PermanentFailure, match="not public"):
                await sender.send(url, {}, b"{}")
            await sender.aclose()
        assert len(inbox.requests) == 1

    async def test_the_next_address_is_tried_when_the_first_refuses(self) -> None:
        with receiver() as inbox:
            sender = make_sender("127.0.0.0/8, ::1", FakeResolver(["127.0.0.9", "127.0.0.1"]))
            assert (await sender.send(inbox.url(host="two.invalid"), {}, b"{}")).status == 204
            await sender.aclose()

    async def test_a_missing_response_is_a_timeout(self) -> None:
        def do_not_respond(handler: object) -> None:
            handler.connection.recv(1)  # type: ignore[attr-defined]  # until the sender disconnects

        with receiver(do_not_respond) as inbox:
            sender = make_sender("127.0.0.1", FakeResolver(["127.0.0.1"]), seconds=0.2)
            with pytest.raises(TransientFailure, match=r"within 0\.2 s"):
                await sender.send(inbox.url(host="slow.invalid"), {}, b"{}")
            await sender.aclose()

    async def test_an_incomplete_response_counts_by_its_status(self) -> None:
        def respond_in_part(handler: object) -> None:
            handler.wfile.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\nx")  # type: ignore[attr-defined]
            handler.connection.recv(1)  # type: ignore[attr-defined]

        with receiver(respond_in_part) as inbox:
            sender = make_sender("127.0.0.1", FakeResolver(["127.0.0.1"]), seconds=1.5)
            assert (await sender.send(inbox.url(host="slow.invalid"), {}, b"{}")).status == 202
            await sender.aclose()
