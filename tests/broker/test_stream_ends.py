"""Streams: how they end, and what becomes of their messages when a node or a reply is lost."""

import asyncio

import pytest
from redis.asyncio import Redis

from restmq.broker import dispatch
from restmq.broker.broker import Policy
from restmq.broker.consumers import End
from restmq.errors import RestMQError, StoreUnavailable
from restmq.redis_process import RedisProcess
from tests.broker.conftest import NODE_LIFETIME_SECONDS, MakeBroker, MakeFaultyBroker
from tests.broker.fakes import (
    FakeConsumer,
    connect,
    disconnect,
    streaming,
    vanish,
)
from tests.broker.steps import (
    NOON,
    add_many,
    drain,
    execute,
    length_is,
    numbers_of,
    received,
    until,
)

pytestmark = pytest.mark.usefixtures("rare_heartbeat")


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
        await add_many(publisher, fresh_name, 3)
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
        await add_many(purger, fresh_name, 10)
        await until(lambda: consumer.unsent_bytes)
        await purger.purge(fresh_name)
        await until(consumer.ended.done)
        await disconnect(broker, fresh_name, consumer)
        assert numbers_of(await drain(purger, fresh_name)) == []

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
        await until(lambda: length_is(publisher, fresh_name, 20))
        assert numbers_of(await drain(publisher, fresh_name)) == list(range(1, 21))

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
            await add_many(living, fresh_name, 100)
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
            await add_many(reader, fresh_name, 20)
            await received([consumer], 10)
        assert (await reader.stats(fresh_name)).length == 10
        reader.scripts.clock_seconds = NOON + NODE_LIFETIME_SECONDS + 1
        left = numbers_of(await drain(reader, fresh_name))
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
            await add_many(living, fresh_name, 3000)
            await received([consumer], 500)
            living.scripts.clock_seconds = NOON + NODE_LIFETIME_SECONDS + 1
            await received([consumer], 3000)
        assert consumer.numbers == list(range(1, 3001))


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
                await add_many(publisher, fresh_name, 50)
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
        await broker.ping()  # the first look at the empty queue is over
        backend.reply_gate.clear()
        await add_many(publisher, fresh_name, 10)
        await until(lambda: "deliver" in backend.awaited)
        await until(lambda: length_is(publisher, fresh_name, 0))
        closing = asyncio.ensure_future(broker.close())
        for _ in range(20):
            await asyncio.sleep(0)
        backend.reply_gate.set()
        await closing
        if policy is Policy.BROADCAST:
            await received([witness], 10)
            await disconnect(publisher, fresh_name, witness)
        else:
            left = numbers_of(await drain(publisher, fresh_name))
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
            await add_many(publisher, fresh_name, 500)
            await received([consumer], 500)
            await client.flushall()
            await add_many(publisher, fresh_name, 3)
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
