"""How many wait on a node, in whatever way they come and go."""

import asyncio

import pytest

from restmq.broker.broker import Broker
from restmq.errors import StoreUnavailable
from tests.broker.conftest import MakeBroker, MakeFaultyBroker
from tests.support import eventually


def nothing() -> None:
    """Be called."""


def counted(broker: Broker) -> int:
    """Count those who wait one by one."""
    interests = broker._disk.listeners._interests.values()
    return sum(not consumers for each in interests for _, consumers in each.owners.values())


async def test_those_who_wait_are_counted_until_they_leave(
    make_instance_broker: MakeBroker, fresh_name: str
) -> None:
    """Whoever stands for leased consumers does not wait, while there are any."""
    broker = await make_instance_broker()
    listeners = broker._disk.listeners
    names = [f"{fresh_name}-{number}" for number in range(3)]
    waiting = [asyncio.create_task(broker.take(name, 1, 30)) for name in names for _ in range(2)]
    await eventually(lambda: listeners.waiting_count == counted(broker) == 6)
    await listeners.listen(names[0], "stream", nothing, 2)
    assert listeners.waiting_count == counted(broker) == 6
    listeners.recount(names[0], "stream", 0)
    assert listeners.waiting_count == counted(broker) == 7
    await listeners.listen(names[0], "stream", nothing, 3)
    listeners.recount(names[0], "unknown", 0)
    assert listeners.waiting_count == counted(broker) == 6
    listeners.forget(names[0], "stream")
    listeners.forget(names[0], "stream")
    await broker.add(names[0], b"for one of them")
    await eventually(lambda: listeners.waiting_count == counted(broker) == 5)
    for each in waiting[2:]:
        each.cancel()
    await asyncio.gather(*waiting[2:], return_exceptions=True)
    assert listeners.waiting_count == counted(broker) == 1
    await broker.close()
    assert listeners.waiting_count == counted(broker) == 0


async def test_who_could_not_be_told_of_is_not_counted(
    make_faulty_broker: MakeFaultyBroker, fresh_name: str
) -> None:
    broker, backend = await make_faulty_broker()
    listeners = broker._disk.listeners
    backend.lose_next("listen")
    with pytest.raises(StoreUnavailable):
        await listeners.listen(fresh_name, "one", nothing)
    assert listeners.waiting_count == counted(broker) == 0
    await listeners.listen(fresh_name, "one", nothing)
    backend.lose_next("listen")
    with pytest.raises(StoreUnavailable):
        await listeners.listen(fresh_name, "one", nothing, 4)
    assert listeners.waiting_count == counted(broker) == 1
    listeners.forget(fresh_name, "one")
    assert listeners.waiting_count == counted(broker) == 0
