"""Rate limits and failure throttles, on a clock that the test moves."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from support import Clock
from umrgen.server.http.problems import quota_headers
from umrgen.server.ledger import Caps, Key
from umrgen.server.services.limits import AddressLimit, FailureThrottle, GcraLimiter, RateLimits
from umrgen.server.services.refusal import Quota, Refusal
from umrgen.server.settings import Settings


def key(**limits: int) -> Key:
    return Key("key_1", b"hash", "sid_1", "", 0, **limits)


class TestGcraLimiter:
    @given(
        st.integers(1, 500),
        st.lists(st.tuples(st.floats(0, 40), st.integers(1, 60)), min_size=1, max_size=30),
    )
    def test_never_more_than_the_burst_and_the_rate_allow(self, rate: int, bursts: list[tuple[float, int]]) -> None:
        clock = Clock()
        limiter, begun, taken = GcraLimiter(clock), clock.at, 0
        for pause, tries in bursts:
            clock.at += pause
            for _ in range(tries):
                expected_wait = limiter.wait("a", rate)
                got = limiter.take("a", rate)
                assert got == (expected_wait < 1e-6)
                taken += got
            assert taken <= rate + (clock.at - begun) * rate / 60 + 1e-6

    @given(st.integers(1, 500))
    def test_the_burst_is_the_requests_of_one_minute(self, rate: int) -> None:
        clock = Clock()
        limiter = GcraLimiter(clock)
        assert sum(limiter.take("a", rate) for _ in range(rate + 5)) == rate
        assert limiter.left("a", rate)[0] == 0
        clock.at += limiter.wait("a", rate) + 1e-6
        assert limiter.take("a", rate)
        assert not limiter.take("a", rate)
        clock.at += 61
        assert limiter.left("a", rate) == (rate, 0)

    def test_refused_requests_do_not_count(self) -> None:
        clock = Clock()
        limiter = GcraLimiter(clock)
        for _ in range(1000):
            limiter.take("a", 10)
        clock.at += 6.001
        assert limiter.take("a", 10), "a caller that retries early is accepted as soon as one that waits"

    def test_names_have_separate_limits_and_can_be_dropped(self) -> None:
        limiter = GcraLimiter(Clock())
        assert all(limiter.take(name, 1) for name in "abc")
        assert not limiter.take("a", 1)
        limiter.keep("a", 2)
        assert limiter.take("b", 1), "dropped: it was the least recently used name"
        assert not limiter.take("a", 1)
        assert not limiter.take("c", 1)

    def test_charged_requests_delay_later_ones(self) -> None:
        clock = Clock()
        limiter = GcraLimiter(clock)
        limiter.charge("a", 60, 90)
        assert not limiter.take("a", 60)
        assert limiter.left("a", 60)[0] == 0
        assert limiter.wait("a", 60) == pytest.approx(31)
        clock.at += 31.001
        assert limiter.take("a", 60)


class TestRateLimits:
    def test_limits_of_the_key_override_the_defaults(self) -> None:
        limits = RateLimits(Settings(rate=5, concurrent=2, daily=0, session_queued=7), Clock())
        assert limits.caps(key()) == Caps(queued=7, active=2, daily=0)
        assert limits.caps(key(concurrent=0, daily=9)) == Caps(queued=7, active=0, daily=9)
        assert (limits.rate(key()), limits.rate(key(rate=1)), limits.rate(key(rate=0))) == (5, 1, 0)

    def test_a_quota_and_its_header_fields(self) -> None:
        clock = Clock()
        limits = RateLimits(Settings(rate=3), clock)
        assert [limits.take(key()) for _ in range(4)] == [True, True, True, False]
        assert limits.quota(key()) == Quota("minute", 3, window=60, reset=60, remaining=0)
        assert limits.wait(key()) == pytest.approx(20)
        assert quota_headers(Quota("minute", 3, window=60, reset=60)) == {
            "RateLimit-Policy": '"minute";q=3;w=60',
            "RateLimit": '"minute";r=0;t=60',
        }
        assert quota_headers(Quota("queued", 3)) == {"RateLimit-Policy": '"queued";q=3', "RateLimit": '"queued";r=0'}

    def test_without_a_limit_there_is_no_quota(self) -> None:
        limits = RateLimits(Settings(rate=0), Clock())
        assert all(limits.take(key()) for _ in range(10_000))
        assert limits.quota(key()) is None


class TestAddressLimit:
    def test_an_address_has_its_requests_again_after_a_minute(self) -> None:
        clock = Clock()
        limit = AddressLimit(2, clock)
        for address in ("192.0.2.1", "2001:db8::1", "192.0.2.1", "2001:db8::2"):
            limit.take(address)
        for address in ("192.0.2.1", "2001:db8::3"):
            with pytest.raises(Refusal) as refused:
                limit.take(address)
            assert (refused.value.code, refused.value.retry_after) == ("rate_limited", 30)
        limit.take("192.0.2.2")
        clock.at += 30
        limit.take("192.0.2.1")


class TestFailureThrottle:
    def test_an_ipv6_subscriber_is_one_address(self) -> None:
        throttle = FailureThrottle(3, "keys", Clock())
        for number in range(3):
            assert not throttle.wait("2001:db8::5")
            throttle.record_failure(f"2001:db8::{number}")
        assert throttle.wait("2001:db8::ffff:1") > 0
        assert not throttle.wait("2001:db8:1::1")
        for _ in range(3):
            throttle.record_failure("::ffff:203.0.113.9")
        assert throttle.wait("203.0.113.9") > 0, "an IPv4-mapped IPv6 address is the IPv4 address"
        assert not throttle.wait("")
