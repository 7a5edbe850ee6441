"""Streams: what the consumers of a queue receive, on one node and on several."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from redis.asyncio import Redis

from restmq.broker import dispatch
from restmq.broker.broker import Broker, Policy
from restmq.broker.consumers import End
from restmq.broker.dispatch import MAX_MESSAGES_PER_CALL, StreamLimits
from restmq.broker.keys import queue_keys
from restmq.broker.scripts import HistoryLimits
from restmq.errors import RestMQError, StoreUnavailable
from restmq.redis_process import RedisProcess
from tests.broker.conftest import MakeBroker, MakeFaultyBroker
from tests.broker.fakes import (
    FakeConsumer,
    LineEncoding,
    connect,
    disconnect,
    execute,
    streaming,
    until,
    vanish,
)

NODE_LIFETIME_SECONDS = 300.0
NOON = 1_700_000_000.0
PATIENT = StreamLimits(ping_seconds=3600.0)
"""Limits under which nobody is cut off for not reading."""


@pytest.fixture(autouse=True)
def _rare_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the heartbeat come so rarely that nothing here can be its doing."""
    monkeypatch.setattr(dispatch, "NODE_LIFETIME_SECONDS", NODE_LIFETIME_SECONDS)


async def add_all(broker: Broker, queue: str, count: int, size_bytes: int = 1) -> None:
    """Add ``count`` messages at once."""
    await asyncio.gather(*(broker.add(queue, b"a" * size_bytes) for _ in range(count)))


async def drain(broker: Broker, queue: str) -> list[int]:
    """Take all that is there and return the numbers."""
    numbers = []
    while messages := await broker.take(queue, 500):
        numbers += [message.number for message in messages]
    return numbers


async def has_length(broker: Broker, queue: str, length: int) -> bool:
    """Whether so many messages wait."""
    return (await broker.stats(queue)).length == length


