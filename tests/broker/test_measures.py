"""What a node counts and times of what it does."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.broker import measures as measures_module
from restmq.broker.broker import Broker
from restmq.broker.measures import Histogram, Measures, new_token, seconds_since
from restmq.broker.receipts import Receipt
from restmq.errors import StaleReceipt, StoreUnavailable
from tests.broker.conftest import MakeFaultyBroker
from tests.broker.fakes import FakeConsumer, connect, streaming
from tests.broker.steps import NOON, publish, receipt_of
from tests.support import eventually

FINITE = st.floats(0, 1e6)


class TestHistogram:
    @given(st.lists(FINITE))
    def test_each_value_counts_up_to_its_bound(self, values: list[float]) -> None:
        histogram = Histogram((1, 10, 100))
        for value in values:
            histogram.observe(value)
        expected = [sum(value <= bound for value in values) for bound in (1, 10, 100)]
        assert [sum(histogram.counts[: index + 1]) for index in range(3)] == expected
        assert sum(histogram.counts) == len(values)
        assert histogram.total == pytest.approx(sum(values))

    @given(FINITE, FINITE, st.integers(1, 50))
    def test_many_values_count_as_often_as_they_are(
        self, first: float, last: float, count: int
    ) -> None:
        histogram = Histogram((1, 10, 100))
        histogram.observe_between(first, last if count > 1 else first, count)
        assert sum(histogram.counts) == count
        lowest = Histogram((1, 10, 100))
        lowest.observe(min(first, last))
        assert not any(histogram.counts[: lowest.counts.index(1)])

    @given(FINITE, FINITE, st.integers(1, 50))
    def test_so_do_those_of_even_steps_one_by_one(
        self, first: float, last: float, count: int
    ) -> None:
        """But for one whose place is so close to a bound that rounding decides."""
        together, single = Histogram((1, 10, 100)), Histogram((1, 10, 100))
        together.observe_between(first, last, count)
        step = (last - first) / max(count - 1, 1)
        for at in range(count):
            single.observe(first + at * step)
        pairs = zip(together.counts, single.counts, strict=True)
        assert sum(abs(one - other) for one, other in pairs) <= 2 * len(together.bounds)
        assert together.total == pytest.approx(single.total, abs=1e-6)

    @given(st.lists(st.sampled_from([0.5, 1.0, 7.0, 500.0]), max_size=20))
    def test_values_that_are_alike_count_at_once(self, values: list[float]) -> None:
        together, single = Histogram((1, 10, 100)), Histogram((1, 10, 100))
        for value in set(values):
            together.observe(value, values.count(value))
        for value in values:
            single.observe(value)
        assert (together.counts, together.total) == (single.counts, single.total)

    def test_steps_between_count_where_they_lie(self) -> None:
        histogram = Histogram((1, 10, 100))
        histogram.observe_between(200, 0, 3)
        assert histogram.counts == [1, 0, 1, 1]
        assert histogram.total == 300


class TestToken:
    def test_it_tells_how_long_ago_it_was_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 2e9 - 1
        monkeypatch.setattr(time, "time", lambda: now)
        token = new_token()
        assert len(token) == 16
        assert seconds_since(token) == 0
        for seconds in (0.5, 61, 12 * 3600):
            monkeypatch.setattr(time, "time", lambda seconds=seconds: now + seconds)
            assert seconds_since(token) == pytest.approx(seconds, abs=0.005)

    def test_a_clock_that_is_ahead_does_no_harm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(time, "time", lambda: 2e9)
        token = new_token()
        monkeypatch.setattr(time, "time", lambda: 2e9 - 60)
        assert seconds_since(token) == 0

    def test_no_two_are_alike(self) -> None:
        assert len({new_token() for _ in range(1000)}) == 1000


class TestAcks:
    def test_each_counts_by_its_own_token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(time, "time", lambda: 2e9)
        first = new_token()
        monkeypatch.setattr(time, "time", lambda: 2e9 + 40)
        second = new_token()
        monkeypatch.setattr(time, "time", lambda: 2e9 + 60)
        measures = Measures()
        measures.note_acks([])
        assert not any(measures.values())
        measures.note_acks([first, first, second, first])
        assert measures.acked_messages == sum(measures.ack_seconds.counts) == 4
        assert measures.ack_seconds.total == pytest.approx(3 * 60 + 20, abs=0.05)


class TestRows:
    def test_they_hold_everything(self) -> None:
        before = Measures()
        names = Measures.value_names()
        row = [float(number) for number in range(len(names))]
        assert len(before.values()) == len(names) == len(set(names))
        assert Measures.from_values(row).values() == row

    def test_only_a_quick_answer_tells_the_clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        measures = Measures()
        monkeypatch.setattr(time, "time", lambda: 100.0)
        measures.note_clock(99.0, 500.0)
        assert measures.clock_ahead_seconds == 0
        measures.note_clock(99.98, 500.0)
        assert measures.clock_ahead_seconds == pytest.approx(400.01)
        assert measures.redis_now() == pytest.approx(500.01)


class TestCounting:
    async def test_publishing(self, broker: Broker, fresh_name: str) -> None:
        measures = broker.measures
        await publish(broker, fresh_name, [b"a"] * 3)
        await publish(broker, fresh_name, [b"b"], idempotency_key="k")
        await publish(broker, fresh_name, [b"b"], idempotency_key="k")
        assert measures.published_messages == 4
        assert sum(measures.publish_seconds.counts) == 3
        assert 0 < measures.publish_seconds.total < 100
        assert measures.commit_bytes >= 3

    async def test_taking_and_leasing(self, broker: Broker, fresh_name: str) -> None:
        measures = broker.measures
        await eventually(lambda: measures.clock_ahead_seconds)  # Redis has told its time
        await publish(broker, fresh_name, [b"a"] * 5)
        await broker.take(fresh_name, 2)
        await broker.pop(fresh_name)
        await broker.lease(fresh_name, 2)
        await broker.lease(fresh_name, 2)
        assert (measures.taken_messages, measures.leased_messages) == (3, 2)
        assert sum(measures.delivery_seconds.counts) == 5
        assert measures.delivery_seconds.total < 100

    async def test_time_until_delivery_is_that_of_redis(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await publish(broker, fresh_name, [b"a"])
        broker.scripts.clock_seconds = NOON + 70
        await broker.lease(fresh_name)
        assert broker.measures.delivery_seconds.total == pytest.approx(70)

    async def test_settling(self, broker: Broker, fresh_name: str) -> None:
        measures = broker.measures
        await publish(broker, fresh_name, [b"a"] * 4)
        receipts = [receipt_of(fresh_name, each) for each in await broker.lease(fresh_name, 4)]
        await broker.ack(receipts[0])
        await broker.extend(receipts[1], 60)
        await broker.release(receipts[1])
        await broker.bury(receipts[2], "bad")
        broker.release_unseen(fresh_name, [])
        await broker.release(receipts[3], keep_attempt=True)
        with pytest.raises(StaleReceipt):
            await broker.ack(receipts[0])
        assert measures.acked_messages == sum(measures.ack_seconds.counts) == 1
        assert measures.nacked_messages == measures.buried_messages == 1
        assert measures.extended_leases == measures.stale_settlements == 1

    async def test_an_ack_on_another_node_knows_when_it_was_leased(
        self, broker: Broker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await publish(broker, fresh_name, [b"a"])
        receipt = receipt_of(fresh_name, (await broker.lease(fresh_name))[0])
        now = time.time() + 20
        monkeypatch.setattr(measures_module.time, "time", lambda: now)
        await broker.ack(Receipt(*receipt))
        assert broker.measures.ack_seconds.total == pytest.approx(20, abs=10)

    async def test_streams(self, broker: Broker, fresh_name: str) -> None:
        consumers = [FakeConsumer(), FakeConsumer()]
        async with streaming(broker, fresh_name, *consumers):
            await publish(broker, fresh_name, [b"a"] * 3)
            await eventually(lambda: all(len(each.values) == 3 for each in consumers))
        assert broker.measures.streamed_messages == 6
        assert sum(broker.measures.delivery_seconds.counts) == 3

    async def test_consumers_that_do_not_read(self, broker: Broker, fresh_name: str) -> None:
        slow = FakeConsumer(reading=False)
        await connect(broker, fresh_name, slow)
        async with streaming(broker, fresh_name, FakeConsumer()):
            for _ in range(3):
                await publish(broker, fresh_name, [b"a" * 3_000_000])
            await eventually(slow.ended.done)
        assert broker.measures.cut_off_consumers == 1
        await broker.leave(fresh_name, slow)

    async def test_round_trips(self, make_faulty_broker: MakeFaultyBroker, fresh_name: str) -> None:
        broker, backend = await make_faulty_broker()
        measures = broker.measures
        await publish(broker, fresh_name, [b"a"])
        trips = sum(measures.commit_seconds.counts)
        assert trips == sum(measures.commit_operations.counts) >= 1
        assert measures.failed_commits == 0
        backend.lose_next("add")
        with pytest.raises(StoreUnavailable):
            await publish(broker, fresh_name, [b"a"])
        assert measures.failed_commits == 1
        assert measures.published_messages == 1
