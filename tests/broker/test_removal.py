"""How messages leave a queue other than by being taken, and what is left of them: nothing."""

import asyncio
import random
from collections.abc import Callable
from typing import cast

import pytest
from redis.asyncio import Redis

from restmq.broker.broker import MAX_TTL_SECONDS, Broker, Policy
from restmq.broker.keys import REGISTRY, queue_keys
from restmq.errors import InvalidInput
from tests.broker.steps import (
    NOON,
    add_all,
    classic_stats,
    drain,
    keys_of,
    numbers_of,
    size_of,
    values_of,
)


class TestDelete:
    async def test_a_queued_message_is_gone_from_everywhere(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await add_all(broker, fresh_name, b"a", b"b", b"c")
        assert await broker.delete(fresh_name, 2) is True
        assert await broker.delete(fresh_name, 2) is False
        assert (await broker.stats(fresh_name)).length == 2
        assert values_of(await broker.take(fresh_name, 9)) == [b"a", b"c"]

    async def test_the_last_message_can_be_deleted_and_leaves_an_empty_queue(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await broker.add(fresh_name, b"a")
        assert await broker.delete(fresh_name, 1)
        assert await broker.peek(fresh_name, 9) == []
        assert await broker.purge(fresh_name) is False

    async def test_a_popped_message_is_known_once_more(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await add_all(broker, fresh_name, *[b"%d" % n for n in range(5)])
        await broker.pop(fresh_name, 4)
        for number in (2, 1, 4, 3):
            assert await broker.delete(fresh_name, number) is True
            assert await broker.delete(fresh_name, number) is False
        assert values_of(await broker.take(fresh_name, 9)) == [b"4"]

    async def test_a_taken_message_is_not(self, broker: Broker, fresh_name: str) -> None:
        await add_all(broker, fresh_name, b"a", b"b")
        await broker.take(fresh_name)
        assert await broker.delete(fresh_name, 1) is False
        assert (await broker.stats(fresh_name)).length == 1

    async def test_a_popped_message_that_was_given_back_is_deleted_from_the_queue(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await add_all(broker, fresh_name, b"a", b"b", b"c")
        broker.give_back(fresh_name, await broker.pop(fresh_name, 3))
        assert await broker.delete(fresh_name, 2) is True
        assert await broker.delete(fresh_name, 2) is False
        assert values_of(await broker.take(fresh_name, 9)) == [b"a", b"c"]

    async def test_unknown_numbers_and_unknown_queues_answer_no(
        self, broker: Broker, fresh_name: str
    ) -> None:
        assert await broker.delete(fresh_name, 1) is False
        await broker.add(fresh_name, b"a")
        for number in (2, 2**53 - 1):
            assert await broker.delete(fresh_name, number) is False
        assert values_of(await broker.take(fresh_name)) == [b"a"]

    async def test_a_delete_touches_only_its_own_queue(
        self, broker: Broker, fresh_name: str
    ) -> None:
        other = f"{fresh_name}:1"
        await add_all(broker, fresh_name, b"a", b"b")
        await add_all(broker, other, b"c", b"d")
        assert await broker.delete(other, 1)
        assert values_of(await broker.take(fresh_name, 9)) == [b"a", b"b"]
        assert values_of(await broker.take(other, 9)) == [b"d"]

    async def test_popped_messages_are_remembered_in_a_bounded_number(
        self, instance_broker: Broker, store: "Redis", fresh_name: str
    ) -> None:
        # Every second one is deleted, so that no two popped numbers follow each other.
        await add_all(instance_broker, fresh_name, *[b"value"] * 6000)
        deletes = (instance_broker.delete(fresh_name, number) for number in range(2, 6001, 2))
        await asyncio.gather(*deletes)
        await asyncio.gather(*(instance_broker.pop(fresh_name) for _ in range(3000)))
        popped = queue_keys(fresh_name, "").popped
        assert await size_of(store, popped) < 32 * 1024
        assert 0 < await store.ttl(popped) <= 300
        assert await instance_broker.delete(fresh_name, 5999) is True
        assert await instance_broker.delete(fresh_name, 1) is False


class TestPurge:
    async def test_it_empties_the_queue_and_says_whether_anything_was_there(
        self, broker: Broker, fresh_name: str
    ) -> None:
        assert await broker.purge(fresh_name) is False
        await add_all(broker, fresh_name, *[b"value"] * 100)
        await broker.get(fresh_name)
        assert await broker.purge(fresh_name) is True
        assert await broker.purge(fresh_name) is False
        assert await broker.get(fresh_name) is None
        assert await broker.peek(fresh_name, 9) == []
        assert await classic_stats(broker, fresh_name) == (fresh_name, 0, True, None, 0)

    async def test_name_policy_and_status_stay(self, broker: Broker, fresh_name: str) -> None:
        await broker.add(fresh_name, b"value")
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        await broker.set_started(fresh_name, started=False)
        await broker.purge(fresh_name)
        expected = (fresh_name, 0, False, Policy.ROUNDROBIN, 0)
        assert await classic_stats(broker, fresh_name) == expected
        assert fresh_name in await broker.list_queues(fresh_name[:-1])

    async def test_a_purged_queue_leaves_only_its_record(
        self, instance_broker: Broker, store: "Redis", fresh_name: str
    ) -> None:
        await instance_broker.add(fresh_name, b"value", ttl_seconds=60)
        await instance_broker.get(fresh_name)
        await add_all(instance_broker, fresh_name, b"a", b"b")
        await instance_broker.delete(fresh_name, 2)
        await instance_broker.purge(fresh_name)
        assert set(await keys_of(store, fresh_name)) == {queue_keys(fresh_name, "").record}


class TestExpiry:
    async def test_an_expired_message_is_skipped_and_does_not_count(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await broker.add(fresh_name, b"short", ttl_seconds=1)
        await broker.add(fresh_name, b"long", ttl_seconds=60)
        await broker.add(fresh_name, b"for ever")
        broker.scripts.clock_seconds = NOON + 0.999
        assert (await broker.stats(fresh_name)).length == 3
        broker.scripts.clock_seconds = NOON + 1
        assert (await broker.stats(fresh_name)).length == 2
        assert values_of(await broker.peek(fresh_name, 9)) == [b"long", b"for ever"]
        looked = await broker.get(fresh_name)
        assert looked is not None
        assert looked[0].value == b"long"
        assert values_of(await broker.pop(fresh_name)) == [b"long"]
        assert values_of(await broker.take(fresh_name, 9)) == [b"for ever"]
        assert (await broker.stats(fresh_name)).length == 0

    @pytest.mark.parametrize("way", ["pop", "take", "get", "peek", "peek newest"])
    async def test_a_queue_of_nothing_but_expired_messages_is_empty_to_everyone(
        self, broker: Broker, fresh_name: str, way: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        for index in range(250):
            await broker.add(fresh_name, b"value", ttl_seconds=1 + index % 3)
        broker.scripts.clock_seconds = NOON + 3
        answers: dict[str, Callable[[], object]] = {
            "pop": lambda: broker.pop(fresh_name, 9),
            "take": lambda: broker.take(fresh_name, 9),
            "get": lambda: broker.get(fresh_name),
            "peek": lambda: broker.peek(fresh_name, 9),
            "peek newest": lambda: broker.peek(fresh_name, 9, newest=True),
        }
        assert not await cast("asyncio.Future[object]", answers[way]())
        assert (await broker.stats(fresh_name)).length == 0
        assert await broker.purge(fresh_name) is False

    async def test_deleting_an_expired_message_answers_that_there_is_none(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await broker.add(fresh_name, b"value", ttl_seconds=5)
        broker.scripts.clock_seconds = NOON + 5
        assert await broker.delete(fresh_name, 1) is False

    async def test_an_expired_message_that_is_given_back_stays_away(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await broker.add(fresh_name, b"short", ttl_seconds=5)
        await broker.add(fresh_name, b"long", ttl_seconds=50)
        taken = await broker.take(fresh_name, 2)
        broker.scripts.clock_seconds = NOON + 10
        broker.give_back(fresh_name, taken)
        assert (await broker.stats(fresh_name)).length == 1
        assert values_of(await broker.peek(fresh_name, 9)) == [b"long"]
        broker.scripts.clock_seconds = NOON + 50
        assert (await broker.stats(fresh_name)).length == 0
        assert await broker.take(fresh_name) == []

    @pytest.mark.parametrize("ttl_seconds", [0, -1, MAX_TTL_SECONDS + 1])
    async def test_a_bad_ttl_is_refused_and_nothing_is_stored(
        self, instance_broker: Broker, fresh_name: str, ttl_seconds: int
    ) -> None:
        with pytest.raises(InvalidInput, match="ttl must be"):
            await instance_broker.add(fresh_name, b"value", ttl_seconds=ttl_seconds)
        assert (await instance_broker.stats(fresh_name)).length == 0
        assert fresh_name not in await instance_broker.list_queues(fresh_name[:-1])
        assert await instance_broker.add(fresh_name, b"value", ttl_seconds=MAX_TTL_SECONDS) == 1


class TestGhosts:
    async def test_deletes_behind_a_stuck_head_are_swept_out_and_the_order_stays(
        self, instance_broker: Broker, store: "Redis", fresh_name: str
    ) -> None:
        broker = instance_broker
        await add_all(broker, fresh_name, *[b"%d" % number for number in range(1, 12_001)])
        kept = {1, 2, 500, 4000, 4001, 7999, 11_999, 12_000}
        gone = [number for number in range(1, 12_001) if number not in kept]
        random.Random(7).shuffle(gone)
        answers = await asyncio.gather(*(broker.delete(fresh_name, number) for number in gone))
        assert all(answers)
        ready = queue_keys(fresh_name, "").ready
        assert await store.llen(ready) < 1100
        assert [m.number for m in await broker.peek(fresh_name, 99)] == sorted(kept)
        assert numbers_of(await drain(broker, fresh_name)) == sorted(kept)

    async def test_a_queue_that_is_added_to_and_deleted_from_for_ever_does_not_grow(
        self, instance_broker: Broker, store: "Redis", fresh_name: str
    ) -> None:
        broker = instance_broker
        await broker.add(fresh_name, b"stuck")
        for _ in range(20):
            numbers = await add_all(broker, fresh_name, *[b"value"] * 500)
            await asyncio.gather(*(broker.delete(fresh_name, number) for number in numbers))
        sizes = await keys_of(store, fresh_name)
        assert sum(sizes.values()) < 64 * 1024
        assert values_of(await broker.take(fresh_name, 9)) == [b"stuck"]


class TestMemory:
    async def test_an_empty_known_queue_costs_at_most_700_bytes(
        self, instance_broker: Broker, store: "Redis", fresh_name: str
    ) -> None:
        await instance_broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        await instance_broker.set_started(fresh_name, started=True)
        await add_all(instance_broker, fresh_name, *[b"value"] * 100)
        await instance_broker.get(fresh_name)
        await instance_broker.pop(fresh_name, 50)
        await instance_broker.take(fresh_name, 50)
        lasting = 0
        for key, size_bytes in (await keys_of(store, fresh_name)).items():
            if await store.ttl(key) == -1:
                lasting += size_bytes
            else:
                assert 0 < await store.ttl(key) <= 900, key
        registry_bytes = await size_of(store, REGISTRY)
        assert lasting + registry_bytes / await store.zcard(REGISTRY) <= 700

    async def test_what_has_expired_leaves_memory_when_the_queue_is_next_read(
        self, instance_broker: Broker, store: "Redis", fresh_name: str
    ) -> None:
        instance_broker.scripts.clock_seconds = NOON
        for _ in range(250):
            await instance_broker.add(fresh_name, b"a" * 100, ttl_seconds=1)
        await instance_broker.get(fresh_name)
        instance_broker.scripts.clock_seconds = NOON + 1
        assert await instance_broker.take(fresh_name) == []
        assert set(await keys_of(store, fresh_name)) == {queue_keys(fresh_name, "").record}

    async def test_a_queue_that_is_only_added_to_keeps_no_more_than_what_has_not_expired(
        self, instance_broker: Broker, store: "Redis", fresh_name: str
    ) -> None:
        for step in range(200):
            instance_broker.scripts.clock_seconds = NOON + step
            adds = (instance_broker.add(fresh_name, b"a" * 200, ttl_seconds=2) for _ in range(50))
            await asyncio.gather(*adds)
        assert (await instance_broker.stats(fresh_name)).length == 100
        sizes = await keys_of(store, fresh_name)
        assert sum(sizes.values()) < 200_000, sizes
