"""Queues: messages in, messages out, on a Redis instance and on a Redis Cluster alike."""

import asyncio
import random
from collections.abc import Callable
from typing import cast

import pytest
from redis.asyncio import Redis

from restmq.broker.broker import MAX_TTL_SECONDS, Broker, Policy, QueueStats
from restmq.broker.keys import REGISTRY, queue_keys
from restmq.broker.message import Message
from restmq.errors import InvalidInput
from tests.broker.conftest import MakeBroker

NOON = 1_700_000_000.0


async def add_all(broker: Broker, queue: str, *values: bytes) -> list[int]:
    """Add the values in this order and return their numbers."""
    return list(await asyncio.gather(*(broker.add(queue, value) for value in values)))


def values_of(messages: list[Message]) -> list[bytes]:
    """Return the values of the messages."""
    return [message.value for message in messages]


async def drain(broker: Broker, queue: str) -> list[tuple[int, bytes]]:
    """Take all that is there; returns number and value of each."""
    taken = []
    while messages := await broker.take(queue, 500):
        taken += [(message.number, message.value) for message in messages]
    return taken


async def keys_of(store: "Redis", queue: str) -> dict[str, int]:
    """Return all keys that carry the queue's hash tag, each with its size in bytes."""
    found = [key async for key in store.scan_iter(match=f"restmq:{{{queue}}}:*", count=10_000)]
    return {key.decode(): await size_of(store, key) for key in found}


async def size_of(store: "Redis", key: str) -> int:
    """Return what Redis spends on a key, in bytes."""
    return await store.memory_usage(key, samples=0) or 0


