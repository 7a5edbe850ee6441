"""The settings of queues: what is set for one, over patterns, over the defaults."""

import pytest

from restmq.broker.broker import Broker, Policy
from restmq.errors import InvalidInput
from restmq.queue_settings import QueueSettings
from tests.broker.conftest import MakeBroker, MakeFaultyBroker
from tests.broker.fakes import FakeConsumer, streaming
from tests.broker.steps import NOON, drain, receipt_of, until, values_of


async def test_an_unknown_queue_has_the_defaults_and_stays_unknown(
    broker: Broker, fresh_name: str
) -> None:
    assert await broker.configuration.get(fresh_name) == QueueSettings()
    assert fresh_name not in await broker.list_queues(fresh_name[:-1])


async def test_what_is_changed_is_in_force_on_every_node_and_the_rest_is_as_before(
    make_broker: MakeBroker, fresh_name: str
) -> None:
    one, other = await make_broker(), await make_broker()
    changes = {"max_attempts": 2, "ttl": 60, "policy": "roundrobin", "copies_to": ["x", "y"]}
    changed = await one.configuration.change(fresh_name, changes)
    assert changed == QueueSettings(
        max_attempts=2, ttl=60, policy="roundrobin", copies_to=("x", "y")
    )
    assert await other.configuration.get(fresh_name) == changed
    changed = await other.configuration.change(fresh_name, {"ttl": None, "lease_seconds": 1.5})
    assert (changed.ttl, changed.lease_seconds, changed.max_attempts) == (None, 1.5, 2)
    assert await one.configuration.get(fresh_name) == changed


async def test_a_reset_returns_to_the_defaults(broker: Broker, fresh_name: str) -> None:
    await broker.configuration.change(fresh_name, {"max_attempts": 2, "status": "stop"})
    assert await broker.configuration.reset(fresh_name) == QueueSettings()
    assert await broker.configuration.get(fresh_name) == QueueSettings()
    assert (await broker.stats(fresh_name)).started


@pytest.mark.parametrize(
    "changes",
    [
        {"max_attempts": 2, "colour": "red"},
        {"max_attempts": -1},
        {"ttl": "soon"},
        {"storage": "memory", "overflow": "burst"},
        {"storage": "memory"},
        [],
    ],
)
async def test_if_anything_is_wrong_nothing_is_changed(
    instance_broker: Broker, fresh_name: str, changes: object
) -> None:
    before = await instance_broker.configuration.change(fresh_name, {"max_attempts": 7})
    with pytest.raises(InvalidInput):
        await instance_broker.configuration.change(fresh_name, changes)
    assert await instance_broker.configuration.get(fresh_name) == before


async def test_the_classic_policy_and_status_are_the_same_settings(
    broker: Broker, fresh_name: str
) -> None:
    await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
    await broker.set_started(fresh_name, started=False)
    settings = await broker.configuration.get(fresh_name)
    assert (settings.policy, settings.status) == ("roundrobin", "stop")
    await broker.configuration.change(fresh_name, {"policy": "broadcast", "status": "start"})
    stats = await broker.stats(fresh_name)
    assert (stats.policy, stats.started) == (Policy.BROADCAST, True)


async def test_a_ttl_and_a_delay_hold_for_messages_that_name_none(
    broker: Broker, fresh_name: str
) -> None:
    broker.scripts.clock_seconds = NOON
    await broker.configuration.change(fresh_name, {"ttl": 10, "delay": 5})
    await broker.add(fresh_name, b"default")
    await broker.publish(fresh_name, [b"own"], ttl_seconds=100, delay_seconds=0)
    assert values_of(await broker.peek(fresh_name, 9)) == [b"own"]
    broker.scripts.clock_seconds = NOON + 5
    assert values_of(await broker.peek(fresh_name, 9)) == [b"default", b"own"]
    broker.scripts.clock_seconds = NOON + 10
    assert values_of(await broker.peek(fresh_name, 9)) == [b"own"]


async def test_patterns_hold_where_nothing_was_set_and_none_takes_their_limit_away(
    redis_url: str, fresh_name: str
) -> None:
    patterns = {"ttl": 10, "max_length": 1, "max_attempts": 1, "overflow": "drop-oldest"}
    async with Broker(redis_url, overrides=lambda _: patterns) as broker:
        broker.scripts.clock_seconds = NOON
        await broker.add(fresh_name, b"a")
        await broker.add(fresh_name, b"b")
        assert values_of(await broker.peek(fresh_name, 9)) == [b"b"]
        settings = await broker.configuration.get(fresh_name)
        assert (settings.ttl, settings.max_length, settings.max_attempts) == (10, 1, 1)
        changes = {"ttl": "none", "max_length": "none", "max_attempts": 9}
        changed = await broker.configuration.change(fresh_name, changes)
        assert (changed.ttl, changed.max_length, changed.max_attempts) == (None, None, 9)
        await broker.add(fresh_name, b"c")
        broker.scripts.clock_seconds = NOON + 1000
        assert values_of(await broker.take(fresh_name, 9)) == [b"c"]


class TestPausing:
    async def test_a_stopped_queue_gives_streams_nothing_until_it_is_started(
        self, broker: Broker, fresh_name: str
    ) -> None:
        consumer = FakeConsumer()
        await broker.configuration.change(fresh_name, {"status": "stop"})
        async with streaming(broker, fresh_name, consumer):
            await broker.add(fresh_name, b"a")
            assert (await broker.stats(fresh_name)).length == 1
            assert consumer.values == []
            await broker.configuration.change(fresh_name, {"status": "start"})
            await until(lambda: consumer.values == [b"a"])

    async def test_takers_and_lessees_are_served_all_the_same(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await broker.configuration.change(fresh_name, {"status": "stop"})
        await broker.publish(fresh_name, [b"a", b"b"])
        (leased,) = await broker.lease(fresh_name)
        await broker.ack(receipt_of(fresh_name, leased))
        assert values_of(await drain(broker, fresh_name)) == [b"b"]


async def test_a_change_is_made_by_one_call_so_that_nothing_is_half_done(
    make_faulty_broker: MakeFaultyBroker, fresh_name: str
) -> None:
    broker, backend = await make_faulty_broker()
    changes = {"policy": "roundrobin", "status": "stop", "ttl": 5, "max_attempts": 2}
    changed = await broker.configuration.change(fresh_name, changes)
    assert backend.calls_named("configure") == 1
    assert changed == QueueSettings(policy="roundrobin", status="stop", ttl=5, max_attempts=2)
    taken_back = {"policy": None, "status": "start", "ttl": None}
    changed = await broker.configuration.change(fresh_name, taken_back)
    assert backend.calls_named("configure") == 2
    assert changed == QueueSettings(max_attempts=2)
    assert await broker.configuration.get(fresh_name) == changed
