"""Dead letters: what was delivered too often, or given up, is kept with its story."""

import pytest

from restmq.broker.broker import Broker
from restmq.errors import InvalidInput
from tests.broker.conftest import MakeBroker
from tests.broker.fakes import vanish
from tests.broker.invariants import check_keys
from tests.broker.steps import (
    NOON,
    numbers_of,
    publish,
    receipt_of,
    state_of,
    until,
    visit,
)


async def bury(broker: Broker, queue: str, *reasons: str) -> None:
    """Add a message for each reason and bury it."""
    for reason in reasons:
        await broker.add(queue, b"value")
        (leased,) = await broker.lease(queue)
        await broker.bury(receipt_of(queue, leased), reason)


class TestDying:
    @pytest.mark.parametrize(
        ("way", "reason"),
        [("expiry", "the lease ran out"), ("release", "it was released"), ("delay", "it was")],
    )
    async def test_after_so_many_attempts_a_message_is_dead_with_its_story(
        self, broker: Broker, fresh_name: str, way: str, reason: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await broker.configuration.change(fresh_name, {"max_attempts": 3})
        await broker.add(fresh_name, b"value")
        for attempt in (1, 2, 3):
            (leased,) = await broker.lease(fresh_name, lease_seconds=10)
            assert leased.attempt == attempt
            if way != "expiry":
                seconds = 5 if way == "delay" else 0
                await broker.release(receipt_of(fresh_name, leased), seconds)
            broker.scripts.clock_seconds += 10
        assert await broker.lease(fresh_name) == []
        assert (await broker.stats(fresh_name)).dead == 1
        (letter,) = await broker.dead_letters.list(fresh_name, 9)
        assert (letter.message.number, letter.message.value) == (1, b"value")
        assert letter.attempts == 3
        assert letter.reason.startswith(reason)
        assert NOON < letter.died <= NOON + 30
        assert letter.message.published == NOON
        shown = await broker.inspect(fresh_name, 1)
        assert (shown.state, shown.attempts, shown.last_error) == ("dead", 3, letter.reason)
        await check_keys(broker, fresh_name)

    async def test_zero_attempts_mean_for_ever(self, broker: Broker, fresh_name: str) -> None:
        await broker.configuration.change(fresh_name, {"max_attempts": 0})
        await broker.add(fresh_name, b"value")
        for attempt in range(1, 12):
            (leased,) = await broker.lease(fresh_name)
            assert leased.attempt == attempt
            await broker.release(receipt_of(fresh_name, leased))

    async def test_five_are_the_default(self, broker: Broker, fresh_name: str) -> None:
        await broker.add(fresh_name, b"value")
        for _ in range(5):
            (leased,) = await broker.lease(fresh_name)
            await broker.release(receipt_of(fresh_name, leased))
        assert await state_of(broker, fresh_name, 1) == "dead"

    async def test_what_is_given_up_is_dead_at_once_for_the_reason_given(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await bury(broker, fresh_name, "cannot read: \u00e9 'quoted'")
        (letter,) = await broker.dead_letters.list(fresh_name, 9)
        assert (letter.attempts, letter.reason) == (1, "cannot read: \u00e9 'quoted'")

    @pytest.mark.parametrize("reason", ["", "a" * 1001, "two\nlines"])
    async def test_a_bad_reason_is_refused(
        self, instance_broker: Broker, fresh_name: str, reason: str
    ) -> None:
        await instance_broker.add(fresh_name, b"value")
        (leased,) = await instance_broker.lease(fresh_name)
        with pytest.raises(InvalidInput):
            await instance_broker.bury(receipt_of(fresh_name, leased), reason)
        await instance_broker.ack(receipt_of(fresh_name, leased))

    async def test_a_ttl_runs_among_the_dead(self, broker: Broker, fresh_name: str) -> None:
        broker.scripts.clock_seconds = NOON
        await broker.add(fresh_name, b"value", ttl_seconds=20)
        await broker.add(fresh_name, b"for ever")
        for message in await broker.lease(fresh_name, 2):
            await broker.bury(receipt_of(fresh_name, message), "bad")
        broker.scripts.clock_seconds = NOON + 19
        assert len(await broker.dead_letters.list(fresh_name, 9)) == 2
        broker.scripts.clock_seconds = NOON + 20
        assert await state_of(broker, fresh_name, 1) == "gone"
        await visit(broker, fresh_name)
        assert (await broker.stats(fresh_name)).dead == 1
        assert await broker.dead_letters.redrive(fresh_name) == 1
        await check_keys(broker, fresh_name)

    async def test_one_that_was_given_up_after_its_ttl_is_gone(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await broker.add(fresh_name, b"value", ttl_seconds=5)
        (leased,) = await broker.lease(fresh_name)
        broker.scripts.clock_seconds = NOON + 6
        await broker.bury(receipt_of(fresh_name, leased), "bad")
        assert await broker.dead_letters.list(fresh_name, 9) == []

    async def test_leases_that_end_with_their_node_gone_count_as_attempts(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        dead, alive = await make_broker(), await make_broker()
        await alive.configuration.change(fresh_name, {"max_attempts": 1})
        await alive.add(fresh_name, b"value")
        await dead.lease(fresh_name, lease_seconds=1)
        await vanish(dead)

        async def is_dead() -> bool:
            return len(await alive.dead_letters.list(fresh_name, 9)) == 1

        await until(is_dead)


class TestReturning:
    async def test_all_come_back_in_their_order_with_attempts_from_zero(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await bury(broker, fresh_name, *["bad"] * 12)
        await broker.add(fresh_name, b"new")
        assert await broker.dead_letters.redrive(fresh_name) == 12
        leased = await broker.lease(fresh_name, 99)
        assert [(m.number, m.attempt) for m in leased] == [(n, 1) for n in range(1, 14)]
        assert (await broker.stats(fresh_name)).dead == 0
        await check_keys(broker, fresh_name)

    async def test_some_the_oldest_first_or_one_by_its_number(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        for _ in range(4):
            await bury(broker, fresh_name, "bad")
            broker.scripts.clock_seconds += 1
        assert await broker.dead_letters.redrive(fresh_name, number=3) == 1
        assert await broker.dead_letters.redrive(fresh_name, number=3) == 0
        assert await broker.dead_letters.redrive(fresh_name, number=99) == 0
        assert await broker.dead_letters.redrive(fresh_name, count=2) == 2
        assert numbers_of(await broker.take(fresh_name, 9)) == [1, 2, 3]
        (left,) = await broker.dead_letters.list(fresh_name, 9)
        assert left.message.number == 4

    async def test_what_dies_again_is_not_put_back_for_ever(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await broker.configuration.change(fresh_name, {"max_attempts": 1})
        await publish(broker, fresh_name, [b"a"] * 3)
        for message in await broker.lease(fresh_name, 3):
            await broker.release(receipt_of(fresh_name, message))
        assert await broker.dead_letters.redrive(fresh_name) == 3
        (again, *_) = await broker.lease(fresh_name)
        assert again.attempt == 1

    async def test_thousands_and_big_ones_all_come_back(
        self, instance_broker: Broker, fresh_name: str
    ) -> None:
        broker = instance_broker
        await broker.configuration.change(fresh_name, {"max_attempts": 1})
        await publish(broker, fresh_name, [b"small"] * 1200)
        await publish(broker, fresh_name, [b"a" * 1_000_000] * 25)
        while leased := await broker.lease(fresh_name, 1000):
            for message in leased:
                await broker.release(receipt_of(fresh_name, message))
        assert (await broker.stats(fresh_name)).dead == 1225
        listed = await broker.dead_letters.list(fresh_name, 1000, offset=1200)
        assert 1 <= len(listed) <= 9
        assert await broker.dead_letters.redrive(fresh_name) == 1225
        assert (await broker.stats(fresh_name)).length == 1225


class TestListing:
    async def test_they_are_listed_oldest_first_in_pages(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        for index in range(5):
            await bury(broker, fresh_name, f"reason {index}")
            broker.scripts.clock_seconds += 1
        first = await broker.dead_letters.list(fresh_name, 3)
        rest = await broker.dead_letters.list(fresh_name, 3, offset=3)
        assert [d.reason for d in (*first, *rest)] == [f"reason {index}" for index in range(5)]
        assert await broker.dead_letters.list(fresh_name + "x", 3) == []

    async def test_dropping_leaves_none_and_nothing_else_is_touched(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await bury(broker, fresh_name, "bad", "worse")
        await broker.add(fresh_name, b"ready")
        assert await broker.dead_letters.drop(fresh_name) == 2
        assert await broker.dead_letters.drop(fresh_name) == 0
        stats = await broker.stats(fresh_name)
        assert (stats.length, stats.dead) == (1, 0)
        await check_keys(broker, fresh_name)

    async def test_a_purge_leaves_them(self, broker: Broker, fresh_name: str) -> None:
        await bury(broker, fresh_name, "bad")
        assert await broker.purge(fresh_name) is False
        assert await broker.dead_letters.redrive(fresh_name) == 1
