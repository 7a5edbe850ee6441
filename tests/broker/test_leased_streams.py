"""Leased streams when something goes amiss: Redis away, notices and replies lost, callers gone."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import pytest

from restmq.broker import backend as backend_module
from restmq.broker import listeners as listeners_module
from restmq.broker.broker import Broker
from restmq.broker.leased import LeasedStreams
from restmq.broker.listeners import Listeners
from restmq.broker.receipts import Receipt
from restmq.errors import StaleReceipt, StoreUnavailable
from restmq.redis_process import RedisProcess
from tests.broker.conftest import MakeBroker, MakeFaultyBroker
from tests.broker.fakes import FakeConsumer, vanish
from tests.broker.steps import add_all, until, visit

LEASE_SECONDS = 600.0
LIFETIME_SECONDS = 1.5


@pytest.fixture
def short_lifetime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets nodes count as dead soon, and call often."""
    monkeypatch.setattr(listeners_module, "LIFETIME_SECONDS", LIFETIME_SECONDS)


@contextlib.asynccontextmanager
async def leasing(
    broker: Broker, queue: str, prefetch: int = 1, lease_seconds: float = LEASE_SECONDS
) -> AsyncIterator[FakeConsumer]:
    """Connect one leased consumer, and let it leave at the end."""
    consumer = FakeConsumer()
    await broker.join_leased(queue, consumer, prefetch, lease_seconds)
    broker.begin_leased(queue, consumer)
    yield consumer
    await broker.leave_leased(queue, consumer)


def leased_of(broker: Broker) -> LeasedStreams:
    """Return the leased streams of a node."""
    return broker._stores.disk.leased


def listeners_of(broker: Broker) -> Listeners:
    """Return what a node listens for."""
    return broker._stores.disk.listeners


def held_by(broker: Broker, queue: str) -> list[Receipt]:
    """Return the receipts of what the consumers of a node hold, as far as it knows."""
    held = leased_of(broker)._streams[queue].holder_of
    return [Receipt(queue, number, token) for number, token in held]


async def ack_unnoticed(holder: Broker, other: Broker, queue: str) -> Receipt:
    """Settle what a node holds at another one, in a way that the notice of it is lost."""
    (receipt,) = held_by(holder, queue)
    own, other.scripts.node = other.scripts.node, holder.node
    await other.ack(receipt)
    other.scripts.node = own
    return receipt


