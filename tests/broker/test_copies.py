"""Fan-out: every message of a queue goes to the queues named by copies_to as well, exactly once."""

import asyncio

import pytest
from redis.asyncio import Redis

from restmq.broker import copies
from restmq.broker.broker import Broker
from restmq.broker.copies import Copy
from restmq.broker.keys import queue_keys
from restmq.errors import Overloaded, StoreUnavailable
from tests.broker.conftest import MakeBroker, MakeFaultyBroker
from tests.broker.fakes import FakeConsumer, streaming, vanish
from tests.broker.steps import NOON, add_all, drain, publish, until, values_of


async def fan_out(broker: Broker, queue: str, *targets: str) -> None:
    """Have a queue copied."""
    await broker.configuration.change(queue, {"copies_to": list(targets)})


async def test_every_message_is_there_when_its_publisher_is_answered(
    broker: Broker, fresh_name: str
) -> None:
    one, two = f"{fresh_name}-1", f"{fresh_name}-2"
    await fan_out(broker, fresh_name, one, two)
    values = [b"%d" % n for n in range(250)]
    await publish(broker, fresh_name, values[:150])
    await add_all(broker, fresh_name, *values[150:])
    for name in (fresh_name, one, two):
        assert values_of(await drain(broker, name)) == values


async def test_a_copy_keeps_value_type_priority_delay_and_expiry(
    broker: Broker, fresh_name: str
) -> None:
    broker.scripts.clock_seconds = NOON
    target = f"{fresh_name}-1"
    await fan_out(broker, fresh_name, target)
    await broker.add(fresh_name, b"\xff", content_type="image/png")
    await publish(broker, fresh_name, [b"urgent"], priority=9, ttl_seconds=60)
    await publish(broker, fresh_name, [b"later"], delay_seconds=10)
    urgent, plain = await broker.peek(target, 9)
    assert (urgent.value, urgent.priority, urgent.expires) == (b"urgent", 9, NOON + 60)
    assert (plain.value, plain.attributes.content_type) == (b"\xff", "image/png")
    assert (await broker.stats(target)).delayed == 1
    broker.scripts.clock_seconds = NOON + 60
    assert values_of(await broker.take(target, 9)) == [b"\xff", b"later"]


async def test_copies_are_not_copied_again_in_chains_or_circles(
    broker: Broker, fresh_name: str
) -> None:
    names = [f"{fresh_name}-{n}" for n in range(3)]
    for index, name in enumerate(names):
        await fan_out(broker, name, names[(index + 1) % 3])
    await broker.add(names[0], b"a")
    assert [(await broker.stats(name)).length for name in names] == [1, 1, 0]


async def test_a_full_queue_takes_copies_because_their_publisher_was_promised_them(
    broker: Broker, fresh_name: str
) -> None:
    target = f"{fresh_name}-1"
    await broker.configuration.change(target, {"max_length": 1})
    await fan_out(broker, fresh_name, target)
    await add_all(broker, fresh_name, b"a", b"b", b"c")
    assert values_of(await drain(broker, target)) == [b"a", b"b", b"c"]


async def test_streams_of_the_other_queue_get_them(broker: Broker, fresh_name: str) -> None:
    consumer, target = FakeConsumer(), f"{fresh_name}-1"
    await fan_out(broker, fresh_name, target)
    async with streaming(broker, target, consumer):
        await broker.add(fresh_name, b"a")
        await until(lambda: consumer.values == [b"a"])


async def test_a_repeated_publish_makes_no_second_copy(broker: Broker, fresh_name: str) -> None:
    target = f"{fresh_name}-1"
    await fan_out(broker, fresh_name, target)
    for _ in range(3):
        await publish(broker, fresh_name, [b"a"], idempotency_key="key")
    assert values_of(await drain(broker, target)) == [b"a"]


