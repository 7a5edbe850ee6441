"""Broadcast messages whose last consumer left while they were on their way to it."""

import asyncio

import pytest

from restmq.broker.broker import Broker
from restmq.broker.resume import Gap
from tests.broker.conftest import MakeBroker, MakeFaultyBroker
from tests.broker.fakes import FakeConsumer, FaultyBackend, connect, disconnect
from tests.broker.steps import add_all, length_is, until


async def leave_while_it_is_delivered(
    broker: Broker, backend: FaultyBackend, queue: str
) -> "asyncio.Task[None]":
    """Have the only consumer leave between Redis's answer and its arrival; returns the leaving."""
    consumer = FakeConsumer()
    await connect(broker, queue, consumer)
    await until(lambda: "deliver" in backend.round_trips[-1])
    backend.reply_gate.clear()
    adding = asyncio.ensure_future(broker.add(queue, b"a"))
    while not adding.done():
        await until(lambda: bool(backend.awaited))
        if "deliver" in backend.awaited:
            break
        backend.reply_gate.set()
        await asyncio.sleep(0)
        backend.reply_gate.clear()
    await until(lambda: "deliver" in backend.awaited)
    leaving = asyncio.ensure_future(disconnect(broker, queue, consumer))
    await asyncio.sleep(0)
    return leaving


async def test_they_are_ready_again_and_sent_to_nobody(
    make_faulty_broker: MakeFaultyBroker, fresh_name: str
) -> None:
    """In the queue once, and no more in the history: one that resumes gets them once."""
    broker, backend = await make_faulty_broker()
    leaving = await leave_while_it_is_delivered(broker, backend, fresh_name)
    backend.reply_gate.set()
    await leaving
    await until(lambda: length_is(broker, fresh_name, 1))
    consumer = FakeConsumer()
    await broker.join(fresh_name, consumer)
    missed = [found async for found in broker.read_missed(fresh_name, consumer, 0)]
    broker.begin(fresh_name, consumer)
    assert missed == []
    await until(lambda: consumer.values == [b"a"])
    await disconnect(broker, fresh_name, consumer)
    assert await length_is(broker, fresh_name, 0)


async def test_one_that_comes_before_redis_hears_of_it_gets_them_once(
    make_faulty_broker: MakeFaultyBroker, fresh_name: str
) -> None:
    """The next consumer of the node, be it there to resume or not."""
    broker, backend = await make_faulty_broker()
    leaving = await leave_while_it_is_delivered(broker, backend, fresh_name)
    consumer = FakeConsumer()
    joining = asyncio.ensure_future(broker.join(fresh_name, consumer))
    await asyncio.sleep(0)
    backend.reply_gate.set()
    await asyncio.gather(leaving, joining)
    missed = [found async for found in broker.read_missed(fresh_name, consumer, 0)]
    broker.begin(fresh_name, consumer)
    await broker.add(fresh_name, b"b")
    await until(lambda: consumer.values == [b"a", b"b"])
    assert missed == []
    await disconnect(broker, fresh_name, consumer)


async def test_one_that_resumed_elsewhere_meanwhile_does_not_get_them_again(
    make_faulty_broker: MakeFaultyBroker, make_instance_broker: MakeBroker, fresh_name: str
) -> None:
    """It found them in the history, so they must not come back into the queue."""
    broker, backend = await make_faulty_broker()
    other = await make_instance_broker()
    leaving = await leave_while_it_is_delivered(broker, backend, fresh_name)
    consumer = FakeConsumer()
    await other.join(fresh_name, consumer)
    got: list[bytes] = []
    async for found in other.read_missed(fresh_name, consumer, 0):
        assert not isinstance(found, Gap)
        got += [message.value for message in found]
    other.begin(fresh_name, consumer)
    backend.reply_gate.set()
    await leaving
    await other.add(fresh_name, b"b")
    await until(lambda: consumer.values == [b"b"])
    assert got == [b"a"]
    assert await length_is(other, fresh_name, 0)
    await disconnect(other, fresh_name, consumer)


@pytest.mark.parametrize("count", [1, 3])
async def test_what_others_broadcast_before_does_not_come_back(
    instance_broker: Broker, make_instance_broker: MakeBroker, fresh_name: str, count: int
) -> None:
    """Only what nobody can have received does."""
    other = await make_instance_broker()
    here, there = FakeConsumer(), FakeConsumer()
    await connect(instance_broker, fresh_name, here)
    await connect(other, fresh_name, there)
    await add_all(other, fresh_name, *[b"x"] * count)
    await until(lambda: len(there.values) == count)
    await disconnect(other, fresh_name, there)
    await disconnect(instance_broker, fresh_name, here)
    assert await length_is(other, fresh_name, 0)
