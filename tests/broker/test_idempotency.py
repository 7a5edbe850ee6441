"""Idempotency keys: a publish that is repeated stores nothing and is answered as the first was."""

import asyncio

import pytest

from restmq.broker.broker import Broker
from restmq.errors import InvalidInput, QueueFull, StoreUnavailable
from tests.broker.conftest import MakeBroker, MakeFaultyBroker
from tests.broker.invariants import check_keys
from tests.broker.steps import NOON, drain, numbers_of, publish, values_of, visit


async def test_the_same_key_again_is_answered_as_the_first_time(
    broker: Broker, fresh_name: str
) -> None:
    first = await publish(broker, fresh_name, [b"a", b"b"], idempotency_key="key")
    again = await publish(broker, fresh_name, [b"other"], idempotency_key="key")
    assert (first.number, first.total, first.is_duplicate) == (1, 2, False)
    assert (again.number, again.total, again.is_duplicate) == (1, 2, True)
    other = await publish(broker, fresh_name, [b"c"], idempotency_key="other key")
    assert (other.number, other.is_duplicate) == (3, False)
    assert values_of(await drain(broker, fresh_name)) == [b"a", b"b", b"c"]


async def test_it_stays_known_when_the_message_is_gone(broker: Broker, fresh_name: str) -> None:
    await publish(broker, fresh_name, [b"a"], idempotency_key="key")
    assert len(await broker.take(fresh_name)) == 1
    again = await publish(broker, fresh_name, [b"a"], idempotency_key="key")
    assert (again.number, again.is_duplicate) == (1, True)


async def test_a_purge_forgets_keys_because_their_messages_are_gone(
    broker: Broker, fresh_name: str
) -> None:
    await publish(broker, fresh_name, [b"a", b"b"], idempotency_key="key")
    await broker.purge(fresh_name)
    after = await publish(broker, fresh_name, [b"c"], idempotency_key="key")
    assert (after.number, after.is_duplicate) == (3, False)
    again = await publish(broker, fresh_name, [b"c"], idempotency_key="key")
    assert (again.number, again.is_duplicate) == (3, True)
    assert values_of(await drain(broker, fresh_name)) == [b"c"]
    await check_keys(broker, fresh_name)


async def test_queues_share_no_keys(broker: Broker, fresh_name: str) -> None:
    for name in (fresh_name, f"{fresh_name}-2"):
        added = await publish(broker, name, [b"a"], idempotency_key="key")
        assert not added.is_duplicate


async def test_after_dedupe_seconds_a_key_is_new(broker: Broker, fresh_name: str) -> None:
    broker.scripts.clock_seconds = NOON
    await publish(broker, fresh_name, [b"a"], idempotency_key="default")
    await broker.configuration.change(fresh_name, {"dedupe_seconds": 5})
    await publish(broker, fresh_name, [b"b"], idempotency_key="key")
    broker.scripts.clock_seconds = NOON + 4.9
    assert (await publish(broker, fresh_name, [b"b"], idempotency_key="key")).is_duplicate
    broker.scripts.clock_seconds = NOON + 5
    assert not (await publish(broker, fresh_name, [b"b"], idempotency_key="key")).is_duplicate
    broker.scripts.clock_seconds = NOON + 299
    assert (await publish(broker, fresh_name, [b"a"], idempotency_key="default")).is_duplicate
    broker.scripts.clock_seconds = NOON + 300
    assert not (await publish(broker, fresh_name, [b"a"], idempotency_key="default")).is_duplicate


async def test_zero_dedupe_seconds_remember_nothing(broker: Broker, fresh_name: str) -> None:
    await broker.configuration.change(fresh_name, {"dedupe_seconds": 0})
    for _ in range(2):
        assert not (await publish(broker, fresh_name, [b"a"], idempotency_key="key")).is_duplicate
    await check_keys(broker, fresh_name)


async def test_of_many_at_once_on_two_nodes_one_is_stored(
    make_broker: MakeBroker, fresh_name: str
) -> None:
    nodes = [await make_broker(), await make_broker()]
    adds = [publish(node, fresh_name, [b"a"], idempotency_key="key") for node in nodes * 20]
    outcomes = await asyncio.gather(*adds)
    assert {added.number for added in outcomes} == {1}
    assert [added.is_duplicate for added in outcomes].count(False) == 1
    assert numbers_of(await drain(nodes[0], fresh_name)) == [1]


async def test_a_publish_whose_reply_was_lost_can_be_repeated(
    make_faulty_broker: MakeFaultyBroker, fresh_name: str
) -> None:
    broker, backend = await make_faulty_broker()
    await broker.add(fresh_name, b"first")
    backend.lose_next("add")
    with pytest.raises(StoreUnavailable):
        await publish(broker, fresh_name, [b"a", b"b"], idempotency_key="key")
    again = await publish(broker, fresh_name, [b"a", b"b"], idempotency_key="key")
    assert (again.number, again.total, again.is_duplicate) == (2, 2, True)
    assert values_of(await drain(broker, fresh_name)) == [b"first", b"a", b"b"]


async def test_a_refused_publish_is_not_remembered(broker: Broker, fresh_name: str) -> None:
    await broker.configuration.change(fresh_name, {"max_length": 1})
    await broker.add(fresh_name, b"in the way")
    with pytest.raises(QueueFull):
        await publish(broker, fresh_name, [b"a"], idempotency_key="key")
    await drain(broker, fresh_name)
    assert not (await publish(broker, fresh_name, [b"a"], idempotency_key="key")).is_duplicate


@pytest.mark.parametrize("key", ["a" * 128, "\u00e9\n \0", "copy x:1"])
async def test_any_text_of_up_to_128_characters_is_a_key(
    broker: Broker, fresh_name: str, key: str
) -> None:
    assert not (await publish(broker, fresh_name, [b"a"], idempotency_key=key)).is_duplicate
    assert (await publish(broker, fresh_name, [b"a"], idempotency_key=key)).is_duplicate


@pytest.mark.parametrize("key", ["", "a" * 129])
async def test_a_bad_key_is_refused(instance_broker: Broker, fresh_name: str, key: str) -> None:
    with pytest.raises(InvalidInput, match="id must have"):
        await publish(instance_broker, fresh_name, [b"a"], idempotency_key=key)


async def test_old_keys_leave_memory_though_nobody_publishes_any_more(
    broker: Broker, fresh_name: str
) -> None:
    broker.scripts.clock_seconds = NOON
    adds = (publish(broker, fresh_name, [b"a"], idempotency_key=f"{n}") for n in range(3000))
    await asyncio.gather(*adds)
    assert await visit(broker, fresh_name) == NOON + 300
    broker.scripts.clock_seconds = NOON + 300
    assert await visit(broker, fresh_name) is None
    await check_keys(broker, fresh_name)
