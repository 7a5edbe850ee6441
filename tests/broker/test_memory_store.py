"""Queues in memory: where they live is fixed, and their settings outlive the second Redis."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from redis.asyncio import Redis

from restmq.broker.broker import Broker, Policy
from restmq.broker.keys import queue_keys
from restmq.errors import InvalidInput, StoreUnavailable, Unavailable
from restmq.redis_process import RedisProcess
from tests.broker.fakes import FakeConsumer, connect, disconnect, streaming
from tests.broker.steps import drain, publish, receipt_of, until, values_of

PATTERNS = {"storage": "memory", "max_attempts": 3}


class TwoStores:
    """Nodes that share one Redis on disk and one in memory."""

    def __init__(self, disk_url: str, memory_url: str) -> None:
        self.disk_url = disk_url
        self.memory_url = memory_url
        self.memory = Redis.from_url(memory_url)
        self.brokers: list[Broker] = []

    async def make(self, patterns: Mapping[str, Any] | None = None) -> Broker:
        """Open one more node."""

        async def memory_url() -> str:
            return self.memory_url

        overrides = None if patterns is None else lambda _: patterns
        broker = Broker(self.disk_url, overrides=overrides, memory_redis_url=memory_url)
        self.brokers.append(broker)
        await broker.open()
        return broker

    async def holds(self, queue: str) -> bool:
        """Whether the queue's messages are in memory."""
        return await self.memory.hlen(queue_keys(queue, "").messages) > 0

    async def lose_everything(self) -> None:
        """Do to the Redis in memory what a restart does."""
        await self.memory.flushall()
        await self.memory.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]

    async def lose_everything_seen_by(self, broker: Broker, queue: str) -> None:
        """Do that, and wait until the node has noticed."""
        await self.lose_everything()
        await until(lambda: queue not in broker._stores.found)


@pytest.fixture
async def stores(redis_url: str, private_redis: RedisProcess) -> AsyncIterator[TwoStores]:
    stores = TwoStores(redis_url, private_redis.url)
    yield stores
    for broker in stores.brokers:
        await broker.close()
    await stores.memory.aclose()


async def test_a_queue_lives_where_its_pattern_says_and_works_there(
    stores: TwoStores, fresh_name: str
) -> None:
    broker, consumer = await stores.make(PATTERNS), FakeConsumer()
    await broker.publish(fresh_name, [b"a", b"b", b"c"])
    assert await stores.holds(fresh_name)
    (leased,) = await broker.lease(fresh_name)
    await broker.ack(receipt_of(fresh_name, leased))
    assert values_of(await broker.take(fresh_name)) == [b"b"]
    async with streaming(broker, fresh_name, consumer):
        await until(lambda: consumer.values == [b"c"])
    assert (await broker.configuration.get(fresh_name)).storage == "memory"
    assert fresh_name in await broker.list_queues(fresh_name[:-1], 1000)


async def test_leases_run_out_and_waiting_callers_wake_there_too(
    stores: TwoStores, fresh_name: str
) -> None:
    broker = await stores.make(PATTERNS)
    await broker.add(fresh_name, b"a")
    await broker.lease(fresh_name, lease_seconds=1)
    other = await stores.make()
    assert values_of(await other.take(fresh_name, wait_seconds=30)) == [b"a"]


async def test_where_a_queue_lives_is_fixed_when_it_is_made(
    stores: TwoStores, fresh_name: str
) -> None:
    plain, patterned = await stores.make(), await stores.make(PATTERNS)
    await plain.add(fresh_name, b"a")
    assert values_of(await patterned.take(fresh_name)) == [b"a"]
    await patterned.add(fresh_name, b"b")
    assert not await stores.holds(fresh_name)
    for broker in (plain, patterned):
        assert (await broker.configuration.get(fresh_name)).storage == "disk"
        with pytest.raises(InvalidInput, match="storage is fixed"):
            await broker.configuration.change(fresh_name, {"storage": "memory", "ttl": 5})
    assert (await plain.configuration.get(fresh_name)).ttl is None
    await plain.configuration.change(fresh_name, {"storage": "disk"})


