"""Streams: what a slow consumer costs, how a backlog is paced, and what the history keeps."""

from collections import Counter

import pytest
from redis.asyncio import Redis

from restmq.broker import dispatch
from restmq.broker.broker import Policy
from restmq.broker.consumers import End
from restmq.broker.dispatch import MAX_MESSAGES_PER_CALL, StreamLimits
from restmq.broker.keys import queue_keys
from restmq.broker.scripts import HistoryLimits
from tests.broker.conftest import NODE_LIFETIME_SECONDS, MakeBroker
from tests.broker.fakes import (
    FakeConsumer,
    disconnect,
    streaming,
)
from tests.broker.steps import (
    NOON,
    add_many,
    received,
    until,
)

pytestmark = pytest.mark.usefixtures("rare_heartbeat")

PATIENT = StreamLimits(ping_seconds=3600.0)
"""Limits under which nobody is cut off for not reading."""


class TestSlowConsumers:
    async def test_one_that_does_not_read_is_cut_off_and_holds_nobody_up(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker(limits=StreamLimits(outbox_bytes=10_000))
        slow, fast = FakeConsumer(reading=False), FakeConsumer()
        async with streaming(broker, fresh_name, slow, fast):
            for _ in range(50):
                await add_many(broker, fresh_name, 10, size_bytes=100)
            await received([fast], 500)
            assert slow.ended.result() is End.SLOW
            assert not slow.connected
        assert fast.numbers == list(range(1, 501))

    async def test_it_is_never_given_more_than_its_outbox_and_one_batch(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker(limits=StreamLimits(outbox_bytes=10_000))
        highest = 0

        class Measured(FakeConsumer):
            def write(self, data: bytes) -> None:
                nonlocal highest
                super().write(data)
                highest = max(highest, self.unsent_bytes)

        slow, fast = Measured(reading=False), FakeConsumer()
        async with streaming(broker, fresh_name, slow, fast):
            for _ in range(20):
                await add_many(broker, fresh_name, 100, size_bytes=1000)
            await received([fast], 2000)
        assert 10_000 < highest < 10_000 + dispatch.MAX_BYTES_PER_CALL + 2_000

    async def test_under_round_robin_what_it_held_goes_back_and_to_another(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker(limits=StreamLimits(ping_seconds=0.1))
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        slow, fast = FakeConsumer(reading=False), FakeConsumer()
        async with streaming(broker, fresh_name, slow, fast):
            await add_many(broker, fresh_name, 100)
            await until(slow.ended.done)
            assert slow.ended.result() is End.SLOW
            assert await received([fast], 100) == list(range(1, 101))

    async def test_one_that_reads_at_its_own_pace_is_not_cut_off(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker(limits=StreamLimits(ping_seconds=0.1))
        steady, pinged = FakeConsumer(reading=False), FakeConsumer()
        async with streaming(broker, fresh_name, steady, pinged):
            for count in range(1, 11):
                await add_many(broker, fresh_name, 10, size_bytes=100)
                await received([pinged], 10 * count)
                wanted = pinged.ping_count + 2

                def has_read_a_little_during_two_pings(wanted: int = wanted) -> bool:
                    steady.read(20)  # always something, but ever more waits for it
                    return pinged.ping_count >= wanted

                await until(has_read_a_little_during_two_pings)
            assert not steady.ended.done()
            steady.resume()
            assert steady.numbers == list(range(1, 101))

    async def test_idle_consumers_are_kept_awake_and_never_cut_off(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker(limits=StreamLimits(ping_seconds=0.02))
        consumer = FakeConsumer()
        async with streaming(broker, fresh_name, consumer):
            await until(lambda: consumer.ping_count >= 5)
            assert not consumer.ended.done()
        assert consumer.messages == []


class TestPacing:
    @pytest.mark.parametrize("policy", Policy)
    async def test_a_backlog_stays_in_the_queue_until_someone_is_ready_for_it(
        self, make_broker: MakeBroker, fresh_name: str, policy: Policy
    ) -> None:
        one, other = await make_broker(limits=PATIENT), await make_broker(limits=PATIENT)
        await one.set_policy(fresh_name, policy)
        await one.set_started(fresh_name, started=False)
        await add_many(one, fresh_name, 5000)
        consumers = [FakeConsumer(reading=False) for _ in range(4)]
        async with (
            streaming(one, fresh_name, *consumers[:2]),
            streaming(other, fresh_name, *consumers[2:]),
        ):
            await one.set_started(fresh_name, started=True)
            await until(lambda: all(consumer.unsent_bytes for consumer in consumers))
            for _ in range(50):  # each of these wakes both nodes
                await one.add(fresh_name, b"a")
            held = sum(consumer.unsent_bytes for consumer in consumers) // len(b"1234 a\n")
            copies = 4 if policy is Policy.BROADCAST else 1
            assert held <= copies * 2 * MAX_MESSAGES_PER_CALL
            assert (await one.stats(fresh_name)).length >= 5050 - 4 * MAX_MESSAGES_PER_CALL
            for consumer in consumers:
                consumer.resume()
            numbers = await received(consumers, 5050 * copies)
            assert Counter(numbers) == dict.fromkeys(range(1, 5051), copies)

    async def test_a_node_that_is_stuck_is_assigned_no_more_than_two_batches(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        stuck_node, free_node = await make_broker(limits=PATIENT), await make_broker(limits=PATIENT)
        await stuck_node.set_policy(fresh_name, Policy.ROUNDROBIN)
        stuck, free = FakeConsumer(reading=False), FakeConsumer()
        async with (
            streaming(stuck_node, fresh_name, stuck),
            streaming(free_node, fresh_name, free),
        ):
            for _ in range(40):
                await add_many(free_node, fresh_name, 100)
            await received([free], 4000 - 3 * MAX_MESSAGES_PER_CALL)
            assert stuck.unsent_bytes <= MAX_MESSAGES_PER_CALL * len(b"1234 a\n")
            await disconnect(stuck_node, fresh_name, stuck)
            assert await received([free], 4000) == list(range(1, 4001))

    async def test_a_ready_consumer_is_not_held_up_by_many_that_are_not(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker(limits=PATIENT)
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        consumers = [FakeConsumer(reading=False) for _ in range(250)]
        async with streaming(broker, fresh_name, *consumers):
            for _ in range(3):
                await add_many(broker, fresh_name, 500)
            await until(lambda: all(consumer.unsent_bytes for consumer in consumers))
            consumers[-1].resume()
            await received([consumers[-1]], 500)


class TestHistory:
    async def test_no_live_node_misses_anything_of_a_burst(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        one, other = await make_broker(), await make_broker()
        consumers = [FakeConsumer(), FakeConsumer()]
        async with (
            streaming(one, fresh_name, consumers[0]),
            streaming(other, fresh_name, consumers[1]),
        ):
            for _ in range(10):
                await add_many(one, fresh_name, 500)
            await received(consumers, 10_000)
        for consumer in consumers:
            assert consumer.numbers == list(range(1, 5001))

    @pytest.mark.parametrize(
        "history",
        [
            HistoryLimits(max_count=10),
            HistoryLimits(max_count=1, max_bytes=1),
            HistoryLimits(max_bytes=20_000),
        ],
    )
    async def test_nor_if_the_history_is_too_small_for_it(
        self, make_broker: MakeBroker, fresh_name: str, history: HistoryLimits
    ) -> None:
        limits = StreamLimits(history=history)
        one, other = await make_broker(limits=limits), await make_broker(limits=limits)
        consumers = [FakeConsumer(), FakeConsumer()]
        async with (
            streaming(one, fresh_name, consumers[0]),
            streaming(other, fresh_name, consumers[1]),
        ):
            for _ in range(5):
                await add_many(one, fresh_name, 100, size_bytes=100)
            await received(consumers, 1000)
        for consumer in consumers:
            assert consumer.numbers == list(range(1, 501))

    async def test_big_messages_flow_over_several_nodes_without_waiting_for_a_heartbeat(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        limits = StreamLimits(history=HistoryLimits(max_bytes=64 * 1024))
        one, other = await make_broker(limits=limits), await make_broker(limits=limits)
        consumers = [FakeConsumer(), FakeConsumer()]
        async with (
            streaming(one, fresh_name, consumers[0]),
            streaming(other, fresh_name, consumers[1]),
        ):
            for _ in range(60):
                await one.add(fresh_name, b"a" * 16 * 1024)
            await received(consumers, 120)
        for consumer in consumers:
            assert consumer.numbers == list(range(1, 61))

    @pytest.mark.parametrize(
        ("history", "kept"),
        [(HistoryLimits(max_count=50), 50), (HistoryLimits(max_bytes=30 * 134), 30)],
    )
    async def test_no_more_is_kept_than_is_allowed(
        self,
        make_instance_broker: MakeBroker,
        store: "Redis",
        fresh_name: str,
        history: HistoryLimits,
        kept: int,
    ) -> None:
        broker = await make_instance_broker(limits=StreamLimits(history=history))
        consumer = FakeConsumer()
        async with streaming(broker, fresh_name, consumer):
            for count in range(1, 101):
                await broker.add(fresh_name, b"a" * 100)
                await received([consumer], count)
        length = await store.llen(queue_keys(fresh_name, "").history)
        assert kept - 1 <= length <= kept + 2

    async def test_nothing_is_kept_longer_than_is_allowed_or_a_node_may_take_to_read_it(
        self, make_instance_broker: MakeBroker, store: "Redis", fresh_name: str
    ) -> None:
        history = HistoryLimits(max_seconds=600)
        broker = await make_instance_broker(limits=StreamLimits(history=history))
        broker.scripts.clock_seconds = NOON
        consumer = FakeConsumer()
        key = queue_keys(fresh_name, "").history
        async with streaming(broker, fresh_name, consumer):
            await add_many(broker, fresh_name, 100)
            await received([consumer], 100)
            assert await store.llen(key) == 100
            assert 590 < await store.ttl(key) <= 600
            broker.scripts.clock_seconds = NOON + 600
            await broker.add(fresh_name, b"value")
            await received([consumer], 101)
            assert await store.llen(key) <= 2

    async def test_it_does_not_end_before_a_live_node_must_have_read_it(
        self, make_instance_broker: MakeBroker, store: "Redis", fresh_name: str
    ) -> None:
        history = HistoryLimits(max_seconds=1)
        broker = await make_instance_broker(limits=StreamLimits(history=history))
        consumer = FakeConsumer()
        async with streaming(broker, fresh_name, consumer):
            await broker.add(fresh_name, b"value")
            await received([consumer], 1)
            key = queue_keys(fresh_name, "").history
            assert await store.ttl(key) > NODE_LIFETIME_SECONDS - 30

    async def test_after_it_has_ended_the_next_one_is_kept_as_long_as_any(
        self, make_instance_broker: MakeBroker, store: "Redis", fresh_name: str
    ) -> None:
        limits = StreamLimits(history=HistoryLimits(max_bytes=20 * 134))
        one = await make_instance_broker(limits=limits)
        other = await make_instance_broker(limits=limits)
        consumers = [FakeConsumer(), FakeConsumer()]
        key = queue_keys(fresh_name, "").history
        async with (
            streaming(one, fresh_name, consumers[0]),
            streaming(other, fresh_name, consumers[1]),
        ):
            for count in range(1, 41):
                await one.add(fresh_name, b"a" * 100)
                await received(consumers, 2 * count)
            assert 19 <= await store.llen(key) <= 22
            await store.delete(key)
            for count in range(41, 61):
                await one.add(fresh_name, b"a" * 100)
                await received(consumers, 2 * count)
            assert 19 <= await store.llen(key) <= 22
