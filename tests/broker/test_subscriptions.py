"""Holders of several queues: what they hold over outages, purges and long times, and whose turn."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import cast

import pytest

from restmq.broker import sources
from restmq.broker import store as store_module
from restmq.broker.backend import Backend, open_backend
from restmq.broker.broker import Broker
from restmq.broker.groups import Added
from restmq.broker.holders import Binding, Delivery, Holder
from restmq.broker.message import pack
from restmq.broker.messaging import Messaging
from restmq.broker.scripts import Call, Script, Settlement
from restmq.errors import QueueFull, StoreUnavailable
from restmq.redis_process import RedisProcess
from tests.broker.conftest import MakeFaultyBroker
from tests.broker.fakes import FaultyBackend
from tests.broker.steps import add_many, publish, until, values_of


class FakeHolder(Holder):
    """Takes what it gets; ``refuses`` says which values it cannot take."""

    def __init__(self, prefetch: int) -> None:
        super().__init__(prefetch)
        self.held: list[Delivery] = []
        self.values: list[bytes] = []
        self.expired: list[Delivery] = []
        self.refuses: Callable[[bytes], bool] = lambda value: False

    @property
    def is_able(self) -> bool:
        """Always."""
        return True

    def deliver(self, binding: Binding, deliveries: Sequence[Delivery]) -> None:
        """Keep them."""
        for delivery in deliveries:
            if self.refuses(delivery.message.value):
                raise ValueError("this cannot be taken")
            self.held.append(delivery)
            self.values.append(delivery.message.value)

    def expire(self, delivery: Delivery) -> None:
        """Keep it no more."""
        self.expired.append(delivery)
        if delivery in self.held:
            self.held.remove(delivery)


@contextlib.asynccontextmanager
async def subscribing(
    broker: Broker, lease_seconds: float = 30.0, max_attempts: int = 5
) -> AsyncIterator[Messaging]:
    """Open the messaging of a node."""
    messaging = Messaging(broker, lambda queue: True, lease_seconds, max_attempts)
    try:
        yield messaging
    finally:
        await messaging.close()


async def bind(messaging: Messaging, queue: str, holder: Holder) -> Binding:
    """Bind with the prefetch of the holder."""
    subscriptions = messaging.subscriptions
    return await subscriptions.bind(queue, holder, holder.prefetch, is_counted=True, owner=None)


def down(name: str) -> StoreUnavailable:
    """Refuse all calls."""
    return StoreUnavailable("Redis is away")


class Memory:
    """A node with a second Redis that can be made to fail, and another node that it cannot."""

    def __init__(self, broker: Broker, other: Broker, opened: list[FaultyBackend]) -> None:
        self.broker = broker
        self.other = other
        self._opened = opened

    @property
    def backend(self) -> FaultyBackend:
        """The way of the first node to the second Redis."""
        return self._opened[0]


@pytest.fixture
async def memory(
    redis_url: str, private_redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Memory]:
    """Two nodes with two stores."""
    opened: list[FaultyBackend] = []
    faulty = True

    def opening(url: str, scripts: Sequence[Script]) -> Backend:
        backend = open_backend(url, scripts)
        if url != private_redis.url or not faulty:
            return backend
        opened.append(FaultyBackend(backend))
        return cast(Backend, opened[-1])

    async def memory_url() -> str:
        return private_redis.url

    monkeypatch.setattr(store_module, "open_backend", opening)
    async with contextlib.AsyncExitStack() as stack:
        brokers = []
        for _ in range(2):
            broker = Broker(redis_url, memory_redis_url=memory_url)
            await broker.open()
            stack.push_async_callback(broker.close)
            brokers.append(broker)
            # Opens the second store, of the first node by the way that fails.
            await broker.configuration.change(f"open-{id(broker)}", {"storage": "memory"})
            faulty = False
        yield Memory(*brokers, opened)


async def test_a_queue_out_of_reach_keeps_no_room_from_others(
    memory: Memory, fresh_name: str
) -> None:
    there, away = f"{fresh_name}-there", f"{fresh_name}-away"
    await memory.broker.configuration.change(away, {"storage": "memory"})
    async with subscribing(memory.broker) as messaging:
        holder = FakeHolder(prefetch=1)
        await bind(messaging, there, holder)
        away_binding = await bind(messaging, away, holder)
        await until(lambda: holder.held_count == 0)
        memory.backend.gate.clear()
        await memory.other.add(away, b"away")
        await until(lambda: away_binding.held_count == 1)  # it is being asked for
        await memory.broker.add(there, b"there")
        await until(lambda: [each.queue for each in holder.turns] == [there])
        memory.backend.refuses = down
        memory.backend.gate.set()
        await until(lambda: holder.values == [b"there"])
        memory.backend.refuses = lambda name: None


async def test_a_store_catches_up_with_what_is_owed_to_it_and_nothing_else(
    memory: Memory, fresh_name: str
) -> None:
    """A store that answers says nothing of one that does not."""
    await memory.broker.configuration.change(fresh_name, {"storage": "memory"})
    async with subscribing(memory.broker) as messaging:
        holder = FakeHolder(prefetch=1)
        await bind(messaging, f"{fresh_name}-on-disk", holder)
        await bind(messaging, fresh_name, holder)
        await memory.broker.add(fresh_name, b"a")
        await until(lambda: holder.held)
        memory.backend.refuses = lambda name: down(name) if name == "settle" else None
        messaging.subscriptions.ack_surely(holder.held[0])
        await until(lambda: memory.backend.calls_named("settle") == 1)
        stores = memory.broker._stores
        stores.disk._catch_up()
        assert not await _has_nothing(memory.broker, fresh_name)  # in the next round trip
        assert memory.backend.calls_named("settle") == 1
        memory.backend.refuses = lambda name: None
        stores.located(fresh_name)._catch_up()
        await until(lambda: _has_nothing(memory.broker, fresh_name))


async def _has_nothing(broker: Broker, queue: str) -> bool:
    stats = await broker.stats(queue)
    return stats.length + stats.leased == 0


async def test_settled_for_nobody_is_settled_again_when_redis_is_back(
    make_faulty_broker: MakeFaultyBroker, fresh_name: str
) -> None:
    broker, backend = await make_faulty_broker()
    await add_many(broker, fresh_name, 3)
    async with subscribing(broker) as messaging:
        holder = FakeHolder(prefetch=3)
        await bind(messaging, fresh_name, holder)
        await until(lambda: len(holder.held) == 3)
        backend.refuses = lambda name: down(name) if name == "settle" else None
        for delivery in holder.held:
            messaging.subscriptions.ack_surely(delivery)
        await until(lambda: backend.calls_named("settle") >= 1)
        backend.refuses = lambda name: None
        await until(lambda: _has_nothing(broker, fresh_name), 30)  # at the next heartbeat
    assert len(holder.values) == 3


async def test_renewals_are_few_at_a_time_and_all_come_about(
    make_faulty_broker: MakeFaultyBroker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are nobody's extensions, so they do not count as such."""
    monkeypatch.setattr(sources, "MAX_RENEWED", 7)
    monkeypatch.setattr("restmq.broker.subscriptions.RENEWED_LEASE_SECONDS", 2.0)
    broker, _ = await make_faulty_broker()
    sizes: list[int] = []
    _note_settlements(broker, lambda items: sizes.append(len(items)))
    await add_many(broker, fresh_name, 60)
    async with subscribing(broker, lease_seconds=0) as messaging:
        holder = FakeHolder(prefetch=60)
        await bind(messaging, fresh_name, holder)
        await until(lambda: len(holder.held) == 60)
        await until(lambda: sum(sizes) >= 240, 30)  # the first leases are over by then
        assert (len(holder.held), holder.expired) == (60, [])
        assert max(sizes) <= 7
    assert broker._stores.disk.committer.measures.extended_leases == 0


