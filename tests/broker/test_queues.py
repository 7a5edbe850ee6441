"""Queues: messages in, messages out, on a Redis instance and on a Redis Cluster alike."""

import asyncio
import random
from collections.abc import Callable
from typing import cast

import pytest

from restmq.broker.broker import Broker, Policy
from restmq.errors import InvalidInput
from tests.broker.conftest import MakeBroker
from tests.broker.steps import (
    NOON,
    add_all,
    classic_stats,
    drain,
    numbers_of,
    values_of,
)


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
        assert [(m.number, m.value) for m in await drain(one, fresh_name)] == sorted(named.items())

    async def test_two_nodes_that_take_at_once_share_out_the_messages(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        one, other = await make_broker(), await make_broker()
        await add_all(one, fresh_name, *[b"%d" % index for index in range(400)])
        takes = [(one, other)[n % 2].take(fresh_name, 1 + n % 3) for n in range(200)]
        shares = await asyncio.gather(*takes)
        numbers = [message.number for share in shares for message in share]
        assert sorted(numbers) == list(range(1, 399 + 1))  # 200 takes of 1, 2, 3, 1, 2, 3...
        assert numbers_of(await drain(one, fresh_name)) == [400]


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
        assert await classic_stats(broker, name) == (name, 2, True, None, 0)
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


class TestStats:
    async def test_an_unknown_queue_is_empty_and_started_and_is_not_made_known_by_asking(
        self, broker: Broker, fresh_name: str
    ) -> None:
        assert await classic_stats(broker, fresh_name) == (fresh_name, 0, True, None, 0)
        assert fresh_name not in await broker.list_queues(fresh_name[:-1])

    async def test_policy_and_status_are_kept_even_from_before_the_first_message(
        self, broker: Broker, fresh_name: str
    ) -> None:
        await broker.set_started(fresh_name, started=False)
        await broker.set_policy(fresh_name, Policy.ROUNDROBIN)
        await broker.add(fresh_name, b"value")
        expected = (fresh_name, 1, False, Policy.ROUNDROBIN, 0)
        assert await classic_stats(broker, fresh_name) == expected
        await broker.set_started(fresh_name, started=True)
        await broker.set_policy(fresh_name, Policy.BROADCAST)
        expected = (fresh_name, 1, True, Policy.BROADCAST, 0)
        assert await classic_stats(broker, fresh_name) == expected

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