async def test_a_queue_is_made_in_memory_by_its_settings_and_stays_there_after_a_reset(
    stores: TwoStores, fresh_name: str
) -> None:
    one, other = await stores.make(), await stores.make()
    settings = await one.configuration.change(fresh_name, {"storage": "memory", "max_attempts": 2})
    assert (settings.storage, settings.max_attempts) == ("memory", 2)
    await other.add(fresh_name, b"a")
    assert await stores.holds(fresh_name)
    with pytest.raises(InvalidInput, match="storage is fixed"):
        await other.configuration.change(fresh_name, {"storage": "disk"})
    settings = await other.configuration.reset(fresh_name)
    assert (settings.storage, settings.max_attempts) == ("memory", 5)
    assert values_of(await one.take(fresh_name)) == [b"a"]


async def test_settings_outlive_the_redis_in_memory_on_nodes_old_and_new(
    stores: TwoStores, fresh_name: str
) -> None:
    old = await stores.make()
    changes = {"storage": "memory", "max_length": 1, "max_attempts": 2}
    await old.configuration.change(fresh_name, changes)
    await old.set_policy(fresh_name, Policy.ROUNDROBIN)
    await old.set_started(fresh_name, started=False)
    await old.add(fresh_name, b"lost")
    await stores.lose_everything()
    new = await stores.make()
    for broker in (new, old):

        async def is_as_before(broker: Broker = broker) -> bool:
            settings = await broker.configuration.get(fresh_name)
            kept = (settings.max_length, settings.max_attempts, settings.policy, settings.status)
            return kept == (1, 2, "roundrobin", "stop")

        await until(is_as_before)
    await old.add(fresh_name, b"new")
    assert values_of(await new.take(fresh_name)) == [b"new"]


async def test_an_old_node_copies_the_settings_by_itself_when_that_redis_is_back(
    stores: TwoStores, fresh_name: str
) -> None:
    broker = await stores.make()
    await broker.configuration.change(fresh_name, {"storage": "memory", "max_attempts": 2})
    await broker.add(fresh_name, b"lost")
    await stores.lose_everything()

    async def is_as_before() -> bool:
        return (await broker.configuration.get(fresh_name)).max_attempts == 2

    await until(is_as_before)


async def test_without_a_second_redis_there_is_no_queue_in_memory(
    instance_broker: Broker, fresh_name: str
) -> None:
    with pytest.raises(InvalidInput, match="no second Redis"):
        await instance_broker.configuration.change(fresh_name, {"storage": "memory"})
    assert fresh_name not in await instance_broker.list_queues(fresh_name[:-1])


async def test_queues_on_disk_and_in_memory_are_listed_together_by_name(
    stores: TwoStores, fresh_name: str
) -> None:
    broker = await stores.make()
    names = [f"{fresh_name}-{letter}" for letter in "abcdef"]
    for index, name in enumerate(names):
        storage = ("memory", "disk")[index % 2]
        await broker.configuration.change(name, {"storage": storage})
    assert (await broker.list_queues(fresh_name, 6)) == names
    assert (await broker.list_queues(names[2], 2)) == names[3:5]


async def test_copies_cross_from_one_to_the_other(stores: TwoStores, fresh_name: str) -> None:
    broker, target = await stores.make(), f"{fresh_name}-memory"
    await broker.configuration.change(target, {"storage": "memory"})
    await broker.configuration.change(fresh_name, {"copies_to": [target]})
    await broker.add(fresh_name, b"a")
    assert await stores.holds(target)
    assert values_of(await broker.take(target)) == [b"a"]