def _note_settlements(broker: Broker, note: Callable[[list[Settlement]], None]) -> None:
    scripts = broker._stores.disk.scripts
    settle = scripts.settle

    def noting(queue: str, settlements: Sequence[Settlement]) -> Call:
        note(list(settlements))
        return settle(queue, settlements)

    scripts.settle = noting  # type: ignore[method-assign, assignment]


def test_leases_of_one_moment_are_renewed_at_several() -> None:
    after = [sources._renewed_after(60.0) for _ in range(200)]
    assert 15 <= min(after) < max(after) <= 20
    assert max(after) - min(after) > 2


async def test_one_call_settles_a_thousand_at_most(
    make_faulty_broker: MakeFaultyBroker, fresh_name: str
) -> None:
    broker, _ = await make_faulty_broker()
    calls: list[list[Settlement]] = []
    _note_settlements(broker, calls.append)
    await broker.publish(fresh_name, [b"%d" % number for number in range(2500)])
    async with subscribing(broker) as messaging:
        holder = FakeHolder(prefetch=2500)
        binding = await bind(messaging, fresh_name, holder)
        await until(lambda: len(holder.held) == 2500)
        await asyncio.gather(*messaging.subscriptions.unbind(binding, holder.held))
    assert sum(map(len, calls)) == 2500
    assert max(map(len, calls)) <= 1000
    assert values_of(await broker.take(fresh_name, 3)) == [b"0", b"1", b"2"]