async def received(consumers: Sequence[FakeConsumer], count: int) -> list[int]:
    """Wait until the consumers have ``count`` messages between them; returns all numbers."""
    await until(lambda: sum(len(c.messages) for c in consumers) >= count, 30)
    return sorted(number for consumer in consumers for number in consumer.numbers)


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
        await add_all(broker, fresh_name, 1000)
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
            await add_all(broker, fresh_name, 10)
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
        await add_all(broker, fresh_name, 900)
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
            await add_all(publisher, fresh_name, 150)
            for _ in range(150):
                await publisher.add(fresh_name, b"value")
            assert await received(consumers, 300) == list(range(1, 301))
        assert [len(consumer.messages) for consumer in consumers] == [100, 100, 100]
        assert await has_length(publisher, fresh_name, 0)

    async def test_a_single_consumer_gets_all_in_order(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        consumer = FakeConsumer()
        async with streaming(broker, fresh_name, consumer):
            await add_all(broker, fresh_name, 1000)
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
            await add_all(broker, fresh_name, 10)
            assert await received([slow, fast], 61) == list(range(1, 62))
            assert len(slow.messages) == 6

    async def test_what_a_broken_connection_had_not_sent_goes_to_the_next_in_turn(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        breaking, other = FakeConsumer(), FakeConsumer()
        await connect(broker, fresh_name, breaking)
        await add_all(broker, fresh_name, 5)
        await received([breaking], 5)
        breaking.pause()
        await add_all(broker, fresh_name, 10)
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
        await add_all(broker, fresh_name, 10)
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
            await add_all(staying, fresh_name, 100)
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
            await add_all(staying, fresh_name, 100)
            await received([free], 50)
            await until(lambda: stuck.unsent_bytes)
            stuck.cut_off()
            await closing.close()
            assert await received([free], 100) == list(range(1, 101))


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
            await add_all(one, fresh_name, 10)
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
        assert await drain(broker, fresh_name) == [2]

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


class TestEnds:
    @pytest.mark.parametrize("policy", Policy)
    async def test_a_purge_ends_the_streams_of_all_nodes(
        self, make_broker: MakeBroker, fresh_name: str, policy: Policy
    ) -> None:
        one, other, purger = await make_broker(), await make_broker(), await make_broker()
        await purger.set_policy(fresh_name, policy)
        consumers = [FakeConsumer() for _ in range(3)]
        async with (
            streaming(one, fresh_name, *consumers[:2]),
            streaming(other, fresh_name, consumers[2]),
        ):
            await purger.purge(fresh_name)
            async with asyncio.timeout(10):
                ends = await asyncio.gather(*(consumer.ended for consumer in consumers))
            assert ends == [End.PURGED] * 3

    async def test_one_who_joined_before_a_purge_ends_even_if_it_had_not_begun(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker, purger = await make_broker(), await make_broker()
        consumer = FakeConsumer()
        await broker.join(fresh_name, consumer)
        await purger.purge(fresh_name)
        broker.begin(fresh_name, consumer)
        async with asyncio.timeout(10):
            assert await consumer.ended is End.PURGED
        await broker.leave(fresh_name, consumer)

    async def test_one_who_joins_after_a_purge_gets_what_comes_after_it(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker, publisher = await make_broker(), await make_broker()
        before, after = FakeConsumer(), FakeConsumer()
        await connect(broker, fresh_name, before)
        await add_all(publisher, fresh_name, 3)
        await received([before], 3)
        await publisher.purge(fresh_name)
        async with streaming(broker, fresh_name, after):
            await publisher.add(fresh_name, b"new")
            await received([after], 1)
            assert after.messages == [(4, b"new")]
            assert not after.ended.done()
            assert before.ended.result() is End.PURGED
        await disconnect(broker, fresh_name, before)

    async def test_what_a_purged_stream_had_not_sent_does_not_come_back(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker, purger = await make_broker(), await make_broker()
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        consumer = FakeConsumer(reading=False)
        await connect(broker, fresh_name, consumer)
        await add_all(purger, fresh_name, 10)
        await until(lambda: consumer.unsent_bytes)
        await purger.purge(fresh_name)
        await until(consumer.ended.done)
        await disconnect(broker, fresh_name, consumer)
        assert await drain(purger, fresh_name) == []

    @pytest.mark.parametrize("policy", Policy)
    async def test_a_stream_that_has_ended_takes_nothing_off_the_queue(
        self, make_broker: MakeBroker, fresh_name: str, policy: Policy
    ) -> None:
        broker, publisher = await make_broker(), await make_broker()
        await publisher.set_policy(fresh_name, policy)
        consumer = FakeConsumer()
        await connect(broker, fresh_name, consumer)
        broker.end_streams(End.DRAIN)
        assert consumer.ended.result() is End.DRAIN
        for _ in range(20):
            await publisher.add(fresh_name, b"value")
            await broker.ping()
        await disconnect(broker, fresh_name, consumer)
        await until(lambda: has_length(publisher, fresh_name, 20))
        assert await drain(publisher, fresh_name) == list(range(1, 21))

    async def test_the_end_of_a_node_reaches_those_who_have_joined_but_not_begun(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        begun, joined = FakeConsumer(), FakeConsumer()
        await connect(broker, fresh_name, begun)
        await broker.join(fresh_name, joined)
        broker.end_streams(End.DRAIN)
        assert begun.ended.result() is End.DRAIN
        assert joined.ended.result() is End.DRAIN
        for consumer in (begun, joined):
            await disconnect(broker, fresh_name, consumer)


class TestSlowConsumers:
    async def test_one_that_does_not_read_is_cut_off_and_holds_nobody_up(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker(limits=StreamLimits(outbox_bytes=10_000))
        slow, fast = FakeConsumer(reading=False), FakeConsumer()
        async with streaming(broker, fresh_name, slow, fast):
            for _ in range(50):
                await add_all(broker, fresh_name, 10, size_bytes=100)
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
                await add_all(broker, fresh_name, 100, size_bytes=1000)
            await received([fast], 2000)
        assert 10_000 < highest < 10_000 + dispatch.MAX_BYTES_PER_CALL + 2_000

    async def test_under_round_robin_what_it_held_goes_back_and_to_another(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker(limits=StreamLimits(ping_seconds=0.1))
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        slow, fast = FakeConsumer(reading=False), FakeConsumer()
        async with streaming(broker, fresh_name, slow, fast):
            await add_all(broker, fresh_name, 100)
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
                # It always reads something, but ever more waits for it.
                await add_all(broker, fresh_name, 10, size_bytes=100)
                await received([pinged], 10 * count)
                pings = pinged.ping_count
                while pinged.ping_count < pings + 2:
                    steady.read(50)
                    await asyncio.sleep(0.01)
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
        await add_all(one, fresh_name, 5000)
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
                await add_all(free_node, fresh_name, 100)
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
                await add_all(broker, fresh_name, 500)
            await until(lambda: all(consumer.unsent_bytes for consumer in consumers))
            consumers[-1].resume()
            await received([consumers[-1]], 500)


class TestVanishedNodes:
    async def test_what_was_assigned_to_a_dead_node_comes_back_when_its_time_is_over(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        living, dying = await make_broker(), await make_broker()
        living.scripts.clock_seconds = dying.scripts.clock_seconds = NOON
        await living.set_policy(fresh_name, Policy.ROUNDROBIN)
        gone, consumer = FakeConsumer(), FakeConsumer()
        await connect(dying, fresh_name, gone)
        await vanish(dying)
        async with streaming(living, fresh_name, consumer):
            await add_all(living, fresh_name, 100)
            assert len(await received([consumer], 50)) == 50
            assert (await living.stats(fresh_name)).consumers == 2
            living.scripts.clock_seconds = NOON + NODE_LIFETIME_SECONDS + 1
            await living.add(fresh_name, b"value")
            assert await received([consumer], 101) == list(range(1, 102))
            assert (await living.stats(fresh_name)).consumers == 1

    async def test_it_can_be_taken_when_no_node_streams_any_more(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        one, other, reader = await make_broker(), await make_broker(), await make_broker()
        for broker in (one, other, reader):
            broker.scripts.clock_seconds = NOON
        await one.set_policy(fresh_name, Policy.ROUNDROBIN)
        await connect(other, fresh_name, FakeConsumer())
        await vanish(other)
        consumer = FakeConsumer()
        async with streaming(one, fresh_name, consumer):
            await add_all(reader, fresh_name, 20)
            await received([consumer], 10)
        assert (await reader.stats(fresh_name)).length == 10
        reader.scripts.clock_seconds = NOON + NODE_LIFETIME_SECONDS + 1
        left = await drain(reader, fresh_name)
        assert sorted(left + consumer.numbers) == list(range(1, 21))

    async def test_under_broadcast_a_dead_node_holds_nobody_up_once_its_time_is_over(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        living, dying = await make_broker(), await make_broker()
        living.scripts.clock_seconds = dying.scripts.clock_seconds = NOON
        await connect(dying, fresh_name, FakeConsumer())
        await vanish(dying)
        consumer = FakeConsumer()
        async with streaming(living, fresh_name, consumer):
            await add_all(living, fresh_name, 3000)
            await received([consumer], 500)
            living.scripts.clock_seconds = NOON + NODE_LIFETIME_SECONDS + 1
            await received([consumer], 3000)
        assert consumer.numbers == list(range(1, 3001))


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
                await add_all(one, fresh_name, 500)
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
                await add_all(one, fresh_name, 100, size_bytes=100)
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
            await add_all(broker, fresh_name, 100)
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


class TestFaults:
    @pytest.mark.parametrize("policy", Policy)
    async def test_every_second_delivery_lost_loses_and_doubles_nothing(
        self,
        make_faulty_broker: MakeFaultyBroker,
        make_instance_broker: MakeBroker,
        fresh_name: str,
        policy: Policy,
    ) -> None:
        (broker, backend), publisher = await make_faulty_broker(), await make_instance_broker()
        await broker.set_policy(fresh_name, policy)
        consumer = FakeConsumer()
        turn = 0

        def every_second(names: list[str]) -> bool:
            nonlocal turn
            turn += "deliver" in names
            return "deliver" in names and turn % 2 == 1

        async with streaming(broker, fresh_name, consumer):
            backend.loses = every_second
            for count in range(1, 11):
                await add_all(publisher, fresh_name, 50)
                await received([consumer], 50 * count)
        assert backend.lost_count >= 10
        assert consumer.numbers == list(range(1, 501))

    @pytest.mark.parametrize("policy", Policy)
    async def test_a_node_that_closes_while_messages_are_on_their_way_loses_none(
        self,
        make_faulty_broker: MakeFaultyBroker,
        make_instance_broker: MakeBroker,
        fresh_name: str,
        policy: Policy,
    ) -> None:
        (broker, backend), publisher = await make_faulty_broker(), await make_instance_broker()
        await broker.set_policy(fresh_name, policy)
        consumer, witness = FakeConsumer(), FakeConsumer()
        await connect(broker, fresh_name, consumer)
        if policy is Policy.BROADCAST:
            await connect(publisher, fresh_name, witness)
        backend.reply_gate.clear()
        await add_all(publisher, fresh_name, 10)
        await until(lambda: "deliver" in backend.awaited)
        closing = asyncio.ensure_future(broker.close())
        for _ in range(20):
            await asyncio.sleep(0)
        backend.reply_gate.set()
        await closing
        if policy is Policy.BROADCAST:
            await received([witness], 10)
            await disconnect(publisher, fresh_name, witness)
        else:
            left = await drain(publisher, fresh_name)
            assert sorted(left + consumer.numbers) == list(range(1, 11))

    async def test_a_lost_subscription_is_renewed_and_nothing_is_missed(
        self, make_instance_broker: MakeBroker, private_redis: RedisProcess, fresh_name: str
    ) -> None:
        broker = await make_instance_broker(url=private_redis.url)
        publisher = await make_instance_broker(url=private_redis.url)
        consumer = FakeConsumer()
        client = Redis.from_url(private_redis.url)
        async with streaming(broker, fresh_name, consumer):
            for count in range(1, 4):
                await execute(client, "CLIENT", "KILL", "TYPE", "pubsub")
                await publisher.add(fresh_name, b"value")
                await received([consumer], count)
        await client.aclose()
        assert consumer.numbers == [1, 2, 3]

    async def test_a_stream_goes_on_when_redis_has_lost_all_it_knew(
        self,
        make_instance_broker: MakeBroker,
        private_redis: RedisProcess,
        fresh_name: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(dispatch, "NODE_LIFETIME_SECONDS", 1.0)
        broker = await make_instance_broker(url=private_redis.url)
        publisher = await make_instance_broker(url=private_redis.url)
        consumer = FakeConsumer()
        client = Redis.from_url(private_redis.url)
        async with streaming(broker, fresh_name, consumer):
            await add_all(publisher, fresh_name, 500)
            await received([consumer], 500)
            await client.flushall()
            await add_all(publisher, fresh_name, 3)
            await received([consumer], 503)
        await client.aclose()
        assert consumer.numbers[500:] == [1, 2, 3]

    async def test_one_who_comes_after_a_failed_goodbye_gets_nothing_of_the_time_between(
        self,
        make_faulty_broker: MakeFaultyBroker,
        make_instance_broker: MakeBroker,
        fresh_name: str,
    ) -> None:
        (broker, backend), other = await make_faulty_broker(), await make_instance_broker()
        first, second, witness = FakeConsumer(), FakeConsumer(), FakeConsumer()
        async with streaming(other, fresh_name, witness):
            await connect(broker, fresh_name, first)
            backend.lose_next("join")
            await disconnect(broker, fresh_name, first)
            assert backend.lost_count == 1
            await other.add(fresh_name, b"between")
            await received([witness], 1)
            async with streaming(broker, fresh_name, second):
                await other.add(fresh_name, b"after")
                await received([second], 1)
            assert second.values == [b"after"]

    async def test_one_who_cannot_join_is_told_and_is_not_counted_for_long(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dispatch, "NODE_LIFETIME_SECONDS", 0.3)
        broker, backend = await make_faulty_broker()
        backend.lose_next("join")
        with pytest.raises(StoreUnavailable):
            await broker.join(fresh_name, FakeConsumer())

        async def counts_nobody() -> bool:
            return (await broker.stats(fresh_name)).consumers == 0

        await until(counts_nobody)
        assert broker.consumer_count == 0

    async def test_a_refused_word_of_a_node_does_not_stop_its_heartbeat(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dispatch, "NODE_LIFETIME_SECONDS", 0.3)
        broker, backend = await make_faulty_broker()
        consumer = FakeConsumer()
        await connect(broker, fresh_name, consumer)
        backend.refuses = lambda name: RestMQError("refused") if name == "join" else None
        await disconnect(broker, fresh_name, consumer)
        limit = backend.calls_named("join") + 3
        await until(lambda: backend.calls_named("join") >= limit)
        backend.refuses = lambda name: None

        async def counts_nobody() -> bool:
            return (await broker.stats(fresh_name)).consumers == 0

        await until(counts_nobody)
