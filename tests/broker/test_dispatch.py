"""Streams: what the consumers of a queue receive, on one node and on several."""

import asyncio
import random
from collections import Counter

import pytest

from restmq.broker.broker import Broker, Policy
from tests.broker.conftest import MakeBroker
from tests.broker.fakes import (
    FakeConsumer,
    LineEncoding,
    connect,
    disconnect,
    streaming,
)
from tests.broker.steps import (
    NOON,
    add_many,
    drain,
    length_is,
    numbers_of,
    received,
    until,
)

pytestmark = pytest.mark.usefixtures("rare_heartbeat")


class TestBroadcast:
    async def test_every_consumer_on_every_node_gets_every_message_in_order(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        one, other, publisher = await make_broker(), await make_broker(), await make_broker()
        consumers = [FakeConsumer() for _ in range(4)]
        async with (
            streaming(one, fresh_name, *consumers[:2]),
            streaming(other, fresh_name, *consumers[2:]),
        ):
            for value in (b"a", b"b", b"c"):
                await publisher.add(fresh_name, value)
            for consumer in consumers:
                await received([consumer], 3)
                assert consumer.messages == [(1, b"a"), (2, b"b"), (3, b"c")]
            assert await publisher.take(fresh_name) == []

    async def test_the_backlog_goes_to_the_first_who_connects(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        await add_many(broker, fresh_name, 1000)
        first, second = FakeConsumer(), FakeConsumer()
        async with streaming(broker, fresh_name, first):
            await received([first], 1000)
            async with streaming(broker, fresh_name, second):
                await broker.add(fresh_name, b"new")
                await received([second], 1)
                await received([first], 1001)
        assert first.numbers == list(range(1, 1002))
        assert second.messages == [(1001, b"new")]

    async def test_a_message_is_encoded_once_for_all_consumers_of_a_format(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        encoding = LineEncoding()
        consumers = [FakeConsumer(encoding) for _ in range(50)]
        async with streaming(broker, fresh_name, *consumers):
            await add_many(broker, fresh_name, 10)
            await received(consumers, 500)
        assert encoding.encoded_count == 10

    async def test_a_publisher_on_the_same_node_reaches_consumers_everywhere(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        one, other = await make_broker(), await make_broker()
        here, there = FakeConsumer(), FakeConsumer()
        async with streaming(one, fresh_name, here), streaming(other, fresh_name, there):
            for number in range(1, 51):
                await (one, other)[number % 2].add(fresh_name, b"value")
            await received([here], 50)
            await received([there], 50)
        assert here.numbers == there.numbers == list(range(1, 51))

    async def test_expired_messages_reach_nobody(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        broker.scripts.clock_seconds = NOON
        for ttl_seconds in (1, 100, 1, 100):
            await broker.add(fresh_name, b"value", ttl_seconds=ttl_seconds)
        broker.scripts.clock_seconds = NOON + 50
        consumer = FakeConsumer()
        async with streaming(broker, fresh_name, consumer):
            await received([consumer], 2)
            await broker.add(fresh_name, b"last")
            await received([consumer], 3)
        assert consumer.numbers == [2, 4, 5]


class TestRoundRobin:
    async def test_each_message_goes_to_one_consumer_in_the_order_of_their_connection(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        consumers = [FakeConsumer() for _ in range(3)]
        async with streaming(broker, fresh_name, *consumers):
            for _ in range(9):
                await broker.add(fresh_name, b"value")
            assert await received(consumers, 9) == list(range(1, 10))
        assert [consumer.numbers for consumer in consumers] == [[1, 4, 7], [2, 5, 8], [3, 6, 9]]

    async def test_a_burst_rotates_message_by_message_too(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        await add_many(broker, fresh_name, 900)
        consumers = [FakeConsumer() for _ in range(3)]
        for consumer in consumers:
            await broker.join(fresh_name, consumer)
        for consumer in consumers:
            broker.begin(fresh_name, consumer)
        await received(consumers, 900)
        for index, consumer in enumerate(consumers):
            assert consumer.numbers == list(range(index + 1, 901, 3))
            await disconnect(broker, fresh_name, consumer)

    async def test_over_several_nodes_every_consumer_gets_its_equal_share_and_none_twice(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        one, other, publisher = await make_broker(), await make_broker(), await make_broker()
        await publisher.set_policy(fresh_name, Policy.ROUNDROBIN)
        consumers = [FakeConsumer() for _ in range(3)]
        async with (
            streaming(one, fresh_name, *consumers[:2]),
            streaming(other, fresh_name, consumers[2]),
        ):
            await add_many(publisher, fresh_name, 150)
            for _ in range(150):
                await publisher.add(fresh_name, b"value")
            assert await received(consumers, 300) == list(range(1, 301))
        assert [len(consumer.messages) for consumer in consumers] == [100, 100, 100]
        assert await length_is(publisher, fresh_name, 0)

    async def test_a_single_consumer_gets_all_in_order(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        consumer = FakeConsumer()
        async with streaming(broker, fresh_name, consumer):
            await add_many(broker, fresh_name, 1000)
            await received([consumer], 1000)
        assert consumer.numbers == list(range(1, 1001))

    async def test_one_with_unsent_bytes_is_passed_over(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        slow, fast = FakeConsumer(reading=False), FakeConsumer()
        async with streaming(broker, fresh_name, slow, fast):
            await broker.add(fresh_name, b"a")
            await until(lambda: slow.unsent_bytes)
            for _ in range(50):
                await broker.add(fresh_name, b"b")
            await received([fast], 50)
            slow.resume()
            assert slow.numbers == [1]
            await add_many(broker, fresh_name, 10)
            assert await received([slow, fast], 61) == list(range(1, 62))
            assert len(slow.messages) == 6

    async def test_what_a_broken_connection_had_not_sent_goes_to_the_next_in_turn(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        breaking, other = FakeConsumer(), FakeConsumer()
        await connect(broker, fresh_name, breaking)
        await add_many(broker, fresh_name, 5)
        await received([breaking], 5)
        breaking.pause()
        await add_many(broker, fresh_name, 10)
        await until(lambda: breaking.unsent_bytes)
        async with streaming(broker, fresh_name, other):
            await disconnect(broker, fresh_name, breaking)
            await received([other], 10)
        assert breaking.numbers == [1, 2, 3, 4, 5]
        assert other.numbers == list(range(6, 16))

    async def test_a_write_that_breaks_halfway_loses_nothing(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        await add_many(broker, fresh_name, 10)
        breaking, other = FakeConsumer(reading=False), FakeConsumer()
        await connect(broker, fresh_name, breaking)
        await until(lambda: breaking.unsent_bytes)
        breaking.read(9)  # two lines of four bytes each, and a bit of the third
        async with streaming(broker, fresh_name, other):
            await disconnect(broker, fresh_name, breaking)
            # How far the last write came is not known, so the first two may come once more.
            await until(lambda: {*breaking.numbers, *other.numbers} == {*range(1, 11)})
        assert other.numbers == sorted(set(other.numbers))
        assert other.numbers[-8:] == list(range(3, 11))

    async def test_what_was_for_a_node_that_leaves_goes_to_the_others(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        staying, leaving = await make_broker(), await make_broker()
        await staying.set_policy(fresh_name, Policy.ROUNDROBIN)
        held, free = FakeConsumer(), FakeConsumer()
        await leaving.join(fresh_name, held)  # counted, but not yet begun
        async with streaming(staying, fresh_name, free):
            await add_many(staying, fresh_name, 100)
            assert len(await received([free], 50)) == 50
            await leaving.leave(fresh_name, held)
            assert await received([free], 100) == list(range(1, 101))
        assert held.messages == []

    async def test_a_closing_node_gives_back_what_was_for_it(
        self, make_broker: MakeBroker, broker_redis_url: str, fresh_name: str
    ) -> None:
        staying, closing = await make_broker(), Broker(broker_redis_url)
        await closing.open()
        await staying.set_policy(fresh_name, Policy.ROUNDROBIN)
        stuck, free = FakeConsumer(reading=False), FakeConsumer()
        await connect(closing, fresh_name, stuck)
        async with streaming(staying, fresh_name, free):
            await add_many(staying, fresh_name, 100)
            await received([free], 50)
            await until(lambda: stuck.unsent_bytes)
            stuck.cut_off()
            await closing.close()
            assert await received([free], 100) == list(range(1, 101))

    async def test_while_consumers_come_and_go_on_all_nodes_each_message_arrives_once(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        nodes = [await make_broker() for _ in range(3)]
        await nodes[0].set_policy(fresh_name, Policy.ROUNDROBIN)
        everyone: list[FakeConsumer] = []
        publishing = True

        async def come_and_go(node: Broker, seed: int) -> None:
            randomness = random.Random(seed)
            while publishing:
                consumer = FakeConsumer()
                everyone.append(consumer)
                await connect(node, fresh_name, consumer)
                for _ in range(randomness.randrange(5)):
                    await node.ping()
                await disconnect(node, fresh_name, consumer)

        visitors = [
            asyncio.create_task(come_and_go(node, seed))
            for seed, node in enumerate([*nodes, *nodes])
        ]
        for index in range(60):
            await add_many(nodes[index % 3], fresh_name, 20)
        publishing = False
        await asyncio.gather(*visitors)
        left = numbers_of(await drain(nodes[0], fresh_name))
        arrived = [number for consumer in everyone for number in consumer.numbers]
        assert Counter(left + arrived) == dict.fromkeys(range(1, 1201), 1)


class TestControl:
    @pytest.mark.parametrize("policy", Policy)
    async def test_a_stopped_queue_keeps_its_messages_until_it_is_started(
        self, make_broker: MakeBroker, fresh_name: str, policy: Policy
    ) -> None:
        one, other = await make_broker(), await make_broker()
        await one.set_policy(fresh_name, policy)
        await other.set_started(fresh_name, started=False)
        consumers = [FakeConsumer(), FakeConsumer()]
        async with (
            streaming(one, fresh_name, consumers[0]),
            streaming(other, fresh_name, consumers[1]),
        ):
            await add_many(one, fresh_name, 10)
            for _ in range(10):  # each of these wakes both nodes
                await other.add(fresh_name, b"value")
            assert (await one.stats(fresh_name)).length == 20
            assert [consumer.messages for consumer in consumers] == [[], []]
            await one.set_started(fresh_name, started=True)
            copies = 2 if policy is Policy.BROADCAST else 1
            numbers = await received(consumers, 20 * copies)
            assert Counter(numbers) == dict.fromkeys(range(1, 21), copies)

    async def test_the_policy_can_change_between_two_messages(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        consumers = [FakeConsumer(), FakeConsumer()]
        async with streaming(broker, fresh_name, *consumers):
            await broker.add(fresh_name, b"to both")
            await received(consumers, 2)
            await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
            await broker.add(fresh_name, b"to one")
            await received(consumers, 3)
            await broker.set_policy(fresh_name, Policy.BROADCAST)
            await broker.add(fresh_name, b"to both")
            assert await received(consumers, 5) == [1, 1, 2, 3, 3]

    async def test_messages_stay_while_nobody_is_connected(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        consumer = FakeConsumer()
        async with streaming(broker, fresh_name, consumer):
            await broker.add(fresh_name, b"a")
            await received([consumer], 1)
        await broker.add(fresh_name, b"b")
        assert consumer.messages == [(1, b"a")]
        assert numbers_of(await drain(broker, fresh_name)) == [2]

    async def test_the_consumers_of_all_nodes_are_counted(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        one, other = await make_broker(), await make_broker()
        consumers = [FakeConsumer() for _ in range(3)]
        async with (
            streaming(one, fresh_name, *consumers[:2]),
            streaming(other, fresh_name, consumers[2]),
        ):
            assert (await one.stats(fresh_name)).consumers == 3
            assert (one.consumer_count, other.consumer_count) == (2, 1)
        assert (await other.stats(fresh_name)).consumers == 0
        assert (one.consumer_count, other.consumer_count) == (0, 0)