async def test_a_purge_makes_room(make_faulty_broker: MakeFaultyBroker, fresh_name: str) -> None:
    broker, _ = await make_faulty_broker()
    async with subscribing(broker) as messaging:
        holder = FakeHolder(prefetch=1)
        await bind(messaging, fresh_name, holder)
        await broker.add(fresh_name, b"purged")
        await until(lambda: holder.values == [b"purged"])
        await broker.purge(fresh_name)
        await broker.add(fresh_name, b"new")
        await until(lambda: holder.values == [b"purged", b"new"])
        assert len(holder.expired) == 1


async def test_a_busy_queue_is_seldom_asked_whether_it_was_purged(
    make_faulty_broker: MakeFaultyBroker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_LOOK_SECONDS", 300.0)
    broker, _ = await make_faulty_broker()
    async with subscribing(broker) as messaging:
        holder = FakeHolder(prefetch=1)
        await bind(messaging, fresh_name, holder)
        await broker.add(fresh_name, b"x")
        await until(lambda: holder.held)
        source = messaging.subscriptions._sources()[0]
        loop_time = asyncio.get_running_loop().time
        source.call()
        assert source.wants_look(loop_time())
        source.call()
        assert not source.wants_look(loop_time())
        assert source.wants_look(loop_time() + 301)


async def test_what_cannot_be_handed_out_ends_among_the_dead_and_holds_up_nobody(
    make_faulty_broker: MakeFaultyBroker, fresh_name: str
) -> None:
    broker, _ = await make_faulty_broker()
    async with subscribing(broker, max_attempts=3) as messaging:
        holder = FakeHolder(prefetch=1)
        holder.refuses = lambda value: value == b"bad"
        await broker.publish(fresh_name, [b"bad", b"good"])
        await bind(messaging, fresh_name, holder)
        await until(lambda: holder.values == [b"good"])
        assert (await broker.stats(fresh_name)).dead == 1
        assert (holder.held_count, holder.binding_count) == (1, 1)


async def test_who_wants_to_know_hears_once_of_adds_that_were_stored_together(
    make_faulty_broker: MakeFaultyBroker, fresh_name: str
) -> None:
    """And not of those that were refused."""
    broker, _ = await make_faulty_broker()
    await broker.configuration.change(fresh_name, {"max_length": 10})
    heard: list[str] = []
    broker._stores.disk.queues.on_added = heard.append
    async with subscribing(broker) as messaging:
        await broker.add(fresh_name, b"x")
        assert heard == [fresh_name]
        await asyncio.gather(*_send(messaging, fresh_name, 9))
        assert heard == [fresh_name] * 2
        with pytest.raises(QueueFull):
            await asyncio.gather(*_send(messaging, fresh_name, 1))
        assert heard == [fresh_name] * 2


def _send(messaging: Messaging, queue: str, count: int) -> list[Awaitable[Added]]:
    return [messaging.sender.send(queue, [pack(b"x")]) for _ in range(count)]


async def test_a_message_that_came_back_unnoticed_replaces_itself(
    make_faulty_broker: MakeFaultyBroker, fresh_name: str
) -> None:
    """Its lease ran out by Redis's clock, before this node has noticed."""
    broker, _ = await make_faulty_broker()
    async with subscribing(broker) as messaging:
        holder = FakeHolder(prefetch=2)
        await bind(messaging, fresh_name, holder)
        await publish(broker, fresh_name, [b"x"])
        await until(lambda: holder.held)
        (first,) = holder.held
        (source,) = messaging.subscriptions._sources()
        again = Delivery(first.binding, first.message, first.deadline)
        again.message = type(first.message)(first.message.number, b"", 2, "other", 0.0, 30.0)
        assert source.held.add(again, first.slot) is first
        assert source.held.find(first.message.number, first.message.token) is None
        assert source.held.names() == [(first.message.number, "other")]
        assert source.held.remove(again)
        assert not source.held