async def test_a_publisher_cannot_take_the_place_of_a_copy(broker: Broker, fresh_name: str) -> None:
    target = f"{fresh_name}-1"
    await fan_out(broker, fresh_name, target)
    await publish(broker, target, [b"mine"], idempotency_key=f"copy {fresh_name}:1")
    await broker.add(fresh_name, b"a")
    assert values_of(await drain(broker, target)) == [b"mine", b"a"]


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_a_dead_node_left_on_the_way_another_carries_once(
    make_broker: MakeBroker, fresh_name: str, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    monkeypatch.setattr(copies, "RETRY_SECONDS", 0.5)
    dead, target = await make_broker(), f"{fresh_name}-1"
    await fan_out(dead, fresh_name, target)
    await dead.configuration.change(target, {"dedupe_seconds": 0})
    copier = dead._stores.disk.copier
    store = copier._store

    async def store_and_die(queue: str, copy: Copy, key: str) -> None:
        if arrives:
            await store(queue, copy, key)
        raise StoreUnavailable("killed in between")

    monkeypatch.setattr(copier, "_store", store_and_die)
    with pytest.raises(StoreUnavailable):
        await publish(dead, fresh_name, [b"a", b"b"])
    await vanish(dead)
    node = await make_broker()
    seen = []
    while len(seen) < 2:
        taken = await node.take(target, 9, wait_seconds=30)
        assert taken
        seen += values_of(taken)
    await node.add(fresh_name, b"c")
    assert sorted(seen) == [b"a", b"b"]
    assert values_of(await drain(node, target)) == [b"c"]


async def test_a_lost_reply_makes_no_second_copy(
    make_faulty_broker: MakeFaultyBroker,
    store: "Redis",
    fresh_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copies, "RETRY_SECONDS", 0.5)
    broker, backend = await make_faulty_broker()
    target = f"{fresh_name}-1"
    await fan_out(broker, fresh_name, target)
    await broker.add(target, b"first")
    seen = 0

    def loses_the_copy(names: list[str]) -> bool:
        nonlocal seen
        seen += "add" in names
        return "add" in names and seen == 2

    backend.loses = loses_the_copy
    with pytest.raises(StoreUnavailable):
        await broker.add(fresh_name, b"a")

    async def has_arrived() -> bool:
        return await store.llen(queue_keys(fresh_name, "").copies) == 0

    await until(has_arrived, 30)
    assert values_of(await drain(broker, target)) == [b"first", b"a"]


async def test_two_nodes_that_carry_at_once_make_no_second_copy(
    make_broker: MakeBroker, fresh_name: str
) -> None:
    nodes, target = [await make_broker(), await make_broker()], f"{fresh_name}-1"
    await fan_out(nodes[0], fresh_name, target)
    adds = (node.add(fresh_name, b"%d" % n) for n in range(100) for node in nodes)
    await asyncio.gather(*adds)
    copied = [message.value for message in await drain(nodes[0], target)]
    assert sorted(copied) == sorted([b"%d" % n for n in range(100)] * 2)


async def test_a_purge_does_not_lose_what_is_on_its_way(
    instance_broker: Broker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, target = instance_broker, f"{fresh_name}-1"
    await fan_out(broker, fresh_name, target)
    copier = broker._stores.disk.copier
    store, purged = copier._store, asyncio.Event()

    async def store_after_purge(queue: str, copy: Copy, key: str) -> None:
        await purged.wait()
        await store(queue, copy, key)

    monkeypatch.setattr(copier, "_store", store_after_purge)
    adding = asyncio.ensure_future(broker.add(fresh_name, b"a"))

    async def is_stored() -> bool:
        return (await broker.stats(fresh_name)).length == 1

    await until(is_stored)
    await broker.purge(fresh_name)
    purged.set()
    await adding
    assert values_of(await drain(broker, target)) == [b"a"]


async def test_a_copy_that_is_sent_again_after_a_purge_is_still_known(
    instance_broker: Broker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, target = instance_broker, f"{fresh_name}-1"
    sent: list[tuple[str, Copy, str]] = []
    copier = broker._stores.disk.copier
    store = copier._store

    async def note_and_store(queue: str, copy: Copy, key: str) -> None:
        sent.append((queue, copy, key))
        await store(queue, copy, key)

    monkeypatch.setattr(copier, "_store", note_and_store)
    await fan_out(broker, fresh_name, target)
    await broker.add(fresh_name, b"a")
    await broker.purge(target)
    await store(*sent[0])
    assert (await broker.stats(target)).length == 0


async def test_a_message_that_got_the_number_of_a_lost_one_is_not_taken_for_it(
    instance_broker: Broker, store: "Redis", fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, target, keys = instance_broker, f"{fresh_name}-1", queue_keys(fresh_name, "")
    await fan_out(broker, fresh_name, target)
    copier = broker._stores.disk.copier
    carry, later = copier._store, []

    async def is_on_its_way() -> bool:
        return await store.llen(keys.copies) == 1

    async def carry_and_lose(queue: str, copy: Copy, key: str) -> None:
        await carry(queue, copy, key)
        if not later:
            await store.delete(keys.copies, keys.messages, keys.ready)
            await store.hdel(keys.record, "next")
            later.append(asyncio.ensure_future(broker.add(fresh_name, b"b")))
            await until(is_on_its_way)

    monkeypatch.setattr(copier, "_store", carry_and_lose)
    await broker.add(fresh_name, b"a")
    assert await later[0] == 1
    assert values_of(await drain(broker, target)) == [b"a", b"b"]


async def test_publishers_are_refused_while_too_many_copies_wait(
    instance_broker: Broker, store: "Redis", fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, target, keys = instance_broker, f"{fresh_name}-1", queue_keys(fresh_name, "")
    await fan_out(broker, fresh_name, target)

    async def fail(queue: str, copy: Copy, key: str) -> None:
        raise StoreUnavailable("the other Redis is away")

    with monkeypatch.context() as patch:
        patch.setattr(broker._stores.disk.copier, "_store", fail)
        for _ in range(10):
            with pytest.raises(StoreUnavailable):
                await publish(broker, fresh_name, [b"a"] * 1000)
        with pytest.raises(Overloaded, match="too many copies"):
            await broker.add(fresh_name, b"b")
        with pytest.raises(Overloaded, match="too many copies"):
            await publish(broker, fresh_name, [b"b"], idempotency_key="key")
    assert (await broker.stats(fresh_name)).length == 10_000
    await store.delete(keys.copies)
    assert not (await publish(broker, fresh_name, [b"c"], idempotency_key="key")).is_duplicate
    assert values_of(await drain(broker, target)) == [b"c"]


async def test_a_publisher_is_not_told_yes_if_redis_lost_copies_on_their_way(
    instance_broker: Broker, store: "Redis", fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, target, keys = instance_broker, f"{fresh_name}-1", queue_keys(fresh_name, "")
    await fan_out(broker, fresh_name, target)
    copier = broker._stores.disk.copier
    carry = copier._store

    async def carry_and_lose(queue: str, copy: Copy, key: str) -> None:
        await carry(queue, copy, key)
        if copy.number == copies.MAX_CARRIED:
            await store.delete(keys.copies, keys.messages, keys.ready)
            await store.hdel(keys.record, "next")

    monkeypatch.setattr(copier, "_store", carry_and_lose)
    with pytest.raises(StoreUnavailable, match="Redis lost the queue"):
        await publish(broker, fresh_name, [b"a"] * (copies.MAX_CARRIED + 1))
    assert (await broker.stats(target)).length == copies.MAX_CARRIED
