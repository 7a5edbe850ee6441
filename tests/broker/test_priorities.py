"""Order: by priority, then by number, whatever way a message became ready."""

import random

import pytest
from redis.asyncio import Redis

from restmq.broker.broker import Broker
from restmq.broker.keys import queue_keys
from restmq.errors import Conflict, InvalidInput, NotFound
from tests.broker.fakes import FakeConsumer, streaming
from tests.broker.invariants import check_keys
from tests.broker.steps import (
    NOON,
    ack_all,
    add_all,
    drain,
    numbers_of,
    publish,
    receipt_of,
    until,
    values_of,
)


async def publish_mixed(broker: Broker, queue: str, count: int, seed: int) -> list[int]:
    """Add messages of any priority; returns their numbers in the order in which they leave."""
    choice = random.Random(seed)
    priorities = [choice.choice([4, 4, 4, 0, 1, 3, 5, 9]) for _ in range(count)]
    for priority in priorities:
        await publish(broker, queue, [b"a"], priority=priority)
    order = sorted(zip(priorities, range(1, count + 1), strict=True), key=lambda p: (-p[0], p[1]))
    return [number for _, number in order]


class TestOrder:
    @pytest.mark.parametrize("step", [1, 3, 500])
    async def test_higher_first_and_by_number_in_one_priority(
        self, broker: Broker, fresh_name: str, step: int
    ) -> None:
        expected = await publish_mixed(broker, fresh_name, 60, step)
        assert numbers_of(await broker.peek(fresh_name, 99)) == expected
        assert numbers_of(await broker.peek(fresh_name, 99, newest=True)) == expected[::-1]
        seen = []
        while taken := await broker.take(fresh_name, step):
            seen += numbers_of(taken)
        assert seen == expected

    async def test_hundreds_of_each_kind_are_merged_page_by_page(
        self, instance_broker: Broker, fresh_name: str
    ) -> None:
        broker = instance_broker
        for start in range(4):
            await publish(broker, fresh_name, [b"a"] * 250, priority=(4, 3, 4, 5)[start])
        expected = [*range(751, 1001), *range(1, 251), *range(501, 751), *range(251, 501)]
        assert numbers_of(await broker.peek(fresh_name, 1000)) == expected
        assert numbers_of(await broker.peek(fresh_name, 1000, newest=True)) == expected[::-1]
        assert numbers_of(await drain(broker, fresh_name)) == expected

    @pytest.mark.parametrize("way", ["expiry", "release", "delay", "redrive", "give back"])
    async def test_what_comes_back_takes_the_place_that_it_had(
        self, broker: Broker, fresh_name: str, way: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        expected = await publish_mixed(broker, fresh_name, 30, 7)
        if way == "give back":
            broker.give_back(fresh_name, await broker.take(fresh_name, 17))
        else:
            leased = await broker.lease(fresh_name, 17, lease_seconds=10)
            random.Random(3).shuffle(leased)
            for message in leased:
                receipt = receipt_of(fresh_name, message)
                if way == "release":
                    await broker.release(receipt)
                elif way == "delay":
                    await broker.release(receipt, 5)
                elif way == "redrive":
                    await broker.bury(receipt, "bad")
            if way == "redrive":
                await broker.dead_letters.redrive(fresh_name)
            broker.scripts.clock_seconds = NOON + 10
        assert numbers_of(await broker.peek(fresh_name, 99)) == expected
        assert numbers_of(await broker.lease(fresh_name, 99)) == expected
        await check_keys(broker, fresh_name)

    async def test_streams_get_them_in_that_order(self, broker: Broker, fresh_name: str) -> None:
        expected = await publish_mixed(broker, fresh_name, 40, 5)
        consumer = FakeConsumer()
        async with streaming(broker, fresh_name, consumer):
            await until(lambda: consumer.numbers == expected)

    @pytest.mark.parametrize("priority", [-1, 10])
    async def test_a_priority_out_of_range_is_refused(
        self, instance_broker: Broker, fresh_name: str, priority: int
    ) -> None:
        with pytest.raises(InvalidInput, match="priority must be"):
            await publish(instance_broker, fresh_name, [b"a"], priority=priority)
        await instance_broker.add(fresh_name, b"a")
        with pytest.raises(InvalidInput, match="priority must be"):
            await instance_broker.set_priority(fresh_name, 1, priority)


class TestMoving:
    async def test_a_ready_message_moves_to_its_place_in_the_other_priority(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await add_all(broker, fresh_name, *[b"%d" % n for n in range(1, 7)])
        await broker.set_priority(fresh_name, 5, 9)
        await broker.set_priority(fresh_name, 1, 0)
        await broker.set_priority(fresh_name, 3, 9)
        await broker.set_priority(fresh_name, 2, 2)
        await broker.set_priority(fresh_name, 2, 4)  # and back
        expected = [3, 5, 2, 4, 6, 1]
        assert numbers_of(await broker.peek(fresh_name, 9)) == expected
        assert (await broker.inspect(fresh_name, 5)).message.priority == 9
        await check_keys(broker, fresh_name)
        assert [numbers_of(await broker.take(fresh_name))[0] for _ in range(6)] == expected
        assert (await broker.stats(fresh_name)).length == 0

    async def test_what_comes_next_in_the_list_is_not_overtaken_by_what_left_its_head(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await add_all(broker, fresh_name, b"1", b"2")
        await broker.set_priority(fresh_name, 1, 3)
        assert numbers_of(await broker.take(fresh_name)) == [2]
        assert numbers_of(await broker.take(fresh_name)) == [1]

    async def test_thousands_that_moved_leave_nothing_in_the_list(
        self, instance_broker: Broker, store: "Redis", fresh_name: str
    ) -> None:
        broker = instance_broker
        await publish(broker, fresh_name, [b"a"] * 3000)
        for number in range(1, 3001):
            if number % 3:
                await broker.set_priority(fresh_name, number, 6)
        expected = [n for n in range(1, 3001) if n % 3] + list(range(3, 3001, 3))
        leased = await broker.lease(fresh_name, 3000)
        assert numbers_of(leased) == expected
        await ack_all(broker, fresh_name, leased)
        keys = queue_keys(fresh_name, "")
        assert await store.exists(keys.ready, keys.stale, keys.ranked, keys.messages) == 0

    async def test_a_delayed_message_has_its_new_priority_when_it_is_ready(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await publish(broker, fresh_name, [b"later"], delay_seconds=5)
        await broker.add(fresh_name, b"now")
        await broker.set_priority(fresh_name, 1, 9)
        assert values_of(await broker.peek(fresh_name, 9)) == [b"now"]
        broker.scripts.clock_seconds = NOON + 5
        assert values_of(await broker.take(fresh_name, 9)) == [b"later", b"now"]

    async def test_what_is_leased_or_dead_or_gone_cannot_be_moved(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await add_all(broker, fresh_name, b"a", b"b")
        _, dead = await broker.lease(fresh_name, 2)
        await broker.bury(receipt_of(fresh_name, dead), "bad")
        for number in (1, 2):
            with pytest.raises(Conflict):
                await broker.set_priority(fresh_name, number, 9)
        with pytest.raises(NotFound):
            await broker.set_priority(fresh_name, 3, 9)
