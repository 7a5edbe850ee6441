"""Statistics: what waits in which state, how old it is, and how fast messages come and go."""

import pytest

from restmq.broker.broker import Broker
from tests.broker.fakes import FakeConsumer, streaming
from tests.broker.steps import NOON, ack_all, publish, receipt_of, until


async def test_messages_are_counted_by_state(broker: Broker, fresh_name: str) -> None:
    broker.scripts.clock_seconds = NOON
    await publish(broker, fresh_name, [b"a"] * 10)
    await publish(broker, fresh_name, [b"a"] * 3, delay_seconds=50)
    leased = await broker.lease(fresh_name, 4)
    await broker.bury(receipt_of(fresh_name, leased[0]), "bad")
    stats = await broker.stats(fresh_name)
    assert (stats.length, stats.delayed, stats.leased, stats.dead) == (6, 3, 3, 1)


class TestAge:
    async def test_it_is_that_of_the_oldest_that_is_ready_whatever_its_priority(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await publish(broker, fresh_name, [b"1"], delay_seconds=1000)
        for priority in (0, 9, 4, 4):
            broker.scripts.clock_seconds += 10
            await publish(broker, fresh_name, [b"a"], priority=priority)
        broker.scripts.clock_seconds = NOON + 100
        ages = []
        for number in (2, 3, 4, 5):
            ages.append((await broker.stats(fresh_name)).oldest_age_seconds)
            await broker.delete(fresh_name, number)
        assert ages == [90, 80, 70, 60]
        assert (await broker.stats(fresh_name)).oldest_age_seconds is None

    async def test_what_left_the_middle_of_the_list_does_not_hide_the_rest(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        for _ in range(3):
            await broker.add(fresh_name, b"a")
            broker.scripts.clock_seconds += 1
        await broker.delete(fresh_name, 1)
        assert (await broker.stats(fresh_name)).oldest_age_seconds == 2


class TestRates:
    async def test_they_tell_messages_a_second_and_forget(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        for _ in range(100):
            await publish(broker, fresh_name, [b"a"] * 5)
            await broker.take(fresh_name, 3)
            broker.scripts.clock_seconds += 1
        stats = await broker.stats(fresh_name)
        assert stats.rate_in == pytest.approx(5, rel=0.1)
        assert stats.rate_out == pytest.approx(3, rel=0.1)
        broker.scripts.clock_seconds += 600
        stats = await broker.stats(fresh_name)
        assert (stats.rate_in, stats.rate_out) == (0, 0)

    async def test_taken_acked_and_sent_messages_have_gone_out_and_returned_ones_have_not(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await publish(broker, fresh_name, [b"a"] * 40)
        leased = await broker.lease(fresh_name, 20)
        await broker.release(receipt_of(fresh_name, leased[0]))
        assert (await broker.stats(fresh_name)).rate_out == 0
        await ack_all(broker, fresh_name, leased[1:])
        assert (await broker.stats(fresh_name)).rate_out == pytest.approx(1.9)
        await broker.take(fresh_name)
        assert (await broker.stats(fresh_name)).rate_out == pytest.approx(2)
        consumer = FakeConsumer()
        async with streaming(broker, fresh_name, consumer):
            await until(lambda: len(consumer.messages) == 20)
        assert (await broker.stats(fresh_name)).rate_out == pytest.approx(4)
