"""Where a webhook may go, in every spelling of an address that somebody may think of."""

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

NOBODY = Allow()


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "93.184.215.14", "172.32.0.1", "192.0.1.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101"],
)
def test_public_addresses(address: str) -> None:
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
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_no_wrapping_makes_an_address_public(address: ipaddress.IPv4Address) -> None:
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
    ("url", "words"),
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
def test_a_url_that_is_refused(url: str, words: str) -> None:
    refusal = check_url(url, NOBODY)
    assert refusal is not None
    assert words in refusal
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
def test_a_url_in_its_parts(url: str, parts: tuple[object, ...]) -> None:
    target = Target.parse(url)
    assert (target.scheme, target.host, target.port, target.path, target.authority) == parts


def test_a_public_url_is_not_refused() -> None:
    for url in ("https://hooks.example/x?y", "http://1.1.1.1:1024/", "https://intranet/", "http://[2606:4700::1]/"):
        assert check_url(url, NOBODY) is None


@given(st.text(alphabet=st.characters(max_codepoint=0x17F), max_size=60), st.sampled_from(["", "http://", "https://"]))
def test_whatever_is_asked_for_is_understood_or_refused(text: str, start: str) -> None:
    try:
        target = Target.parse(start + text)
    except BadURL:
        return
    # What was understood reads the same when it is put together again: there is one reading of it.
    assert Target.parse(f"{target.scheme}://{target.authority}{target.path}") == target
    assert not set(target.host) & set("@/\\#?[] %")


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{0}", "{0:#x}", "0{0:o}"]))
def test_an_address_written_as_one_number_is_refused(number: int, form: str) -> None:
    assert check_url(f"http://{form.format(number)}/", NOBODY) is not None


class TestAllowing:
    def test_hosts_addresses_and_networks(self) -> None:
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
    def test_nonsense_is_named(self, text: str) -> None:
        with pytest.raises(BadSettings, match="webhook_allow"):
            Allow.of(["localhost", text])

    def test_one_bad_address_spoils_a_name(self) -> None:
        public, inside = ipaddress.ip_address("1.1.1.1"), ipaddress.ip_address("10.0.0.1")
        assert NOBODY.all("hooks.example", [public])
        assert not NOBODY.all("hooks.example", [public, inside])
        assert Allow.of(["hooks.example"]).all("hooks.example", [public, inside])
        assert Allow.of(["10.0.0.0/8"]).all("other.example", [public, inside])


class Answers:
    """A name server that says something else each time."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str) -> list[Address]:
        self.asked.append(host)
        return [ipaddress.ip_address(text) for text in self.answers.pop(0)]


def posting(allow: str, names: Answers, seconds: float = 5.0) -> HttpSender:
    return HttpSender(Allow.of(allow.split(",")), seconds=seconds, response_bytes=1 << 16, resolve=names)


class TestPinning:
    async def test_the_connection_goes_to_the_address_that_was_checked(self) -> None:
        names = Answers(["127.0.0.1"])
        with receiver() as inbox:
            post = posting("127.0.0.1", names)
            answer = await post.send(inbox.url("/x", host="pinned.invalid"), {"x-own": "1"}, b"{}")
            await post.aclose()
        assert (answer.status, names.asked) == (204, ["pinned.invalid"]), "it is asked once"
        (letter,) = inbox.letters
        assert (letter.headers["host"], letter.body) == (f"pinned.invalid:{inbox.port}", b"{}")

    async def test_a_name_that_changes_its_mind_is_refused_the_second_time(self) -> None:
        names = Answers(["127.0.0.1"], ["127.0.0.2"])
        with receiver() as inbox:
            post = posting("127.0.0.1", names)
            url = inbox.url(host="rebinding.invalid")
            await post.send(url, {}, b"{}")
            with pytest.raises(PermanentFailure, match="not public"):
                await post.send(url, {}, b"{}")
            await post.aclose()
        assert len(inbox.letters) == 1

    async def test_the_second_address_has_its_turn(self) -> None:
        with receiver() as inbox:
            post = posting("127.0.0.0/8, ::1", Answers(["127.0.0.9", "127.0.0.1"]))
            assert (await post.send(inbox.url(host="two.invalid"), {}, b"{}")).status == 204
            await post.aclose()

    async def test_an_answer_that_does_not_come_is_not_waited_for(self) -> None:
        def dawdle(handler: object) -> None:
            handler.connection.recv(1)  # type: ignore[attr-defined]  # until the caller hangs up

        with receiver(dawdle) as inbox:
            post = posting("127.0.0.1", Answers(["127.0.0.1"]), seconds=0.2)
            with pytest.raises(TransientFailure, match=r"within 0\.2 s"):
                await post.send(inbox.url(host="slow.invalid"), {}, b"{}")
            await post.aclose()

    async def test_an_answer_that_drips_counts_by_its_status(self) -> None:
        def drip(handler: object) -> None:
            handler.wfile.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\nx")  # type: ignore[attr-defined]
            handler.connection.recv(1)  # type: ignore[attr-defined]

        with receiver(drip) as inbox:
            post = posting("127.0.0.1", Answers(["127.0.0.1"]), seconds=1.5)
            assert (await post.send(inbox.url(host="drip.invalid"), {}, b"{}")).status == 202
            await post.aclose()
