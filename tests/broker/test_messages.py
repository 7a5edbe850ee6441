"""Single messages: shown and removed wherever they are, with their story."""

import pytest

from restmq.broker.broker import Broker
from restmq.errors import Conflict, NotFound, StaleReceipt
from tests.broker.fakes import FakeConsumer
from tests.broker.invariants import check_keys
from tests.broker.steps import NOON, add_all, publish, receipt_of, state_of, until

STATES = ("ready", "ranked", "delayed", "leased", "dead")


async def put(broker: Broker, queue: str, state: str) -> None:
    """Add one message and bring it into a state."""
    if state == "delayed":
        await publish(broker, queue, [b"value"], delay_seconds=50)
        return
    await publish(broker, queue, [b"value"], priority=9 if state == "ranked" else 4)
    if state in ("leased", "dead"):
        (leased,) = await broker.lease(queue, lease_seconds=20)
        if state == "dead":
            await broker.bury(receipt_of(queue, leased), "bad")


class TestInspect:
    @pytest.mark.parametrize("state", STATES)
    async def test_it_shows_state_and_story_and_touches_nothing(
        self, broker: Broker, fresh_name: str, state: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await put(broker, fresh_name, state)
        times = {"delayed": NOON + 50, "leased": NOON + 20, "dead": NOON}
        for _ in range(2):
            shown = await broker.inspect(fresh_name, 1)
            assert shown.state == ("ready" if state == "ranked" else state)
            assert (shown.message.value, shown.message.published) == (b"value", NOON)
            assert shown.attempts == (1 if state in ("leased", "dead") else 0)
            assert shown.last_error == ("bad" if state == "dead" else None)
            assert shown.since_or_until == times.get(state)

    async def test_the_last_error_says_why_it_came_back(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await put(broker, fresh_name, "leased")
        broker.scripts.clock_seconds = NOON + 20
        shown = await broker.inspect(fresh_name, 1)
        assert (shown.state, shown.attempts) == ("ready", 1)
        assert shown.last_error == "the lease ran out"
        assert shown.since_or_until is None

    @pytest.mark.parametrize("number", [1, 2, 2**53 - 1])
    async def test_what_is_not_there_is_not_found(
        self, broker: Broker, fresh_name: str, number: int
    ) -> None:
        await broker.add(fresh_name, b"taken")
        await broker.take(fresh_name)
        with pytest.raises(NotFound):
            await broker.inspect(fresh_name, number)


class TestDelete:
    @pytest.mark.parametrize("state", STATES)
    async def test_it_is_removed_wherever_it_is_and_nothing_is_left(
        self, broker: Broker, fresh_name: str, state: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await put(broker, fresh_name, state)
        await broker.add(fresh_name, b"another")
        assert await broker.delete(fresh_name, 1) is True
        assert await state_of(broker, fresh_name, 1) == "gone"
        assert await broker.delete(fresh_name, 1) is False
        stats = await broker.stats(fresh_name)
        assert (stats.length, stats.delayed, stats.leased, stats.dead) == (1, 0, 0, 0)
        await check_keys(broker, fresh_name)
        broker.scripts.clock_seconds = NOON + 100
        assert [m.number for m in await broker.take(fresh_name, 9)] == [2]

    async def test_a_held_lease_becomes_stale(self, broker: Broker, fresh_name: str) -> None:
        await broker.add(fresh_name, b"a")
        (leased,) = await broker.lease(fresh_name)
        await broker.delete(fresh_name, 1)
        with pytest.raises(StaleReceipt):
            await broker.extend(receipt_of(fresh_name, leased), 10)

    async def test_a_stream_that_held_it_gets_the_next(
        self, broker: Broker, fresh_name: str
    ) -> None:
        consumer = FakeConsumer()
        await add_all(broker, fresh_name, b"a", b"b")
        await broker.join_leased(fresh_name, consumer, prefetch=1, lease_seconds=1000)
        broker.begin_leased(fresh_name, consumer)
        await until(lambda: consumer.numbers == [1])
        await broker.delete(fresh_name, 1)
        await until(lambda: consumer.numbers == [1, 2])
        await broker.leave_leased(fresh_name, consumer)


class TestStates:
    @pytest.mark.parametrize("state", ["leased", "dead", "ready", "ranked"])
    async def test_what_is_not_delayed_cannot_be_rescheduled(
        self, broker: Broker, fresh_name: str, state: str
    ) -> None:
        await put(broker, fresh_name, state)
        with pytest.raises(Conflict):
            await broker.reschedule(fresh_name, 1, delay_seconds=5)

    async def test_purging_says_whether_there_was_anything_in_any_state_but_dead(
        self, broker: Broker, fresh_name: str
    ) -> None:
        for index, state in enumerate(STATES):
            name = f"{fresh_name}-{index}"
            await put(broker, name, state)
            assert await broker.purge(name) is (state != "dead")
            assert await broker.purge(name) is False
            await check_keys(broker, name)
