"""Queues with a limit: what a full one refuses, drops, or declares dead."""

import asyncio

import pytest

from restmq.broker.broker import Broker
from restmq.errors import QueueFull
from tests.broker.invariants import check_keys
from tests.broker.steps import NOON, add_all, numbers_of, publish, receipt_of, state_of


async def limit(broker: Broker, queue: str, max_length: int, overflow: str = "reject") -> None:
    """Limit a queue."""
    changes = {"max_length": max_length, "overflow": overflow}
    await broker.configuration.change(queue, changes)


class TestReject:
    async def test_a_full_queue_refuses_until_there_is_room(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await limit(broker, fresh_name, 2)
        await add_all(broker, fresh_name, b"1", b"2")
        with pytest.raises(QueueFull):
            await broker.add(fresh_name, b"refused")
        await broker.take(fresh_name)
        assert await broker.add(fresh_name, b"3") == 3

    async def test_a_batch_is_stored_whole_or_not_at_all(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await limit(broker, fresh_name, 3)
        await broker.add(fresh_name, b"1")
        with pytest.raises(QueueFull):
            await publish(broker, fresh_name, [b"a"] * 3)
        assert (await publish(broker, fresh_name, [b"a"] * 2)).number == 2

    async def test_of_many_at_once_as_many_are_stored_as_fit(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await limit(broker, fresh_name, 5)
        adds = (broker.add(fresh_name, b"a") for _ in range(20))
        outcomes = await asyncio.gather(*adds, return_exceptions=True)
        assert [o for o in outcomes if isinstance(o, int)] == [1, 2, 3, 4, 5]
        assert sum(isinstance(outcome, QueueFull) for outcome in outcomes) == 15

    async def test_what_is_delayed_counts_and_what_is_leased_dead_or_expired_does_not(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await limit(broker, fresh_name, 2)
        await add_all(broker, fresh_name, b"leased", b"dead")
        _, dead = await broker.lease(fresh_name, 2, lease_seconds=100)
        await broker.bury(receipt_of(fresh_name, dead), "bad")
        await publish(broker, fresh_name, [b"delayed"], delay_seconds=50)
        await publish(broker, fresh_name, [b"expires"], ttl_seconds=5)
        with pytest.raises(QueueFull):
            await broker.add(fresh_name, b"refused")
        broker.scripts.clock_seconds = NOON + 5
        await broker.add(fresh_name, b"fits")

    async def test_more_than_is_cleared_at_once_may_have_expired(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await limit(broker, fresh_name, 1000)
        await publish(broker, fresh_name, [b"a"] * 1000, ttl_seconds=5)
        broker.scripts.clock_seconds = NOON + 5
        await publish(broker, fresh_name, [b"a"] * 1000)
        assert (await broker.stats(fresh_name)).length == 1000

    async def test_what_comes_back_is_never_refused(self, broker: Broker, fresh_name: str) -> None:
        await limit(broker, fresh_name, 1)
        await broker.add(fresh_name, b"1")
        (leased,) = await broker.lease(fresh_name)
        await broker.add(fresh_name, b"2")
        await broker.release(receipt_of(fresh_name, leased))
        assert numbers_of(await broker.take(fresh_name, 9)) == [1, 2]


class TestMakingRoom:
    @pytest.mark.parametrize("overflow", ["drop-oldest", "dead-letter"])
    async def test_the_oldest_go(self, broker: Broker, fresh_name: str, overflow: str) -> None:
        await limit(broker, fresh_name, 3, overflow)
        await add_all(broker, fresh_name, *[b"%d" % n for n in range(1, 6)])
        assert await broker.add(fresh_name, b"6") == 6
        assert numbers_of(await broker.peek(fresh_name, 9)) == [4, 5, 6]
        letters = await broker.dead_letters.list(fresh_name, 9)
        dead = {letter.message.number: letter.reason for letter in letters}
        expected = (
            {} if overflow == "drop-oldest" else dict.fromkeys((1, 2, 3), "the queue was full")
        )
        assert dead == expected
        await check_keys(broker, fresh_name)

    async def test_of_a_batch_that_is_too_large_the_last_stay(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await limit(broker, fresh_name, 10, "drop-oldest")
        await publish(broker, fresh_name, [b"a"] * 5000)
        assert numbers_of(await broker.take(fresh_name, 99)) == list(range(4991, 5001))

    async def test_the_lowest_priority_goes_first_and_what_is_delayed_last(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await limit(broker, fresh_name, 5, "drop-oldest")
        await publish(broker, fresh_name, [b"1"], delay_seconds=100)
        for priority in (4, 0, 9, 0):
            await publish(broker, fresh_name, [b"a"], priority=priority)
        left, gone = {1, 2, 3, 4, 5}, []
        for _ in range(4):
            await publish(broker, fresh_name, [b"new"], priority=9)
            still = {n for n in left if await state_of(broker, fresh_name, n) != "gone"}
            gone += sorted(left - still)
            left = still
        assert gone == [3, 5, 2, 4]
        await check_keys(broker, fresh_name)

    async def test_what_expired_goes_before_anything_that_lives(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await publish(broker, fresh_name, [b"a"] * 300, ttl_seconds=5)
        await publish(broker, fresh_name, [b"a"] * 5)
        await limit(broker, fresh_name, 5, "dead-letter")
        broker.scripts.clock_seconds = NOON + 5
        await broker.add(fresh_name, b"new")
        assert numbers_of(await broker.peek(fresh_name, 9)) == [302, 303, 304, 305, 306]
        assert [d.message.number for d in await broker.dead_letters.list(fresh_name, 9)] == [301]

    async def test_what_is_leased_stays_with_its_holder(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await limit(broker, fresh_name, 1, "drop-oldest")
        await broker.add(fresh_name, b"1")
        (leased,) = await broker.lease(fresh_name)
        await add_all(broker, fresh_name, b"2", b"3")
        await broker.ack(receipt_of(fresh_name, leased))
        assert numbers_of(await broker.take(fresh_name, 9)) == [3]
