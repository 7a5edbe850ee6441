"""Who consumes a queue, and what Redis tells of itself; on an instance and on a cluster."""

import asyncio
import time
from types import SimpleNamespace
from typing import cast

from restmq.broker.broker import Broker
from restmq.broker.redis_state import RedisStates
from restmq.broker.stores import Stores
from tests.broker.conftest import MakeBroker, MakeFaultyBroker
from tests.broker.fakes import FakeConsumer
from tests.support import eventually, free_port


async def test_consumers_are_told_by_node(make_broker: MakeBroker, fresh_name: str) -> None:
    """Plain and leased ones of each node, until they leave."""
    one, other = await make_broker(), await make_broker()
    assert await one.presences.of_queue(fresh_name) == []
    plain, leased = FakeConsumer(), FakeConsumer()
    await one.join(fresh_name, plain)
    await other.join_leased(fresh_name, leased, 1)
    expected = sorted([(one.node, 1, 0), (other.node, 0, 1)])
    for broker in (one, other):
        assert await broker.presences.of_queue(fresh_name) == expected
    await one.leave(fresh_name, plain)
    assert await other.presences.of_queue(fresh_name) == [(other.node, 0, 1)]
    await other.leave_leased(fresh_name, leased)


async def test_those_of_dead_nodes_are_told_no_more(
    make_broker: MakeBroker, fresh_name: str
) -> None:
    """By the clock of the Redis that has the queue, which in a cluster need not be the first."""
    one, other = await make_broker(), await make_broker()
    plain, leased = FakeConsumer(), FakeConsumer()
    await one.join(fresh_name, plain)
    await one.join_leased(fresh_name, leased, 1)
    assert await other.presences.of_queue(fresh_name) == [(one.node, 1, 1)]
    other.census_scripts.clock_seconds = time.time() + 3600
    assert await other.presences.of_queue(fresh_name) == []
    await one.leave(fresh_name, plain)
    await one.leave_leased(fresh_name, leased)


async def test_a_redis_that_hangs_does_not_keep_the_others_from_being_asked(
    make_faulty_broker: MakeFaultyBroker,
) -> None:
    (hanging, backend), (other, other_backend) = [await make_faulty_broker() for _ in range(2)]
    stores = SimpleNamespace(disk=hanging._disk, all=lambda: [hanging._disk, other._disk])
    await other.count_queues()
    backend.gate.clear()
    try:
        reading = asyncio.create_task(RedisStates(cast(Stores, stores)).read())
        await eventually(lambda: other_backend.calls_named("INFO"))
        assert not reading.done()
    finally:
        backend.gate.set()
    assert [state.is_memory_only for state in await reading] == [False, True]


async def test_redis_tells_of_itself(broker: Broker) -> None:
    (state,) = await broker.redis_states.read()
    assert state.problem is None
    assert not state.is_memory_only
    assert state.description == broker.description
    assert state.fields["redis_version"].split(".")[0].isdigit()
    assert int(state.fields["used_memory"]) > 0
    assert state.fields["aof_enabled"] in ("0", "1")


async def test_a_redis_out_of_reach_says_so(make_instance_broker: MakeBroker) -> None:
    broker = await make_instance_broker(url=f"redis://user:secret@127.0.0.1:{free_port()}")
    (state,) = await broker.redis_states.read()
    assert state.fields == {}
    assert "out of reach" in str(state.problem)
    assert "secret" not in state.description


async def test_figures_of_several_queues_come_in_the_order_asked_for(
    broker: Broker, fresh_name: str
) -> None:
    names = [f"{fresh_name}-{letter}" for letter in "cab"]
    for count, name in enumerate(names):
        await broker.publish(name, [b"v"] * (count + 1))
    found = await broker.stats_of([*names, f"{fresh_name}-unknown"])
    assert [(each.name, each.length) for each in found[:3]] == list(
        zip(names, (1, 2, 3), strict=True)
    )
    assert found[3].length == 0
