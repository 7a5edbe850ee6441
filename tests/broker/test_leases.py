"""Leases: a message is held for a time, settled once, and comes back by itself if it is not."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest
from redis.asyncio import Redis

from restmq.broker.broker import Broker
from restmq.broker.keys import queue_keys
from restmq.broker.message import LeasedMessage
from restmq.broker.receipts import read_receipt, write_receipt
from restmq.errors import InvalidInput, StaleReceipt, StoreUnavailable
from tests.broker.conftest import MakeBroker, MakeFaultyBroker
from tests.broker.fakes import all_at_once
from tests.broker.invariants import check_keys
from tests.broker.steps import (
    NOON,
    ack_all,
    add_all,
    drain,
    keys_of,
    numbers_of,
    receipt_of,
    state_of,
    until,
    values_of,
    visit,
)

Settle = Callable[[Broker, str, LeasedMessage], Coroutine[object, object, object]]
WAYS: dict[str, Settle] = {
    "ack": lambda broker, queue, message: broker.ack(receipt_of(queue, message)),
    "release": lambda broker, queue, message: broker.release(receipt_of(queue, message)),
    "delay": lambda broker, queue, message: broker.release(receipt_of(queue, message), 5),
    "keep": lambda broker, queue, message: broker.release(
        receipt_of(queue, message), keep_attempt=True
    ),
    "extend": lambda broker, queue, message: broker.extend(receipt_of(queue, message), 60),
    "bury": lambda broker, queue, message: broker.bury(receipt_of(queue, message), "bad"),
}


class TestLease:
    async def test_a_leased_message_is_held_and_says_until_when(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await add_all(broker, fresh_name, b"a", b"b")
        (leased,) = await broker.lease(fresh_name, lease_seconds=10)
        assert (leased.number, leased.value, leased.attempt) == (1, b"a", 1)
        assert (leased.lease_expires, leased.lease_seconds) == (NOON + 10, 10)
        stats = await broker.stats(fresh_name)
        assert (stats.length, stats.leased) == (1, 1)
        assert values_of(await broker.take(fresh_name, 9)) == [b"b"]
        assert await broker.lease(fresh_name) == []

    async def test_a_lease_that_names_no_time_lasts_as_the_settings_say(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await add_all(broker, fresh_name, b"a", b"b")
        (leased,) = await broker.lease(fresh_name)
        assert leased.lease_expires == NOON + 30
        await broker.configuration.change(fresh_name, {"lease_seconds": 7.5})
        (leased,) = await broker.lease(fresh_name)
        assert (leased.lease_expires, leased.lease_seconds) == (NOON + 7.5, 7.5)

    async def test_up_to_count_are_leased_and_each_has_its_own_receipt(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await add_all(broker, fresh_name, *[b"%d" % n for n in range(150)])
        leased = await broker.lease(fresh_name, 100)
        assert numbers_of(leased) == list(range(1, 101))
        receipts = {write_receipt(fresh_name, message) for message in leased}
        assert len(receipts) == 100
        assert read_receipt(min(receipts)).queue == fresh_name
        await ack_all(broker, fresh_name, leased)
        assert numbers_of(await broker.lease(fresh_name, 100)) == list(range(101, 151))

    @pytest.mark.parametrize("seconds", [0, 0.5, 43_201, float("nan"), float("inf")])
    async def test_a_bad_time_is_refused(
        self, instance_broker: Broker, fresh_name: str, seconds: float
    ) -> None:
        await instance_broker.add(fresh_name, b"a")
        with pytest.raises(InvalidInput, match="lease must be"):
            await instance_broker.lease(fresh_name, lease_seconds=seconds)
        (leased,) = await instance_broker.lease(fresh_name)
        with pytest.raises(InvalidInput, match="extend must be"):
            await instance_broker.extend(receipt_of(fresh_name, leased), seconds)
        assert (await instance_broker.stats(fresh_name)).leased == 1

    async def test_many_leased_and_acked_leave_nothing_behind(
        self, instance_broker: Broker, store: "Redis", fresh_name: str
    ) -> None:
        for _ in range(20):
            await add_all(instance_broker, fresh_name, *[b"a"] * 1000)
        leased = []
        while some := await instance_broker.lease(fresh_name, 1000):
            leased += some
        assert numbers_of(leased) == list(range(1, 20_001))
        await check_keys(instance_broker, fresh_name)
        await ack_all(instance_broker, fresh_name, leased)
        assert set(await keys_of(store, fresh_name)) == {queue_keys(fresh_name, "").record}

    async def test_bodies_beyond_one_reply_come_in_several(
        self, instance_broker: Broker, fresh_name: str
    ) -> None:
        values = [bytes([65 + index]) * (3 * 1024 * 1024) for index in range(5)]
        await add_all(instance_broker, fresh_name, *values)
        shares = await asyncio.gather(*(instance_broker.lease(fresh_name, 2) for _ in range(6)))
        assert [message.value for share in shares for message in share] == values


class TestSettling:
    async def test_an_acked_message_is_gone(self, broker: Broker, fresh_name: str) -> None:
        await broker.add(fresh_name, b"a")
        (leased,) = await broker.lease(fresh_name)
        await broker.ack(receipt_of(fresh_name, leased))
        stats = await broker.stats(fresh_name)
        assert (stats.length, stats.leased, stats.dead) == (0, 0, 0)
        assert await state_of(broker, fresh_name, 1) == "gone"
        assert await broker.delete(fresh_name, 1) is False

    async def test_a_released_message_is_the_next_with_one_more_attempt(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await add_all(broker, fresh_name, b"a", b"b", b"c")
        first, second = await broker.lease(fresh_name, 2)
        await broker.release(receipt_of(fresh_name, second))
        await broker.release(receipt_of(fresh_name, first))
        again = await broker.lease(fresh_name, 3)
        assert [(m.number, m.attempt) for m in again] == [(1, 2), (2, 2), (3, 1)]

    async def test_released_with_its_attempt_kept_it_counts_as_never_delivered(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await broker.configuration.change(fresh_name, {"max_attempts": 1})
        await broker.add(fresh_name, b"a")
        for _ in range(3):
            (leased,) = await broker.lease(fresh_name)
            assert leased.attempt == 1
            await broker.release(receipt_of(fresh_name, leased), keep_attempt=True)
        assert (await broker.stats(fresh_name)).dead == 0

    async def test_released_for_later_it_is_delayed_and_then_the_next(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await add_all(broker, fresh_name, b"a", b"b")
        (leased,) = await broker.lease(fresh_name)
        await broker.release(receipt_of(fresh_name, leased), 5)
        assert await state_of(broker, fresh_name, 1) == "delayed"
        broker.scripts.clock_seconds = NOON + 5
        again = await broker.lease(fresh_name, 2)
        assert [(m.number, m.attempt) for m in again] == [(1, 2), (2, 1)]

    async def test_an_extension_counts_from_now_and_may_be_shorter(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await add_all(broker, fresh_name, b"a", b"b")
        longer, shorter = await broker.lease(fresh_name, 2, lease_seconds=10)
        broker.scripts.clock_seconds = NOON + 9
        assert await broker.extend(receipt_of(fresh_name, longer), 10) == NOON + 19
        assert await broker.extend(receipt_of(fresh_name, shorter), 2) == NOON + 11
        broker.scripts.clock_seconds = NOON + 11
        assert numbers_of(await broker.lease(fresh_name, 2)) == [2]
        broker.scripts.clock_seconds = NOON + 18
        await broker.ack(receipt_of(fresh_name, longer))

    @pytest.mark.parametrize("first", [name for name in WAYS if name != "extend"])
    @pytest.mark.parametrize("second", WAYS)
    async def test_what_was_settled_is_stale_for_ever(
        self, instance_broker: Broker, fresh_name: str, first: str, second: str
    ) -> None:
        broker = instance_broker
        broker.scripts.clock_seconds = NOON
        await broker.add(fresh_name, b"a")
        (leased,) = await broker.lease(fresh_name)
        await WAYS[first](broker, fresh_name, leased)
        for _ in range(2):
            with pytest.raises(StaleReceipt):
                await WAYS[second](broker, fresh_name, leased)
            broker.scripts.clock_seconds += 10
            held = await broker.lease(fresh_name)  # by someone else, if it is still there
            with pytest.raises(StaleReceipt):
                await WAYS[second](broker, fresh_name, leased)
            for message in held:
                await broker.release(receipt_of(fresh_name, message), keep_attempt=True)

    @pytest.mark.parametrize("way", WAYS)
    async def test_a_lease_that_ran_out_is_stale_from_that_moment_on(
        self, broker: Broker, fresh_name: str, way: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await broker.add(fresh_name, b"a")
        (leased,) = await broker.lease(fresh_name, lease_seconds=10)
        broker.scripts.clock_seconds = NOON + 10
        with pytest.raises(StaleReceipt):
            await WAYS[way](broker, fresh_name, leased)
        (again,) = await broker.lease(fresh_name)
        with pytest.raises(StaleReceipt):
            await WAYS[way](broker, fresh_name, leased)
        assert (again.number, again.attempt) == (1, 2)
        await broker.ack(receipt_of(fresh_name, again))

    async def test_of_several_settlements_of_one_lease_at_once_the_first_counts(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await broker.add(fresh_name, b"a")
        (leased,) = await broker.lease(fresh_name)
        ways = ["extend", "release", "ack", "bury", "keep", "extend"]
        calls = (WAYS[way](broker, fresh_name, leased) for way in ways)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(outcome, StaleReceipt) for outcome in outcomes] == [
            *[False] * 2,
            *[True] * 4,
        ]
        assert await state_of(broker, fresh_name, 1) == "ready"

    async def test_receipts_of_purged_and_deleted_messages_are_stale(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await add_all(broker, fresh_name, b"a", b"b", b"c")
        deleted, purged, dead = await broker.lease(fresh_name, 3)
        await broker.bury(receipt_of(fresh_name, dead), "bad")
        assert await broker.delete(fresh_name, deleted.number) is True
        assert await broker.purge(fresh_name) is True
        for message in (deleted, purged):
            with pytest.raises(StaleReceipt):
                await broker.ack(receipt_of(fresh_name, message))
        stats = await broker.stats(fresh_name)
        assert (stats.length, stats.leased, stats.dead) == (0, 0, 1)
        await check_keys(broker, fresh_name)


class TestExpiry:
    async def test_expired_leases_come_back_in_their_order_before_the_others(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await add_all(broker, fresh_name, *[b"%d" % n for n in range(12)])
        await broker.lease(fresh_name, 10, lease_seconds=10)
        broker.scripts.clock_seconds = NOON + 10
        again = await broker.lease(fresh_name, 12)
        assert [(m.number, m.attempt) for m in again] == [
            *((number, 2) for number in range(1, 11)),
            (11, 1),
            (12, 1),
        ]

    async def test_a_ttl_runs_but_a_held_lease_is_honoured_to_its_end(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        for value in (b"acked", b"expires", b"released", b"extended"):
            await broker.add(fresh_name, value, ttl_seconds=5)
        acked, _, released, extended = await broker.lease(fresh_name, 4, lease_seconds=10)
        broker.scripts.clock_seconds = NOON + 9
        assert (await broker.stats(fresh_name)).leased == 4
        await broker.ack(receipt_of(fresh_name, acked))
        await broker.release(receipt_of(fresh_name, released))
        await broker.extend(receipt_of(fresh_name, extended), 10)
        assert await state_of(broker, fresh_name, released.number) == "gone"
        broker.scripts.clock_seconds = NOON + 10
        assert await broker.lease(fresh_name, 9) == []
        stats = await broker.stats(fresh_name)
        assert (stats.length, stats.leased, stats.dead) == (0, 1, 0)
        await broker.ack(receipt_of(fresh_name, extended))
        await check_keys(broker, fresh_name)

    async def test_hundreds_expired_at_once_are_all_back_after_one_visit(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await add_all(broker, fresh_name, *[b"%d" % n for n in range(1500)])
        assert len(await broker.lease(fresh_name, 1000, lease_seconds=10)) == 1000
        broker.scripts.clock_seconds = NOON + 10
        assert await visit(broker, fresh_name) is None
        assert (await broker.stats(fresh_name)).length == 1500
        assert numbers_of(await drain(broker, fresh_name)) == list(range(1, 1501))


class TestLostReplies:
    async def test_what_a_lost_reply_had_leased_comes_back_when_the_lease_ends(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        broker.scripts.clock_seconds = NOON
        await add_all(broker, fresh_name, b"a", b"b")
        backend.lose_next("lease")
        with pytest.raises(StoreUnavailable):
            await broker.lease(fresh_name, lease_seconds=10)
        broker.scripts.clock_seconds = NOON + 10
        assert numbers_of(await broker.lease(fresh_name, 9)) == [1, 2]

    async def test_an_ack_whose_reply_was_lost_has_been_done_once(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        await add_all(broker, fresh_name, b"a", b"b")
        (leased,) = await broker.lease(fresh_name)
        backend.lose_next("settle")
        with pytest.raises(StoreUnavailable):
            await broker.ack(receipt_of(fresh_name, leased))
        with pytest.raises(StaleReceipt):
            await broker.ack(receipt_of(fresh_name, leased))
        assert values_of(await drain(broker, fresh_name)) == [b"b"]


class TestCancelling:
    async def test_the_share_of_a_caller_who_left_goes_to_the_next_or_comes_back_at_once(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        await add_all(broker, fresh_name, b"a", b"b", b"c")
        backend.gate.clear()
        callers = [asyncio.ensure_future(broker.lease(fresh_name)) for _ in range(3)]
        for _ in range(20):
            await asyncio.sleep(0)
        callers[0].cancel()
        backend.gate.set()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert [values_of(share) for share in outcomes[1:] if isinstance(share, list)] == [
            [b"a"],
            [b"b"],
        ]
        (last,) = await broker.lease(fresh_name)
        assert (last.value, last.attempt) == (b"c", 1)

    async def test_wherever_a_caller_is_cancelled_its_messages_are_still_there_unattempted(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, _ = await make_faulty_broker()
        await add_all(broker, fresh_name, *[b"%d" % index for index in range(10)])
        for turns in range(60):
            caller = asyncio.ensure_future(broker.lease(fresh_name, 3))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not caller.cancel():
                broker.release_unseen(fresh_name, caller.result())
            await asyncio.gather(caller, return_exceptions=True)

        async def all_are_back() -> bool:
            return (await broker.stats(fresh_name)).length == 10

        await until(all_are_back)
        leased = await broker.lease(fresh_name, 10)
        assert [(m.number, m.attempt) for m in leased] == [(n, 1) for n in range(1, 11)]

    async def test_settlements_of_callers_who_left_are_done_and_harm_no_other(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        await add_all(broker, fresh_name, b"a", b"b", b"c")
        leased = await broker.lease(fresh_name, 3)
        acks = [broker.ack(receipt_of(fresh_name, message)) for message in leased]
        tasks = [asyncio.ensure_future(ack) for ack in acks]
        started = await all_at_once(backend, list(tasks))
        tasks[1].cancel()
        backend.gate.set()
        await started
        stats = await broker.stats(fresh_name)
        assert (stats.length, stats.leased) == (0, 0)


async def test_two_nodes_never_hold_one_message_at_once(
    make_broker: MakeBroker, fresh_name: str
) -> None:
    nodes = [await make_broker(), await make_broker()]
    await add_all(nodes[0], fresh_name, *[b"%d" % n for n in range(300)])
    done: list[int] = []

    async def consume(node: Broker) -> None:
        while leased := await node.lease(fresh_name, 7):
            done.extend(numbers_of(leased))
            await ack_all(node, fresh_name, leased)

    await asyncio.gather(*(consume(node) for node in nodes * 3))
    assert sorted(done) == list(range(1, 301))
    assert (await nodes[0].stats(fresh_name)).leased == 0


async def test_a_receipt_is_good_on_any_node(make_broker: MakeBroker, fresh_name: str) -> None:
    one, other = await make_broker(), await make_broker()
    await one.add(fresh_name, b"a")
    (leased,) = await one.lease(fresh_name)
    await other.ack(receipt_of(fresh_name, leased))
    with pytest.raises(StaleReceipt):
        await one.ack(receipt_of(fresh_name, leased))