class TestOrder:
    async def test_numbers_count_from_one_and_the_oldest_is_served_first(
        self, broker: Broker, fresh_name: str
    ) -> None:
        assert await add_all(broker, fresh_name, b"a", b"b", b"c") == [1, 2, 3]
        assert values_of(await broker.pop(fresh_name)) == [b"a"]
        assert values_of(await broker.take(fresh_name)) == [b"b"]
        assert values_of(await broker.pop(fresh_name, 10)) == [b"c"]
        assert await broker.pop(fresh_name) == []
        assert await broker.take(fresh_name) == []

    async def test_several_are_taken_in_one_go_and_never_more_than_asked_for(
        self, broker: Broker, fresh_name: str
    ) -> None:
        values = [b"%d" % index for index in range(300)]
        await add_all(broker, fresh_name, *values)
        assert values_of(await broker.take(fresh_name, 70)) == values[:70]
        assert values_of(await broker.pop(fresh_name, 130)) == values[70:200]
        assert values_of(await broker.take(fresh_name, 1000)) == values[200:]

    async def test_a_number_is_never_given_twice_whatever_happens_to_its_message(
        self, broker: Broker, fresh_name: str
    ) -> None:
        assert await broker.add(fresh_name, b"popped") == 1
        await broker.pop(fresh_name)
        assert await broker.add(fresh_name, b"deleted") == 2
        await broker.delete(fresh_name, 2)
        assert await broker.add(fresh_name, b"purged") == 3
        await broker.purge(fresh_name)
        assert await broker.add(fresh_name, b"expired", ttl_seconds=1) == 4
        broker.scripts.clock_seconds = 2 * NOON
        assert await broker.take(fresh_name) == []
        assert await broker.add(fresh_name, b"last") == 5

    async def test_what_is_given_back_stands_at_the_head_in_its_order(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await add_all(broker, fresh_name, b"a", b"b", b"c", b"d")
        taken = await broker.take(fresh_name, 3)
        broker.give_back(fresh_name, taken)
        assert [(m.number, m.value) for m in await broker.peek(fresh_name, 9)] == [
            (1, b"a"),
            (2, b"b"),
            (3, b"c"),
            (4, b"d"),
        ]
        assert values_of(await broker.take(fresh_name, 9)) == [b"a", b"b", b"c", b"d"]

    async def test_two_nodes_that_add_at_once_share_one_row_of_numbers(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        one, other = await make_broker(), await make_broker()
        count = 500

        async def publish(broker: Broker, name: str) -> list[int]:
            adds = (broker.add(fresh_name, f"{name} {n}".encode()) for n in range(count))
            return list(await asyncio.gather(*adds))

        numbers = await asyncio.gather(publish(one, "one"), publish(other, "other"))
        assert sorted(numbers[0] + numbers[1]) == list(range(1, 2 * count + 1))
        assert numbers[0] == sorted(numbers[0])
        assert numbers[1] == sorted(numbers[1])
        named = {
            number: f"{name} {index}".encode()
            for name, own in zip(("one", "other"), numbers, strict=True)
            for index, number in enumerate(own)
        }
        assert await drain(one, fresh_name) == sorted(named.items())

    async def test_two_nodes_that_take_at_once_share_out_the_messages(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        one, other = await make_broker(), await make_broker()
        await add_all(one, fresh_name, *[b"%d" % index for index in range(400)])
        takes = [(one, other)[n % 2].take(fresh_name, 1 + n % 3) for n in range(200)]
        shares = await asyncio.gather(*takes)
        numbers = [message.number for share in shares for message in share]
        assert sorted(numbers) == list(range(1, 399 + 1))  # 200 takes of 1, 2, 3, 1, 2, 3...
        assert [number for number, _ in await drain(one, fresh_name)] == [400]


class TestValues:
    @pytest.mark.parametrize(
        "value",
        [
            bytes(range(256)),
            b"",
            b"\n\n\r\n",
            b"\0",
            b"\0\0\0",
            b" 42 ",
            b"42",
            b"*3\r\n$3\r\nSET\r\n",
            "caf\u00e9 \U0001f407 \u2028".encode(),
            b"\xff\xfe",
        ],
        ids=repr,
    )
    async def test_a_value_comes_back_byte_for_byte(
        self, broker: Broker, fresh_name: str, value: bytes
    ) -> None:
        await add_all(broker, fresh_name, value, value, value)
        assert values_of(await broker.peek(fresh_name, 1)) == [value]
        looked = await broker.get(fresh_name)
        assert looked is not None
        assert looked[0].value == value
        assert values_of(await broker.pop(fresh_name)) == [value]
        taken = await broker.take(fresh_name)
        assert values_of(taken) == [value]
        broker.give_back(fresh_name, taken)
        assert values_of(await broker.take(fresh_name, 2)) == [value, value]

    async def test_a_value_of_one_mebibyte_comes_back_byte_for_byte(
        self, broker: Broker, fresh_name: str
    ) -> None:
        value = random.Random(1).randbytes(1024 * 1024)
        await broker.add(fresh_name, value)
        assert values_of(await broker.pop(fresh_name)) == [value]

    async def test_the_content_type_stays_with_its_message(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await broker.add(fresh_name, b"{}", content_type="application/json")
        await broker.add(fresh_name, b"text")
        first, second = await broker.take(fresh_name, 2)
        assert (first.attributes.content_type, first.value) == ("application/json", b"{}")
        assert (second.attributes.content_type, second.value) == (None, b"text")

    async def test_a_message_tells_when_it_was_published(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON + 0.25
        await broker.add(fresh_name, b"value")
        broker.scripts.clock_seconds = NOON + 60
        message = (await broker.take(fresh_name))[0]
        assert message.published == NOON + 0.25


class TestNames:
    @pytest.mark.parametrize(
        "pattern",
        [
            "{}",
            "{}}}",
            "{{{}",
            "{{{}}}",
            "}}{}{{",
            "{}%7D",
            "{}%",
            "{}:1",
            ":{}:",
            "{}/a//b",
            "{} with spaces",
            "{}\n\t\0",
            "{}\u00e9\U0001f407",
            "restmq:queues{}",
            "{}*?[a]",
        ],
    )
    async def test_any_text_names_a_queue_of_its_own(
        self, broker: Broker, fresh_name: str, pattern: str
    ) -> None:
        name = pattern.format(fresh_name)
        await add_all(broker, name, b"a", b"b")
        assert await broker.stats(name) == QueueStats(name, 2, True, None, 0)
        assert await broker.delete(name, 2)
        assert values_of(await broker.take(name, 2)) == [b"a"]
        assert name in await broker.list_queues(after=name[:-1], limit=1000)

    async def test_names_that_look_alike_when_quoted_share_nothing(
        self, broker: Broker, fresh_name: str
    ) -> None:
        names = [fresh_name + end for end in ("}", "%7D", "%257D", "%", "%25", "}}", "", "{}")]
        for name in names:
            await broker.add(name, name.encode())
        for name in names:
            assert values_of(await broker.take(name, 9)) == [name.encode()]

    @pytest.mark.parametrize("name", ["", "a" * 1025, "\ud800"])
    async def test_a_bad_name_is_refused_by_all_that_creates(
        self, instance_broker: Broker, name: str
    ) -> None:
        with pytest.raises(InvalidInput):
            await instance_broker.add(name, b"value")
        with pytest.raises(InvalidInput):
            await instance_broker.set_policy(name, Policy.BROADCAST)
        with pytest.raises(InvalidInput):
            await instance_broker.set_started(name, started=False)

    @pytest.mark.parametrize(
        "ask",
        [
            lambda broker: broker.pop("\ud800"),
            lambda broker: broker.take("\ud800"),
            lambda broker: broker.get("\ud800"),
            lambda broker: broker.peek("\ud800", 1),
            lambda broker: broker.delete("\ud800", 1),
            lambda broker: broker.purge("\ud800"),
            lambda broker: broker.stats("\ud800"),
            lambda broker: broker.list_queues(after="\ud800"),
        ],
    )
    async def test_a_name_that_is_no_text_harms_nobody_else(
        self, instance_broker: Broker, fresh_name: str, ask: Callable[[Broker], object]
    ) -> None:
        with pytest.raises(InvalidInput):
            await cast("asyncio.Future[object]", ask(instance_broker))
        async with asyncio.timeout(10):
            assert await instance_broker.add(fresh_name, b"value") == 1


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


class TestGet:
    async def test_a_look_takes_nothing_and_counts_looks_at_that_message(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await add_all(broker, fresh_name, b"a", b"b")
        for count in (1, 2, 3):
            looked = await broker.get(fresh_name)
            assert looked is not None
            assert (looked[0].number, looked[0].value, looked[1]) == (1, b"a", count)
        await broker.take(fresh_name)
        looked = await broker.get(fresh_name)
        assert looked is not None
        assert (looked[0].value, looked[1]) == (b"b", 1)
        assert (await broker.stats(fresh_name)).length == 1

    async def test_there_is_nothing_to_look_at_in_an_empty_or_unknown_queue(
        self, broker: Broker, fresh_name: str
    ) -> None:
        assert await broker.get(fresh_name) is None
        await broker.add(fresh_name, b"a")
        await broker.take(fresh_name)
        assert await broker.get(fresh_name) is None


class TestPeek:
    async def test_both_ends_can_be_listed_and_nothing_changes(
        self, broker: Broker, fresh_name: str
    ) -> None:
        values = [b"%d" % index for index in range(250)]
        await add_all(broker, fresh_name, *values)
        assert values_of(await broker.peek(fresh_name, 3)) == values[:3]
        assert values_of(await broker.peek(fresh_name, 3, newest=True)) == values[:-4:-1]
        assert values_of(await broker.peek(fresh_name, 240)) == values[:240]
        assert values_of(await broker.peek(fresh_name, 999, newest=True)) == values[::-1]
        assert (await broker.stats(fresh_name)).length == 250

    async def test_deleted_messages_are_passed_over_at_both_ends(
        self, broker: Broker, fresh_name: str
    ) -> None:
        values = [b"%d" % number for number in range(1, 501)]
        await add_all(broker, fresh_name, *values)
        gone = [*range(1, 151), *range(200, 211), *range(351, 501)]
        await asyncio.gather(*(broker.delete(fresh_name, number) for number in gone))
        left = [b"%d" % number for number in range(1, 501) if number not in set(gone)]
        assert values_of(await broker.peek(fresh_name, 60)) == left[:60]
        assert values_of(await broker.peek(fresh_name, 500)) == left
        assert values_of(await broker.peek(fresh_name, 500, newest=True)) == left[::-1]


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
        assert [number for number, _ in await drain(broker, fresh_name)] == sorted(kept)

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
        assert await broker.stats(fresh_name) == QueueStats(fresh_name, 0, True, None, 0)

    async def test_name_policy_and_status_stay(self, broker: Broker, fresh_name: str) -> None:
        await broker.add(fresh_name, b"value")
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        await broker.set_started(fresh_name, started=False)
        await broker.purge(fresh_name)
        expected = QueueStats(fresh_name, 0, False, Policy.ROUNDROBIN, 0)
        assert await broker.stats(fresh_name) == expected
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


class TestStats:
    async def test_an_unknown_queue_is_empty_and_started_and_is_not_made_known_by_asking(
        self, broker: Broker, fresh_name: str
    ) -> None:
        assert await broker.stats(fresh_name) == QueueStats(fresh_name, 0, True, None, 0)
        assert fresh_name not in await broker.list_queues(fresh_name[:-1])

    async def test_policy_and_status_are_kept_even_from_before_the_first_message(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await broker.set_started(fresh_name, started=False)
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        await broker.add(fresh_name, b"value")
        expected = QueueStats(fresh_name, 1, False, Policy.ROUNDROBIN, 0)
        assert await broker.stats(fresh_name) == expected
        await broker.set_started(fresh_name, started=True)
        await broker.set_policy(fresh_name, Policy.BROADCAST)
        expected = QueueStats(fresh_name, 1, True, Policy.BROADCAST, 0)
        assert await broker.stats(fresh_name) == expected

    async def test_a_stopped_queue_takes_and_gives_messages_as_ever(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await broker.set_started(fresh_name, started=False)
        await add_all(broker, fresh_name, b"a", b"b")
        assert values_of(await broker.pop(fresh_name)) == [b"a"]
        assert values_of(await broker.take(fresh_name)) == [b"b"]

    async def test_queues_are_listed_by_name_in_pages(
        self, broker: Broker, fresh_name: str
    ) -> None:
        names = [f"{fresh_name}-{end}" for end in ("A", "B", "a", "b", "\u00e9", "\U0001f407")]
        before = await broker.count_queues()
        for name in reversed(names):
            await broker.add(name, b"value")
            await broker.add(name, b"value")
        assert await broker.count_queues() == before + len(names)
        assert await broker.list_queues(after=fresh_name, limit=4) == names[:4]
        assert (await broker.list_queues(after=names[3], limit=4))[:2] == names[4:]
        assert [s.name for s in await broker.list_stats(fresh_name, 2)] == names[:2]
        assert {s.length for s in await broker.list_stats(fresh_name, 6)} == {2}
        assert (await broker.list_queues())[:1] <= names[:1]

    async def test_an_emptied_queue_stays_known(self, broker: Broker, fresh_name: str) -> None:
        await broker.add(fresh_name, b"value")
        await broker.take(fresh_name)
        await broker.purge(fresh_name)
        assert await broker.list_queues(fresh_name[:-1], 1) == [fresh_name]


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
                assert 0 < await store.ttl(key) <= 300, key
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