@pytest.mark.usefixtures("short_lifetime")
class TestAnOutageOfMoreThanALifetime:
    @pytest.mark.parametrize("kind", ["hangs", "is cut off", "is restarted"])
    async def test_live_nodes_keep_what_their_consumers_hold(
        self,
        make_instance_broker: MakeBroker,
        private_redis: RedisProcess,
        fresh_name: str,
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
    ) -> None:
        if kind == "is cut off":
            monkeypatch.setattr(backend_module, "ROUND_TRIP_TIMEOUT_SECONDS", 0.4)
        brokers = [await make_instance_broker(url=private_redis.url) for _ in range(2)]
        first, second = brokers
        loop = asyncio.get_running_loop()
        async with (
            leasing(first, fresh_name) as here,
            leasing(second, fresh_name) as there,
        ):
            await add_all(first, fresh_name, b"a", b"b")
            await until(lambda: len(here.values) == len(there.values) == 1)
            await until(lambda: not any(listeners_of(each).unsure_seconds for each in brokers))
            process = private_redis.pid
            assert process is not None
            os.kill(process, signal.SIGSTOP)
            try:
                over = loop.time() + 2 * LIFETIME_SECONDS
                await until(lambda: loop.time() > over)
            finally:
                os.kill(process, signal.SIGKILL if kind == "is restarted" else signal.SIGCONT)
            if kind == "is restarted":
                await until(lambda: private_redis.pid not in (None, process))

            async def is_answered() -> bool:
                try:
                    await first.ping()
                except StoreUnavailable:
                    return False
                return True

            await until(is_answered)
            # When they have long been sure again, either of them may look for the dead.
            await until(lambda: not any(listeners_of(each).unsure_seconds for each in brokers))
            for each in brokers:
                await visit(each, fresh_name)
            states = [await first.inspect(fresh_name, number) for number in (1, 2)]
            assert [(state.state, state.attempts) for state in states] == [("leased", 1)] * 2
            await add_all(first, fresh_name, b"c", b"d")
            for each in brokers:
                await each.ack(held_by(each, fresh_name)[0])
            await until(lambda: len(here.values) == len(there.values) == 2)
            assert sorted(here.values + there.values) == [b"a", b"b", b"c", b"d"]

    async def test_what_a_dead_node_held_comes_back_all_the_same(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        dying, living = await make_broker(), await make_broker()
        consumer = FakeConsumer()
        await dying.join_leased(fresh_name, consumer, 1, LEASE_SECONDS)
        dying.begin_leased(fresh_name, consumer)
        await add_all(living, fresh_name, b"a")
        await until(lambda: consumer.values == [b"a"])
        await vanish(dying)
        async with leasing(living, fresh_name) as heir:
            await until(lambda: heir.values == [b"a"])

    async def test_who_has_just_come_counts_nobody_as_dead(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        """And says when to ask again."""
        holder = await make_broker()
        async with leasing(holder, fresh_name) as consumer:
            await add_all(holder, fresh_name, b"a")
            await until(lambda: consumer.values == [b"a"])
            scripts, committer = holder.scripts, holder._stores.disk.committer
            later = (await holder.inspect(fresh_name, 1)).since_or_until
            assert later is not None
            scripts.clock_seconds = later - LEASE_SECONDS / 2
            due, _, has_more = await committer.submit(scripts.visit(fresh_name, 9))
            assert float(due) == pytest.approx(scripts.clock_seconds + 9)
            assert not has_more
            assert (await holder.stats(fresh_name)).leased == 1
            await committer.submit(scripts.visit(fresh_name, 0))
            assert (await holder.stats(fresh_name)).leased == 0
            scripts.clock_seconds = None


class TestRoom:
    async def test_a_stale_receipt_makes_room(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        holder, other = await make_broker(), await make_broker()
        async with leasing(holder, fresh_name) as consumer:
            await add_all(holder, fresh_name, b"a", b"b")
            await until(lambda: consumer.values == [b"a"])
            receipt = await ack_unnoticed(holder, other, fresh_name)
            with pytest.raises(StaleReceipt):
                await holder.ack(receipt)
            await until(lambda: consumer.values == [b"a", b"b"])

    async def test_an_ack_whose_caller_left_makes_room(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        async with leasing(broker, fresh_name) as consumer:
            await add_all(broker, fresh_name, b"a", b"b")
            await until(lambda: consumer.values == [b"a"])
            backend.reply_gate.clear()
            (receipt,) = held_by(broker, fresh_name)
            acking = asyncio.create_task(broker.ack(receipt))
            await until(lambda: "settle" in backend.awaited)
            acking.cancel()
            await asyncio.gather(acking, return_exceptions=True)
            backend.reply_gate.set()
            await until(lambda: consumer.values == [b"a", b"b"])

    async def test_a_settlement_that_was_not_heard_of_makes_room_at_the_next_connection(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        holder, other = await make_broker(), await make_broker()
        async with leasing(holder, fresh_name) as consumer:
            await add_all(holder, fresh_name, b"a", b"b")
            await until(lambda: consumer.values == [b"a"])
            await ack_unnoticed(holder, other, fresh_name)
            holder._stores.disk._look_at_all()
            await until(lambda: consumer.values == [b"a", b"b"])
            # What is leased still is held still.
            (held,) = held_by(holder, fresh_name)
            holder._stores.disk._look_at_all()
            await holder.ping()
            assert held_by(holder, fresh_name) == [held]

    @pytest.mark.usefixtures("short_lifetime")
    async def test_the_question_is_repeated_until_it_is_answered(
        self,
        make_faulty_broker: MakeFaultyBroker,
        make_instance_broker: MakeBroker,
        fresh_name: str,
    ) -> None:
        holder, backend = await make_faulty_broker()
        async with leasing(holder, fresh_name) as consumer:
            await add_all(holder, fresh_name, b"a", b"b")
            await until(lambda: consumer.values == [b"a"])
            await ack_unnoticed(holder, await make_instance_broker(), fresh_name)
            failures = iter([StoreUnavailable("no")])
            backend.refuses = lambda name: next(failures, None) if name == "still_leased" else None
            leased_of(holder).look_anew()
            await until(lambda: consumer.values == [b"a", b"b"])
            assert next(failures, None) is None


@pytest.mark.usefixtures("short_lifetime")
async def test_what_could_not_be_given_back_is_with_a_later_heartbeat(
    make_faulty_broker: MakeFaultyBroker, fresh_name: str
) -> None:
    broker, backend = await make_faulty_broker()
    failures = iter([StoreUnavailable("no")] * 2)
    async with leasing(broker, fresh_name, prefetch=2) as consumer:
        await add_all(broker, fresh_name, b"a", b"b")
        await until(lambda: consumer.values == [b"a", b"b"])
        backend.refuses = lambda name: next(failures, None) if name == "settle" else None

    async def are_back() -> bool:
        return (await broker.stats(fresh_name)).length == 2

    await until(are_back)
    assert next(failures, None) is None


class TestHandingOut:
    async def test_one_lease_that_fails_costs_the_others_nothing(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        async with (
            leasing(broker, fresh_name, lease_seconds=300) as first,
            leasing(broker, fresh_name, lease_seconds=600) as second,
        ):
            failures = iter([StoreUnavailable("no")])
            backend.refuses = lambda name: next(failures, None) if name == "lease" else None
            await add_all(broker, fresh_name, b"a", b"b")
            await until(lambda: sorted(first.values + second.values) == [b"a", b"b"])
            assert next(failures, None) is None

    async def test_what_a_cancelled_pump_had_got_goes_back(
        self, instance_broker: Broker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker = instance_broker
        await add_all(broker, fresh_name, b"a")
        queues, leased = broker._stores.disk.queues, leased_of(broker)
        lease = queues.lease

        def lease_and_cancel(*arguments: object) -> object:
            future = lease(*arguments)  # type: ignore[arg-type]
            pump = leased._streams[fresh_name].pump
            assert pump is not None
            future.add_done_callback(lambda _: pump.cancel())
            monkeypatch.setattr(queues, "lease", lease)
            return future

        monkeypatch.setattr(queues, "lease", lease_and_cancel)
        async with leasing(broker, fresh_name) as consumer:
            await until(lambda: consumer.values == [b"a"])
            assert (await broker.inspect(fresh_name, 1)).attempts == 1


class TestListening:
    async def test_a_second_waiter_relies_on_no_registration_that_fails(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        listeners = listeners_of(broker)
        backend.refuses = lambda name: StoreUnavailable("no") if name == "listen" else None
        backend.gate.clear()
        waiting = [
            asyncio.create_task(listeners.listen(fresh_name, owner, lambda: None))
            for owner in ("first", "second")
        ]
        await asyncio.sleep(0)
        backend.gate.set()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 2
        assert not listeners.has(fresh_name)

    async def test_one_who_leaves_does_not_undo_the_registration_of_the_other(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        listeners = listeners_of(broker)
        backend.gate.clear()
        first = asyncio.create_task(listeners.listen(fresh_name, "first", lambda: None))
        second = asyncio.create_task(listeners.listen(fresh_name, "second", lambda: None))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        backend.gate.set()
        assert await second == 0

    async def test_who_could_not_be_announced_is_called_when_that_succeeds(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        """What became ready in between woke nobody here."""
        broker, backend = await make_faulty_broker()
        listeners = listeners_of(broker)
        called: list[bool] = []
        await listeners.listen(fresh_name, "owner", lambda: called.append(True))
        interest = listeners._interests[fresh_name]
        await listeners._call_again(fresh_name, interest)
        called.clear()  # a heartbeat may have met the first announcement under way
        backend.refuses = lambda name: StoreUnavailable("no") if name == "listen" else None
        await listeners._call_again(fresh_name, interest)
        assert called == []
        backend.refuses = lambda name: None
        await listeners._call_again(fresh_name, interest)
        assert called == [True]

    async def test_a_failed_leave_leaves_no_consumer_counted(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        async with leasing(broker, fresh_name):
            async with leasing(broker, fresh_name):
                assert (await broker.stats(fresh_name)).consumers == 2
                backend.refuses = lambda name: StoreUnavailable("no") if name == "listen" else None
            backend.refuses = lambda name: None
            listeners_of(broker).announce_all()
            assert (await broker.stats(fresh_name)).consumers == 1
