"""Token buckets: held against a model, and a table that stays small."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from restmq import rate_limits
from restmq.errors import RateLimited, Unavailable
from restmq.rate_limits import RateLimits, client_of
from restmq.settings import Settings


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def is_served(limits: RateLimits, address: str) -> bool:
    """Return whether there was a token."""
    try:
        limits.take(address)
    except RateLimited:
        return False
    return True


@given(
    st.sampled_from([1.0, 2.0, 4.0, 0.5]),
    st.integers(1, 5),
    st.lists(st.sampled_from([0.0, 0.125, 0.25, 1.0, 5.0]), max_size=60),
)
def test_a_bucket_is_a_bucket(rate: float, burst: int, pauses: list[float]) -> None:
    """Tokens flow in at the rate, up to the burst; each request takes one, or is refused."""
    clock = Clock()
    limits = RateLimits(rate, burst, clock)
    tokens = float(burst)
    for pause in pauses:
        clock.now += pause
        tokens = min(tokens + pause * rate, burst)
        expected = tokens >= 1
        assert is_served(limits, "10.0.0.1") is expected
        if expected:
            tokens -= 1


@given(st.floats(0.01, 1000), st.integers(1, 100))
@example(0.010000000000000002, 2)
def test_the_wait_that_is_told_is_long_enough_and_not_much_longer(rate: float, burst: int) -> None:
    """Who waits for so many whole seconds is served."""
    clock = Clock()
    limits = RateLimits(rate, burst, clock)
    for _ in range(burst):
        assert is_served(limits, "a")
    with pytest.raises(RateLimited) as refusal:
        limits.take("a")
    assert isinstance(refusal.value, Unavailable)
    seconds = refusal.value.retry_after_seconds
    assert 1 <= seconds <= math.ceil(1 / rate)
    clock.now += seconds
    assert is_served(limits, "a")


def test_clients_have_buckets_of_their_own() -> None:
    """One that asks too much is no trouble to another."""
    limits = RateLimits(1, 1, Clock())
    assert is_served(limits, "10.0.0.1")
    assert not is_served(limits, "10.0.0.1")
    assert is_served(limits, "10.0.0.2")


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:DB8::1:0:0:0:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("not an address", "another one", False),
        ("no:address:at:all", "no:address:either", False),
    ],
)
def test_who_counts_as_one_client(one: str, other: str, is_same: bool) -> None:
    """IPv4 by its address, IPv6 by its /64."""
    assert (client_of(one) == client_of(other)) is is_same
    assert len(client_of("x:" * 10_000)) <= 64


def test_those_that_were_idle_for_longest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has a limit; who keeps asking keeps being limited."""
    monkeypatch.setattr(rate_limits, "MAX_ADDRESSES", 3)
    limits = RateLimits(1, 1, Clock())
    for address in ("a", "b", "c"):
        assert is_served(limits, address)
    assert not is_served(limits, "a")  # refused, and so not idle
    assert is_served(limits, "d")
    assert len(limits) == 3
    assert not is_served(limits, "a")
    assert is_served(limits, "b")


def test_the_settings_say_whether_and_how_much() -> None:
    """0 is off; the burst is what comes in a second, if none is given."""
    assert RateLimits.of(Settings()) is None
    for settings, served in (
        (Settings(rate_limit=2.5), 3),
        (Settings(rate_limit=0.1), 1),
        (Settings(rate_limit=2, rate_burst=5), 5),
    ):
        limits = RateLimits.of(settings)
        assert limits is not None
        assert [is_served(limits, "a") for _ in range(served + 1)].count(True) == served


def test_the_slowest_rate_there_is_does_no_harm() -> None:
    """However long one must wait, it is a number."""
    limits = RateLimits(5e-324, 1, Clock())
    assert is_served(limits, "a")
    with pytest.raises(RateLimited, match=r"ask again in \d+ s"):
        limits.take("a")
