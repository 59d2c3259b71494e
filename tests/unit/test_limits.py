"""Rate limits and failure throttles, on a clock that the test moves."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from support import Clock
from umrgen.server.ledger import Caps, Key
from umrgen.server.services.limits import FailureThrottle, GcraLimiter, Limits
from umrgen.server.settings import Settings


def key(**limits: int) -> Key:
    return Key("key_1", b"hash", "sid_1", "", 0, **limits)


class TestBuckets:
    @given(
        st.integers(1, 500),
        st.lists(st.tuples(st.floats(0, 40), st.integers(1, 60)), min_size=1, max_size=30),
    )
    def test_never_more_than_was_earned(self, rate: int, bursts: list[tuple[float, int]]) -> None:
        clock = Clock()
        buckets, begun, taken = GcraLimiter(clock), clock.at, 0
        for pause, tries in bursts:
            clock.at += pause
            for _ in range(tries):
                expected_wait = buckets.wait("a", rate)
                got = buckets.take("a", rate)
                assert got == (expected_wait < 1e-6)
                taken += got
            assert taken <= rate + (clock.at - begun) * rate / 60 + 1e-6

    @given(st.integers(1, 500))
    def test_a_minutes_worth_at_once_and_no_more(self, rate: int) -> None:
        clock = Clock()
        buckets = GcraLimiter(clock)
        assert sum(buckets.take("a", rate) for _ in range(rate + 5)) == rate
        assert buckets.left("a", rate)[0] == 0
        clock.at += buckets.wait("a", rate) + 1e-6
        assert buckets.take("a", rate)
        assert not buckets.take("a", rate)
        clock.at += 61
        assert buckets.left("a", rate) == (rate, 0)

    def test_refusals_cost_nothing(self) -> None:
        clock = Clock()
        buckets = GcraLimiter(clock)
        for _ in range(1000):
            buckets.take("a", 10)
        clock.at += 6.001
        assert buckets.take("a", 10), "whoever hammers on is let in as soon as one who waits"

    def test_names_are_apart_and_can_be_forgotten(self) -> None:
        buckets = GcraLimiter(Clock())
        assert all(buckets.take(name, 1) for name in "abc")
        assert not buckets.take("a", 1)
        buckets.keep("a", 2)
        assert buckets.take("b", 1), "forgotten: it was heard of longest ago"
        assert not buckets.take("a", 1)
        assert not buckets.take("c", 1)

    def test_what_is_owed_is_paid_back(self) -> None:
        clock = Clock()
        buckets = GcraLimiter(clock)
        buckets.charge("a", 60, 90)
        assert not buckets.take("a", 60)
        assert buckets.left("a", 60)[0] == 0
        assert buckets.wait("a", 60) == pytest.approx(31)
        clock.at += 31.001
        assert buckets.take("a", 60)


class TestLimits:
    def test_a_keys_own_numbers_come_first(self) -> None:
        limits = Limits(Settings(rate=5, concurrent=2, daily=0, session_queued=7), Clock())
        assert limits.caps(key()) == Caps(queued=7, alive=2, daily=0)
        assert limits.caps(key(concurrent=0, daily=9)) == Caps(queued=7, alive=0, daily=9)
        assert (limits.rate(key()), limits.rate(key(rate=1)), limits.rate(key(rate=0))) == (5, 1, 0)

    def test_what_is_left_is_told(self) -> None:
        clock = Clock()
        limits = Limits(Settings(rate=3), clock)
        assert [limits.take(key()) for _ in range(4)] == [True, True, True, False]
        allowance = limits.allowance(key())
        assert allowance is not None
        assert (allowance.quota, allowance.remaining) == (3, 0)
        assert allowance.retry_after == pytest.approx(20)
        assert allowance.headers() == {"RateLimit-Policy": '"minute";q=3;w=60', "RateLimit": '"minute";r=0;t=60'}

    def test_no_limit_says_nothing(self) -> None:
        limits = Limits(Settings(rate=0), Clock())
        assert all(limits.take(key()) for _ in range(10_000))
        assert limits.allowance(key()) is None


class TestManners:
    def test_a_house_is_one_address(self) -> None:
        manners = FailureThrottle(3, "keys", Clock())
        for number in range(3):
            assert not manners.wait("2001:db8::5")
            manners.record_failure(f"2001:db8::{number}")
        assert manners.wait("2001:db8::ffff:1") > 0
        assert not manners.wait("2001:db8:1::1")
        for _ in range(3):
            manners.record_failure("::ffff:203.0.113.9")
        assert manners.wait("203.0.113.9") > 0, "the same address in IPv6's clothes"
        assert not manners.wait("")
