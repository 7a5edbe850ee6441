"""Figures over many queues: sums, and those queues that stand out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.broker import tally
from restmq.broker.stats import QueueStats
from restmq.broker.tally import Overview, Tally, depth, rate, refresh

COUNTS = st.integers(0, 50)
RATES = st.sampled_from([0.0, 0.5, 1.0, 7.25])
QUEUES = st.lists(
    st.builds(
        QueueStats,
        name=st.text("abc", min_size=1, max_size=4),
        length=COUNTS,
        started=st.booleans(),
        policy=st.none(),
        consumers=COUNTS,
        delayed=COUNTS,
        leased=COUNTS,
        dead=COUNTS,
        oldest_age_seconds=st.none() | st.floats(0, 1000),
        rate_in=RATES,
        rate_out=RATES,
        expired_leases=COUNTS,
        died=COUNTS,
    ),
    unique_by=lambda stats: stats.name,
    max_size=12,
)


@pytest.fixture(autouse=True, scope="module")
def few_are_kept() -> "pytest.MonkeyPatch":
    """Let three queues of each kind be kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally, "KEPT_QUEUES", 3)
        yield patch


def counted(queues: list[QueueStats], previous: Overview | None = None) -> Overview:
    """Count queues at noon."""
    total = Tally()
    for stats in queues:
        total.add(stats)
    return total.overview(12.0, len(queues), True, previous)


@given(QUEUES)
def test_totals_are_the_sums(queues: list[QueueStats]) -> None:
    totals = counted(queues).totals
    assert totals.queues == len(queues)
    assert totals.ready == sum(stats.length for stats in queues)
    for name in ("leased", "delayed", "dead", "consumers", "expired_leases", "died"):
        assert getattr(totals, name) == sum(getattr(stats, name) for stats in queues), name
    for name in ("rate_in", "rate_out"):
        assert math.isclose(getattr(totals, name), sum(getattr(stats, name) for stats in queues))
    ages = [s.oldest_age_seconds for s in queues if s.oldest_age_seconds is not None]
    assert totals.oldest_age_seconds == max(ages, default=None)


@given(QUEUES)
def test_the_largest_and_the_busiest_stand_out(queues: list[QueueStats]) -> None:
    overview = counted(queues)
    largest = sorted(map(depth, queues), reverse=True)[:3]
    assert [depth(stats) for stats in overview.largest] == largest
    busiest = sorted((rate(stats) for stats in queues if rate(stats)), reverse=True)[:3]
    assert [rate(stats) for stats in overview.busiest] == busiest


@given(QUEUES, st.data())
def test_newer_figures_of_those_that_stand_out_change_the_totals(
    queues: list[QueueStats], data: st.DataObject
) -> None:
    overview = counted(queues)
    kept = {stats.name: stats for stats in (*overview.largest, *overview.busiest)}
    newer = [
        stats._replace(length=data.draw(COUNTS), died=stats.died + data.draw(COUNTS))
        for stats in kept.values()
    ]
    now = {stats.name: stats for stats in queues} | {stats.name: stats for stats in newer}
    refreshed = refresh(overview, newer, 99)
    exact = counted(list(now.values())).totals
    assert refreshed.totals.queues == 99
    assert refreshed.totals.ready == exact.ready
    assert refreshed.totals.died == exact.died
    assert set(refreshed.largest) <= {*newer}


def test_an_active_queue_takes_its_place_among_the_busiest() -> None:
    quiet = QueueStats("quiet", 5, True, None, 0)
    overview = counted([quiet])
    active = QueueStats("active", 1, True, None, 0, rate_in=3.0)
    refreshed = refresh(overview, [active], 2)
    assert refreshed.busiest == (active,)
    assert refreshed.largest == (quiet, active)
    assert refreshed.taken_at == overview.taken_at


def test_the_oldest_message_is_forgotten_with_the_queue_that_had_it() -> None:
    """What those have that are not kept one by one counts until the next walk."""
    aged = [
        QueueStats(f"q{n}", 50 - n, True, None, 0, oldest_age_seconds=100 - n) for n in range(5)
    ]
    overview = counted(aged)
    emptied = aged[0]._replace(length=0, oldest_age_seconds=None)
    assert refresh(overview, [emptied], 5).totals.oldest_age_seconds == 99
    older = aged[1]._replace(oldest_age_seconds=120)
    assert refresh(overview, [emptied, older], 5).totals.oldest_age_seconds == 120
    gone = [each._replace(oldest_age_seconds=None) for each in aged[:3]]
    assert refresh(overview, gone, 5).totals.oldest_age_seconds is None
    hidden = aged[4]._replace(oldest_age_seconds=500)
    overview = counted([*aged[:4], hidden])
    assert refresh(overview, gone, 5).totals.oldest_age_seconds == 500


def test_what_only_grows_never_goes_back() -> None:
    """Not even if a walk missed what the look between two walks has seen."""
    queue = QueueStats("a", 0, True, None, 0, expired_leases=5, died=7)
    before = counted([queue])
    after = counted([queue._replace(expired_leases=4, died=6)], before)
    assert (after.totals.expired_leases, after.totals.died) == (5, 7)