async def test_consumers_leave_the_right_store_after_its_redis_lost_everything(
    stores: TwoStores, fresh_name: str
) -> None:
    broker, consumer, leased = await stores.make(), FakeConsumer(), FakeConsumer()
    await broker.configuration.change(fresh_name, {"storage": "memory"})
    await connect(broker, fresh_name, consumer)
    await broker.join_leased(fresh_name, leased, 1)
    broker.begin_leased(fresh_name, leased)
    assert broker.consumer_count == 2
    await stores.lose_everything_seen_by(broker, fresh_name)
    await disconnect(broker, fresh_name, consumer)
    leased.cut_off()
    await broker.leave_leased(fresh_name, leased)
    assert broker.consumer_count == 0
    assert (await broker.stats(fresh_name)).consumers == 0


async def test_what_is_given_back_after_the_loss_stays_in_memory(
    stores: TwoStores, fresh_name: str
) -> None:
    broker = await stores.make()
    await broker.configuration.change(fresh_name, {"storage": "memory"})
    await broker.add(fresh_name, b"a")
    taken = await broker.take(fresh_name)
    await stores.lose_everything_seen_by(broker, fresh_name)
    broker.give_back(fresh_name, taken)
    assert values_of(await broker.take(fresh_name, wait_seconds=30)) == [b"a"]


async def test_copies_are_made_though_numbers_begin_anew(
    stores: TwoStores, fresh_name: str
) -> None:
    broker, target = await stores.make(), f"{fresh_name}-disk"
    changes = {"storage": "memory", "copies_to": [target]}
    await broker.configuration.change(fresh_name, changes)
    assert await broker.add(fresh_name, b"a") == 1
    await stores.lose_everything_seen_by(broker, fresh_name)
    assert await broker.add(fresh_name, b"b") == 1
    assert values_of(await drain(broker, target)) == [b"a", b"b"]


async def test_a_change_that_only_the_disk_got_reaches_memory_before_the_next_use(
    stores: TwoStores, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = await stores.make()
    changes = {"storage": "memory", "max_length": 1, "policy": "roundrobin", "status": "stop"}
    await broker.configuration.change(fresh_name, changes)
    memory = broker._stores.located(fresh_name)

    def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable("gone for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(memory.committer, "submit", fail)
        with pytest.raises(StoreUnavailable):
            await broker.configuration.reset(fresh_name)
    await publish(broker, fresh_name, [b"a", b"b"])
    settings = await broker.configuration.get(fresh_name)
    assert (settings.max_length, settings.status, settings.storage) == (None, "start", "memory")
    assert (await broker.stats(fresh_name)).policy is None


async def test_listing_starts_no_second_redis_and_needs_none(
    stores: TwoStores, redis_url: str, fresh_name: str
) -> None:
    broker, names = await stores.make(), [f"{fresh_name}-disk", f"{fresh_name}-memory"]
    await broker.configuration.change(names[1], {"storage": "memory", "policy": "roundrobin"})
    for name in names:
        await broker.add(name, b"a")
    asked = []

    async def refuse() -> str:
        asked.append(True)
        raise Unavailable("cannot be started")

    async with Broker(redis_url, memory_redis_url=refuse) as other:
        disk, memory = await other.list_stats(fresh_name, 2)
        assert not asked
        assert (disk.name, disk.length) == (names[0], 1)
        assert (memory.name, memory.length, memory.policy) == (names[1], 0, Policy.ROUNDROBIN)
        with pytest.raises(Unavailable, match="cannot be started"):
            await other.stats(names[1])
    assert [stats.length for stats in await broker.list_stats(fresh_name, 2)] == [1, 1]


async def test_listing_goes_on_while_the_second_redis_is_out_of_reach(
    stores: TwoStores, private_redis: RedisProcess, fresh_name: str
) -> None:
    broker, names = await stores.make(), [f"{fresh_name}-disk", f"{fresh_name}-memory"]
    await broker.configuration.change(names[1], {"storage": "memory"})
    for name in names:
        await broker.add(name, b"a")
    await private_redis.stop()
    stats = await broker.list_stats(fresh_name, 2)
    assert [(entry.name, entry.length) for entry in stats] == [(names[0], 1), (names[1], 0)]
