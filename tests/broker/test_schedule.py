"""Deadlines: what is due happens by itself, on whichever node is alive, and nobody polls for it."""

import asyncio
import time

import pytest
from redis.asyncio import Redis

from restmq.broker import schedule
from restmq.broker.broker import Broker
from restmq.broker.keys import DUE, queue_keys
from restmq.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from tests.broker.conftest import MakeBroker, MakeFaultyBroker
from tests.broker.fakes import FakeConsumer, connect, streaming, vanish
from tests.broker.invariants import check_keys
from tests.broker.steps import (
    NOON,
    add_all,
    numbers_of,
    publish,
    receipt_of,
    state_of,
    until,
    values_of,
    visit,
)

WAIT_SECONDS = 30.0
"""Longer than anything here takes, unless it never happens."""


async def entries_of(store: "Redis", queue: str) -> list[bytes]:
    """Return what the schedule holds for a queue."""
    members: list[bytes] = await store.zrange(DUE, 0, -1)
    return [member for member in members if member.endswith(b":" + queue.encode())]


class TestDelays:
    @pytest.mark.parametrize("way", ["delay", "at"])
    async def test_a_delayed_message_is_ready_when_its_time_has_come(
        self, broker: Broker, fresh_name: str, way: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        if way == "delay":
            await publish(broker, fresh_name, [b"later"], delay_seconds=10)
        else:
            await publish(broker, fresh_name, [b"later"], at=NOON + 10)
        await broker.add(fresh_name, b"now")
        stats = await broker.stats(fresh_name)
        assert (stats.length, stats.delayed) == (1, 1)
        assert values_of(await broker.peek(fresh_name, 9)) == [b"now"]
        broker.scripts.clock_seconds = NOON + 9.9
        assert await state_of(broker, fresh_name, 1) == "delayed"
        broker.scripts.clock_seconds = NOON + 10
        assert values_of(await broker.take(fresh_name, 9)) == [b"later", b"now"]

    async def test_no_delay_and_a_time_gone_by_mean_at_once(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await publish(broker, fresh_name, [b"a"], delay_seconds=0)
        await publish(broker, fresh_name, [b"b"], at=NOON - 100)
        await publish(broker, fresh_name, [b"c"], at=0)
        assert values_of(await broker.take(fresh_name, 9)) == [b"a", b"b", b"c"]

    async def test_a_delay_of_ten_years_is_kept(self, broker: Broker, fresh_name: str) -> None:
        broker.scripts.clock_seconds = NOON
        ten_years = 10 * 365 * 86400
        await publish(broker, fresh_name, [b"a"], delay_seconds=ten_years)
        broker.scripts.clock_seconds = NOON + ten_years - 1
        assert await broker.take(fresh_name) == []
        broker.scripts.clock_seconds = NOON + ten_years
        assert values_of(await broker.take(fresh_name)) == [b"a"]

    @pytest.mark.parametrize(
        "times",
        [
            {"delay_seconds": -1},
            {"delay_seconds": float("nan")},
            {"delay_seconds": 1e9},
            {"at": -1},
            {"at": float("inf")},
            {"delay_seconds": 1, "at": 1},
        ],
    )
    async def test_a_bad_time_is_refused_and_nothing_is_stored(
        self, instance_broker: Broker, fresh_name: str, times: dict[str, float]
    ) -> None:
        with pytest.raises(InvalidInput):
            await publish(instance_broker, fresh_name, [b"a"], **times)  # type: ignore[arg-type]
        assert (await instance_broker.stats(fresh_name)).delayed == 0

    async def test_a_ttl_runs_while_a_message_is_delayed(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await publish(broker, fresh_name, [b"never"], delay_seconds=10, ttl_seconds=5)
        await publish(broker, fresh_name, [b"seen"], delay_seconds=10, ttl_seconds=15)
        broker.scripts.clock_seconds = NOON + 5
        assert await state_of(broker, fresh_name, 1) == "gone"
        assert (await broker.stats(fresh_name)).delayed == 1
        broker.scripts.clock_seconds = NOON + 10
        assert values_of(await broker.take(fresh_name, 9)) == [b"seen"]
        await check_keys(broker, fresh_name)


class TestReschedule:
    async def test_a_delayed_message_can_come_sooner_later_or_now(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await publish(broker, fresh_name, [b"1", b"2", b"3"], delay_seconds=100)
        await broker.reschedule(fresh_name, 1, delay_seconds=200)
        await broker.reschedule(fresh_name, 2, at=NOON + 50)
        await broker.reschedule(fresh_name, 3, delay_seconds=0)
        assert values_of(await broker.take(fresh_name, 9)) == [b"3"]
        broker.scripts.clock_seconds = NOON + 50
        assert values_of(await broker.take(fresh_name, 9)) == [b"2"]
        broker.scripts.clock_seconds = NOON + 199
        assert await broker.take(fresh_name) == []
        broker.scripts.clock_seconds = NOON + 200
        assert values_of(await broker.take(fresh_name, 9)) == [b"1"]

    async def test_only_what_is_delayed_can_be_rescheduled(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await add_all(broker, fresh_name, b"leased", b"ready")
        await broker.lease(fresh_name)
        for number in (1, 2):
            with pytest.raises(Conflict):
                await broker.reschedule(fresh_name, number, delay_seconds=5)
        with pytest.raises(NotFound):
            await broker.reschedule(fresh_name, 3, delay_seconds=5)


class Waking:
    """What is done before a caller waits, and then to make a message ready for it."""

    async def add(self, node: Broker, queue: str) -> None:
        await node.add(queue, b"new")

    async def delay(self, node: Broker, queue: str) -> None:
        await publish(node, queue, [b"new"], delay_seconds=0.3)

    async def at(self, node: Broker, queue: str) -> None:
        await publish(node, queue, [b"new"], at=time.time() + 0.3)

    async def before_delay_of_settings(self, node: Broker, queue: str) -> None:
        await node.configuration.change(queue, {"delay": 0.3})

    async def delay_of_settings(self, node: Broker, queue: str) -> None:
        await node.add(queue, b"new")

    async def before_release(self, node: Broker, queue: str) -> None:
        await node.add(queue, b"new")
        (self.leased,) = await node.lease(queue)

    async def release(self, node: Broker, queue: str) -> None:
        await node.release(receipt_of(queue, self.leased))

    before_release_for_later = before_release

    async def release_for_later(self, node: Broker, queue: str) -> None:
        await node.release(receipt_of(queue, self.leased), 1)

    async def before_lease_that_runs_out(self, node: Broker, queue: str) -> None:
        await node.add(queue, b"new")
        await node.lease(queue, lease_seconds=1)

    async def lease_that_runs_out(self, node: Broker, queue: str) -> None:
        """Wait, and nothing else."""

    before_lease_that_is_looked_at = before_lease_that_runs_out

    async def lease_that_is_looked_at(self, node: Broker, queue: str) -> None:
        """Look at the queue all the time: whoever sees the end first must tell the others."""

        async def is_over() -> bool:
            return (await node.stats(queue)).leased == 0

        await until(is_over)

    async def before_redrive(self, node: Broker, queue: str) -> None:
        await self.before_release(node, queue)
        await node.bury(receipt_of(queue, self.leased), "bad")

    async def redrive(self, node: Broker, queue: str) -> None:
        await node.dead_letters.redrive(queue)

    async def before_give_back(self, node: Broker, queue: str) -> None:
        await node.add(queue, b"new")
        self.taken = await node.take(queue)

    async def give_back(self, node: Broker, queue: str) -> None:
        node.give_back(queue, self.taken)

    async def before_reschedule(self, node: Broker, queue: str) -> None:
        await publish(node, queue, [b"new"], delay_seconds=1000)

    async def reschedule(self, node: Broker, queue: str) -> None:
        await node.reschedule(queue, 1, delay_seconds=0.3)

    before_reschedule_at = before_reschedule

    async def reschedule_at(self, node: Broker, queue: str) -> None:
        await node.reschedule(queue, 1, at=time.time() + 0.3)


WAYS = [name for name in vars(Waking) if not name.startswith(("_", "before"))]


class TestWaiting:
    @pytest.mark.parametrize("way", WAYS)
    async def test_a_caller_who_waits_is_woken_by_whatever_makes_a_message_ready(
        self, make_broker: MakeBroker, fresh_name: str, way: str
    ) -> None:
        here, there, waking = await make_broker(), await make_broker(), Waking()
        prepare = getattr(waking, f"before_{way}", None)
        if prepare is not None:
            await prepare(there, fresh_name)
        waiting = asyncio.ensure_future(here.take(fresh_name, wait_seconds=WAIT_SECONDS))
        await until(lambda: here._stores.disk.listeners.has(fresh_name))
        await getattr(waking, way)(there, fresh_name)
        assert values_of(await waiting) == [b"new"]

    async def test_all_who_wait_on_several_nodes_share_what_comes_back_at_once(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        nodes = [await make_broker() for _ in range(3)]
        await add_all(nodes[0], fresh_name, *[b"%d" % n for n in range(12)])
        await nodes[0].lease(fresh_name, 12, lease_seconds=1)
        waits = [node.take(fresh_name, wait_seconds=WAIT_SECONDS) for node in nodes * 4]
        taken = await asyncio.gather(*waits)
        assert sorted(m.number for share in taken for m in share) == list(range(1, 13))

    async def test_streams_get_what_comes_back(
        self, make_broker: MakeBroker, fresh_name: str, rare_heartbeat: None
    ) -> None:
        here, there, consumer = await make_broker(), await make_broker(), FakeConsumer()
        await there.add(fresh_name, b"leased")
        await there.lease(fresh_name, lease_seconds=1)
        await publish(there, fresh_name, [b"delayed"], delay_seconds=0.5)
        async with streaming(here, fresh_name, consumer):
            await until(lambda: sorted(consumer.values) == [b"delayed", b"leased"], WAIT_SECONDS)

    async def test_the_wait_ends_empty_when_nothing_comes(
        self, instance_broker: Broker, fresh_name: str
    ) -> None:
        assert await instance_broker.take(fresh_name, wait_seconds=0.05) == []
        assert await instance_broker.lease(fresh_name, wait_seconds=0.05) == []


class TestNodes:
    async def test_a_lease_ends_though_every_node_was_restarted(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        for node in (await make_broker(), await make_broker()):
            await node.add(fresh_name, b"leased")
            await node.lease(fresh_name, lease_seconds=1)
            await publish(node, fresh_name, [b"delayed"], delay_seconds=1)
            await vanish(node)
        node = await make_broker()
        seen = []
        while len(seen) < 4:
            taken = await node.take(fresh_name, 4, wait_seconds=WAIT_SECONDS)
            assert taken
            seen += taken
        assert sorted(numbers_of(seen)) == [1, 2, 3, 4]

    async def test_what_a_dead_node_had_claimed_is_done_by_another(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        dead = await make_broker()
        await dead._stores.disk.schedule.close()
        await dead.add(fresh_name, b"a")
        await dead.lease(fresh_name, lease_seconds=1)
        claim = dead.scripts.claim_due(1000, schedule.CLAIM_SECONDS)
        ours = b":queue:" + fresh_name.encode()

        async def claimed() -> bool:
            _, *members = await dead._stores.disk.committer.submit(claim)
            return any(member.endswith(ours) for member in members)

        await until(claimed)
        await vanish(dead)
        node = await make_broker()
        assert numbers_of(await node.take(fresh_name, wait_seconds=WAIT_SECONDS)) == [1]

    async def test_a_visit_that_fails_is_made_again(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        await broker.add(fresh_name, b"a")
        await broker.lease(fresh_name, lease_seconds=1)
        failures = iter([StoreUnavailable("no")] * 2)
        backend.refuses = lambda name: next(failures, None) if name == "visit" else None
        assert numbers_of(await broker.take(fresh_name, wait_seconds=WAIT_SECONDS)) == [1]
        assert next(failures, None) is None

    async def test_what_could_not_be_noted_is_noted_later(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        await broker.configuration.change(fresh_name, {"delay": 0.5})
        failures = iter([StoreUnavailable("no")] * 3)
        backend.refuses = lambda name: next(failures, None) if name == "schedule" else None
        await broker.add(fresh_name, b"a")
        assert numbers_of(await broker.take(fresh_name, wait_seconds=WAIT_SECONDS)) == [1]

    async def test_a_queue_whose_redis_has_a_slower_clock_is_looked_at_again(
        self, instance_broker: Broker, store: "Redis", fresh_name: str
    ) -> None:
        broker = instance_broker
        broker.scripts.clock_seconds = NOON
        await broker.add(fresh_name, b"a")
        await broker.lease(fresh_name, lease_seconds=10)
        (entry,) = await entries_of(store, fresh_name)
        # The clock by which it was due is ahead of the one by which the lease runs.
        broker.scripts.clock_seconds = NOON + 10
        upcoming = NOON + 10
        finish = broker.scripts.finish_due(entry, upcoming, schedule.GRAIN_SECONDS)
        await broker._stores.disk.committer.submit(finish)
        assert len(await entries_of(store, fresh_name)) == 1

    async def test_names_of_any_bytes_are_found_again(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker = await make_broker()
        name = f"a:b\0c}}{{\n\u00e9 {fresh_name}:1.5:queue:"
        await broker.add(name, b"a")
        await broker.lease(name, lease_seconds=1)
        assert numbers_of(await broker.take(name, wait_seconds=WAIT_SECONDS)) == [1]

    async def test_nobody_asks_redis_for_anything_before_something_is_due(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        consumer = FakeConsumer()
        await publish(broker, fresh_name, [b"a", b"b"], delay_seconds=3600, ttl_seconds=7200)
        await broker.add(f"{fresh_name}-2", b"a")
        await broker.lease(f"{fresh_name}-2", lease_seconds=3600)
        await connect(broker, f"{fresh_name}-3", consumer)
        await until(lambda: not broker._stores.disk.committer.is_busy)
        waiting = asyncio.ensure_future(broker.take(fresh_name, wait_seconds=2))
        await until(lambda: broker._stores.disk.listeners.has(fresh_name))
        await until(lambda: not broker._stores.disk.committer.is_busy)
        backend.round_trips.clear()
        await waiting
        asked = {name for names in backend.round_trips for name in names}
        others = [names for names in backend.round_trips if "schedule" in names]
        assert asked <= {"deliver", "listen", "join", "schedule", "visit"}
        assert len(others) <= 4, "more than the leftovers of other tests"
        await broker.leave(f"{fresh_name}-3", consumer)


class TestMemory:
    async def test_the_schedule_forgets_a_queue_in_which_nothing_is_due(
        self, instance_broker: Broker, store: "Redis", fresh_name: str
    ) -> None:
        broker = instance_broker
        for _ in range(20):
            await broker.add(fresh_name, b"a")
            (leased,) = await broker.lease(fresh_name, lease_seconds=1)
            await broker.ack(receipt_of(fresh_name, leased))
        assert 1 <= len(await entries_of(store, fresh_name)) <= 6

        async def is_forgotten() -> bool:
            return not await entries_of(store, fresh_name)

        await until(is_forgotten, WAIT_SECONDS)

    async def test_deadlines_that_lie_close_share_an_entry(
        self, instance_broker: Broker, store: "Redis", fresh_name: str
    ) -> None:
        broker = instance_broker
        broker.scripts.clock_seconds = NOON
        await add_all(broker, fresh_name, *[b"a"] * 500)
        leases = (broker.lease(fresh_name, lease_seconds=3600) for _ in range(500))
        await asyncio.gather(*leases)
        assert len(await entries_of(store, fresh_name)) <= 3

    async def test_what_has_expired_is_cleared_from_a_queue_that_nobody_touches(
        self, instance_broker: Broker, store: "Redis", fresh_name: str
    ) -> None:
        broker = instance_broker
        broker.scripts.clock_seconds = NOON
        for _ in range(3):
            await publish(broker, fresh_name, [b"a"] * 1500, ttl_seconds=5)
        await publish(broker, fresh_name, [b"a"] * 10, ttl_seconds=5000)
        broker.scripts.clock_seconds = NOON + 5
        assert await visit(broker, fresh_name) == NOON + 5000
        assert await store.hlen(queue_keys(fresh_name, "").messages) == 10
        await check_keys(broker, fresh_name)
