"""Logs: entries in order, read from any position, on a Redis instance and on a Redis Cluster."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from restmq.broker.keys import log_registry
from restmq.broker.log_entry import EntryKey, NewEntry, OtherAttributes, Query, Scope, make_log
from restmq.broker.log_ids import (
    IdKind,
    first_id_at,
    hex_of_id,
    id_of_hex,
    id_of_number,
    last_id_at,
    number_of_id,
    ticks_of_id,
)
from restmq.broker.scripts import Call, command
from restmq.errors import InvalidInput, NotFound, StoreUnavailable
from tests.broker.fakes import all_at_once
from tests.broker.log_node import (
    ALL,
    LogNode,
    MakeLogNode,
    number_log,
    opening_log_nodes,
    time_log,
    values_of,
)
from tests.broker.steps import NOON


@pytest.fixture
async def make_node(broker_redis_url: str) -> AsyncIterator[MakeLogNode]:
    """Opens nodes on an instance, and then on a cluster."""
    async with opening_log_nodes(broker_redis_url) as make:
        yield make


@pytest.fixture
async def node(make_node: MakeLogNode) -> LogNode:
    """One node on an instance, and then on a cluster."""
    return await make_node()


@pytest.fixture
async def instance_node(redis_url: str) -> AsyncIterator[LogNode]:
    """One node on an instance only."""
    async with opening_log_nodes(redis_url) as make:
        yield await make()


def an_id(ticks: int) -> bytes:
    """Return the id of some UUID of that time."""
    return id_of_hex(hex_of_id(first_id_at(ticks)[:8] + b"\x80" + bytes(7)))


class TestIds:
    async def test_a_log_that_counts_counts_from_one(self, node: LogNode, fresh_name: str) -> None:
        log = number_log(fresh_name)
        ids = await node.append(log, b"a", b"b") + await node.append(log, b"c")
        assert [number_of_id(entry_id) for entry_id in ids] == [1, 2, 3]
        page = await node.logs.read(log, Query(ALL))
        assert [(entry.number, entry.value) for entry in page.entries] == [
            (1, b"a"),
            (2, b"b"),
            (3, b"c"),
        ]

    @pytest.mark.parametrize("first", [1, 2, 2**32, 2**32 + 1, 2**53 - 10])
    async def test_a_log_can_be_told_where_to_begin(
        self, node: LogNode, fresh_name: str, first: int
    ) -> None:
        """It only ever goes ahead, and what is there stays."""
        log = number_log(fresh_name)
        await node.logs.begin_at(log, first)
        assert await node.logs.last_number(log) == first - 1
        await node.append(log, b"a", b"b")
        for lower in (1, first, first + 2):
            await node.logs.begin_at(log, lower)
        await node.append(log, b"c")
        await node.logs.begin_at(log, first + 5)
        await node.append(log, b"d")
        page = await node.logs.read(log, Query(ALL))
        assert [entry.number - first for entry in page.entries] == [0, 1, 2, 5]
        assert await node.values(log) == [b"a", b"b", b"c", b"d"]

    async def test_only_a_log_that_counts_has_a_first_number(
        self, node: LogNode, fresh_name: str
    ) -> None:
        with pytest.raises(InvalidInput):
            await node.logs.begin_at(time_log(fresh_name), 5)
        for number in (0, -1, 2**53):
            with pytest.raises(InvalidInput):
                await node.logs.begin_at(number_log(fresh_name), number)

    async def test_a_log_of_times_gives_uuids_that_tell_when(
        self, node: LogNode, fresh_name: str
    ) -> None:
        log = time_log(fresh_name)
        before = time.time()
        ids = await node.append(log, *[b"a"] * 300)
        after = time.time()
        assert ids == sorted(set(ids))
        for entry_id in ids:
            value = uuid.UUID(hex_of_id(entry_id))
            assert (value.version, value.variant) == (1, uuid.RFC_4122)
            assert before - 1 < ticks_of_id(entry_id) / 1e7 < after + 1

    async def test_the_time_in_an_id_is_exact(self, node: LogNode, fresh_name: str) -> None:
        node.scripts.clock_seconds = 1_700_000_000.123456
        first, second = await node.append(time_log(fresh_name), b"a", b"b")
        assert ticks_of_id(first) == 17_000_000_001_234_560
        assert ticks_of_id(second) == 17_000_000_001_234_561

    @pytest.mark.parametrize("kind", IdKind)
    async def test_ids_go_on_when_the_clock_steps_back(
        self, node: LogNode, fresh_name: str, kind: IdKind
    ) -> None:
        log = make_log("tests", fresh_name, kind)
        ids: list[bytes] = []
        published: list[float] = []
        for clock in (NOON, NOON + 1, NOON - 3600, NOON - 3600, NOON + 2):
            node.scripts.clock_seconds = clock
            for appended in await node.logs.append_all(log, [NewEntry(b"a"), NewEntry(b"b")]):
                ids.append(appended.id)
                published.append(appended.published)
        assert ids == sorted(set(ids))
        assert published == sorted(published)
        page = await node.logs.read(log, Query(ALL))
        assert [entry.id for entry in page.entries] == ids
        assert [entry.published for entry in page.entries] == published

    @pytest.mark.parametrize("kind", IdKind)
    async def test_nobody_who_reads_on_misses_what_several_nodes_append(
        self, make_node: MakeLogNode, fresh_name: str, kind: IdKind
    ) -> None:
        log = make_log("tests", fresh_name, kind)
        writers, reader = [await make_node(), await make_node()], await make_node()
        count = 300

        async def write(node: LogNode, name: str) -> None:
            for index in range(count):
                await node.logs.append(log, NewEntry(f"{name} {index}".encode(), 60.0))

        async def read_on() -> list[bytes]:
            seen: list[bytes] = []
            position: bytes | None = None
            while len(seen) < 4 * count:
                page = await reader.logs.read(log, Query(7, position))
                seen += values_of(page)
                position = page.position or position
            return seen

        tasks = [write(writers[index % 2], str(index)) for index in range(4)]
        async with asyncio.timeout(60):
            reading = asyncio.create_task(read_on())
            await asyncio.gather(*tasks)
            seen = await reading
        assert sorted(seen) == sorted(f"{w} {n}".encode() for w in range(4) for n in range(count))
        assert await reader.values(log) == seen

    async def test_a_number_is_never_given_twice(self, node: LogNode, fresh_name: str) -> None:
        log = number_log(fresh_name)
        first, second = await node.append(log, b"a", b"b")
        await node.logs.remove(log, [EntryKey(0, second)])
        assert await node.append(log, b"c") == [id_of_number(3)]
        await node.logs.discard(log, None)
        assert await node.append(log, b"d") == [id_of_number(4)]
        await node.logs.put(log, [EntryKey(0, id_of_number(9))], b"e")
        assert await node.append(log, b"f") == [id_of_number(10)]
        assert await node.logs.delete(log)
        assert not await node.logs.delete(log)
        assert await node.logs.last_number(log) == 10
        assert await node.append(log, b"g") == [id_of_number(11)]
        assert await node.values(log) == [b"g"]
        assert first == id_of_number(1)


class TestReading:
    async def test_from_any_position_either_way_with_it_or_without(
        self, node: LogNode, fresh_name: str
    ) -> None:
        log = number_log(fresh_name)
        await node.append(log, *[b"%d" % number for number in range(1, 8)])
        await node.logs.remove(log, [EntryKey(0, id_of_number(4))])

        async def read(
            start: int | None, inclusive: bool = False, newest_first: bool = False
        ) -> list[int]:
            at = None if start is None else id_of_number(start)
            page = await node.logs.read(log, Query(2, at, inclusive, newest_first))
            return [entry.number for entry in page.entries]

        assert await read(None) == [1, 2]
        assert await read(0) == [1, 2]
        assert await read(2) == [3, 5]
        assert await read(2, inclusive=True) == [2, 3]
        assert await read(4, inclusive=True) == [5, 6]
        assert await read(6) == [7]
        assert await read(7) == []
        assert await read(999) == []
        assert await read(None, newest_first=True) == [7, 6]
        assert await read(5, newest_first=True) == [3, 2]
        assert await read(5, newest_first=True, inclusive=True) == [5, 3]
        assert await read(4, newest_first=True, inclusive=True) == [3, 2]
        assert await read(1, newest_first=True) == []
        assert await read(999, newest_first=True) == [7, 6]

    async def test_by_time(self, node: LogNode, fresh_name: str) -> None:
        log = time_log(fresh_name)
        for offset in range(4):
            node.scripts.clock_seconds = NOON + offset
            await node.append(log, b"%d" % offset, b"%d too" % offset)
        ticks = int(NOON + 2) * 10_000_000
        since = Query(ALL, first_id_at(ticks), inclusive=True)
        assert values_of(await node.logs.read(log, since)) == [b"2", b"2 too", b"3", b"3 too"]
        until = Query(ALL, last_id_at(ticks), inclusive=True, newest_first=True)
        assert values_of(await node.logs.read(log, until)) == [
            b"2",
            b"1 too",
            b"1",
            b"0 too",
            b"0",
        ]

    async def test_by_offset(self, node: LogNode, fresh_name: str) -> None:
        log = number_log(fresh_name)
        for offset in range(5):
            node.scripts.clock_seconds = NOON + offset
            await node.logs.append_all(
                log,
                [NewEntry(b"a", ttl_seconds=None if offset else 2.5), NewEntry(b"b", partition=1)],
            )
        numbers = {}
        for offset in (0, 1, 3, 4, -1, -4, -5):
            found = await node.logs.id_at_offset(log, offset)
            numbers[offset] = None if found is None else number_of_id(found)
        assert numbers == {0: 3, 1: 5, 3: 9, 4: None, -1: 9, -4: 3, -5: None}
        assert await node.logs.id_at_offset(log, 0, partition=2) is None

    async def test_partitions_are_read_and_counted_one_by_one(
        self, node: LogNode, fresh_name: str
    ) -> None:
        log = time_log(fresh_name)
        partitions = [1, 200, 1, 2, 255, 0]
        appended = await node.logs.append_all(
            log, [NewEntry(b"%d" % index, 60, part) for index, part in enumerate(partitions)]
        )
        assert [one.id for one in appended] == sorted({one.id for one in appended})
        assert await node.logs.count(log, [0, 1, 2, 3, 200, 255]) == [1, 2, 1, 0, 1, 1]
        assert values_of(await node.logs.read(log, Query(ALL, partition=1))) == [b"0", b"2"]
        backwards = Query(ALL, partition=255, newest_first=True)
        assert values_of(await node.logs.read(log, backwards)) == [b"4"]
        keys = [EntryKey(1, appended[0].id), EntryKey(2, appended[0].id)]
        assert values_of(await node.logs.get(log, keys)) == [b"0"]

    async def test_a_page_says_where_it_ended_and_whether_that_was_the_end(
        self, node: LogNode, fresh_name: str
    ) -> None:
        log = number_log(fresh_name)
        empty = await node.logs.read(log, Query(5))
        assert (empty.entries, empty.position, empty.is_complete) == ([], None, True)
        await node.append(log, *[b"x" * 100] * 200)
        first = await node.logs.read(log, Query(150))
        assert (len(first.entries), first.is_complete) == (150, False)
        rest = await node.logs.read(log, Query(150, first.position))
        assert (len(rest.entries), rest.is_complete) == (50, True)
        assert rest.position == id_of_number(200)

    async def test_a_page_ends_where_its_bytes_are_spent_but_holds_one_entry_at_least(
        self, node: LogNode, fresh_name: str
    ) -> None:
        log = number_log(fresh_name)
        sizes = [10, 5000, 10, 10, 3000, 10]
        await node.append(log, *[b"x" * size for size in sizes])
        query = Query(ALL, max_bytes=100)
        found = []
        while True:
            page = await node.logs.read(log, query)
            assert page.entries
            assert sum(len(entry.record) for entry in page.entries[:-1]) < 100
            found += [len(entry.value) for entry in page.entries]
            if page.is_complete:
                break
            query = query._replace(start=page.position)
        assert found == sizes

    async def test_what_one_source_published_can_be_left_out_and_does_not_count(
        self, instance_node: LogNode, fresh_name: str
    ) -> None:
        node, log = instance_node, number_log(fresh_name)
        entries = [NewEntry(b"mine", source=b"me")] * 5000
        entries[17] = entries[4321] = NewEntry(b"theirs", source=b"them")
        entries[4400] = NewEntry(b"nobody's")
        entries[4401] = NewEntry(b"like mine", source=b"me too")
        await node.logs.append_all(log, entries)
        page = await node.logs.read(log, Query(3, without_source=b"me"))
        assert [entry.number for entry in page.entries] == [18, 4322, 4401]
        page = await node.logs.read(log, Query(3, page.position, without_source=b"me"))
        assert [(entry.source, entry.value) for entry in page.entries] == [
            (b"me too", b"like mine")
        ]
        assert page.is_complete
        assert page.position == id_of_number(5000)

    @pytest.mark.parametrize("value", [b"", b"\0", bytes(range(256)), b"\xff" * 300], ids=repr)
    async def test_everything_comes_back_byte_for_byte(
        self, node: LogNode, fresh_name: str, value: bytes
    ) -> None:
        log = number_log(fresh_name)
        node.scripts.clock_seconds = NOON
        await node.logs.append(log, NewEntry(value, 60, 3, b"\0\xff" * 127, b"/" + b"\xfe" * 1000))
        (entry,) = (await node.logs.read(log, Query(1, partition=3))).entries
        assert entry.value == value
        assert (entry.source, entry.path) == (b"\0\xff" * 127, b"/" + b"\xfe" * 1000)
        assert (entry.published, entry.expires) == (NOON, NOON + 60)
        assert await node.logs.get(log, [EntryKey(3, entry.id)]) != [None]


class TestGroupCommit:
    async def test_what_arrives_together_is_one_call(
        self, instance_node: LogNode, fresh_name: str
    ) -> None:
        node, log = instance_node, number_log(fresh_name)
        await node.append(log, b"first")
        before = node.backend.calls_named("log_append")
        several = [NewEntry(b"x"), NewEntry(b"y")]
        started = await all_at_once(
            node.backend,
            [
                *(node.logs.append(log, NewEntry(b"%d" % number)) for number in range(50)),
                node.logs.append_all(log, several),
                node.logs.append(log, NewEntry(b"last")),
            ],
        )
        node.backend.gate.set()
        *singles, pair, last = await started
        assert node.backend.calls_named("log_append") - before == 1
        numbers = [number_of_id(one.id) for one in (*singles, *pair, last)]  # type: ignore[misc]
        assert numbers == list(range(2, 55))
        values = [b"first", *(b"%d" % number for number in range(50)), b"x", b"y", b"last"]
        assert await node.values(log) == values

    async def test_equal_reads_are_asked_once_and_others_are_not_mixed_up(
        self, instance_node: LogNode, fresh_name: str
    ) -> None:
        node, log = instance_node, number_log(fresh_name)
        await node.append(log, b"a", b"b", b"c")
        before = node.backend.calls_named("log_read")
        started = await all_at_once(
            node.backend,
            [
                *(node.logs.read(log, Query(2)) for _ in range(20)),
                node.logs.read(log, Query(2, newest_first=True)),
                node.logs.read(number_log(fresh_name + " too"), Query(2)),
            ],
        )
        node.backend.gate.set()
        pages = await started
        assert node.backend.calls_named("log_read") - before == 3
        found = [values_of(page) for page in pages]  # type: ignore[arg-type]
        assert found == [[b"a", b"b"]] * 20 + [[b"c", b"b"], []]

    async def test_everyone_hears_of_a_failure(
        self, instance_node: LogNode, fresh_name: str
    ) -> None:
        node, log = instance_node, number_log(fresh_name)
        await node.append(log, b"a")
        node.backend.lose_next("log_append")
        started = await all_at_once(
            node.backend,
            [node.logs.append(log, NewEntry(b"b")), node.logs.append_all(log, [NewEntry(b"c")])],
        )
        node.backend.gate.set()
        assert [type(outcome) for outcome in await started] == [StoreUnavailable] * 2
        node.backend.lose_next("log_read")
        started = await all_at_once(
            node.backend, [node.logs.read(log, Query(1)), node.logs.read(log, Query(1))]
        )
        node.backend.gate.set()
        assert [type(outcome) for outcome in await started] == [StoreUnavailable] * 2


class TestChanges:
    async def test_an_entry_can_be_put_anywhere_and_replaced(
        self, node: LogNode, fresh_name: str
    ) -> None:
        log = time_log(fresh_name)
        node.scripts.clock_seconds = NOON
        (minted,) = await node.append(log, b"minted")
        old, ancient, future = an_id(5), an_id(-(10**16)), an_id(3 * 10**17)
        for entry_id, value in ((old, b"old"), (ancient, b"ancient"), (future, b"future")):
            await node.logs.put(log, [EntryKey(0, entry_id)], value)
        assert await node.values(log) == [b"ancient", b"old", b"minted", b"future"]
        node.scripts.clock_seconds = NOON + 1
        keys = [EntryKey(0, minted), EntryKey(0, old), EntryKey(1, old), EntryKey(0, old)]
        await node.logs.put(log, keys, b"new", ttl_seconds=60)
        assert await node.values(log) == [b"ancient", b"new", b"new", b"future"]
        assert await node.logs.count(log, [0, 1]) == [4, 1]
        (again,) = await node.append(log, b"again")
        assert minted < again < future

    async def test_entries_are_read_and_removed_by_their_keys(
        self, node: LogNode, fresh_name: str
    ) -> None:
        log = number_log(fresh_name)
        ids = await node.append(log, *[b"%d" % number for number in range(1, 101)])
        keys = [EntryKey(0, entry_id) for entry_id in ids]
        unknown = EntryKey(0, id_of_number(500))
        asked = [keys[7], unknown, keys[3], keys[7]]
        found = await node.logs.get(log, asked)
        assert [entry and entry.value for entry in found] == [b"8", None, b"4", b"8"]
        assert await node.logs.get(log, []) == []
        assert await node.logs.remove(log, [keys[7], unknown, keys[3], keys[7]]) == 2
        assert await node.logs.remove(log, [keys[7]]) == 0
        assert await node.logs.get(log, [keys[7], keys[3]]) == [None, None]
        assert await node.logs.count(log) == [98]

    async def test_entries_beyond_what_one_reply_holds_are_got_by_several(
        self, instance_node: LogNode, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node, log = instance_node, number_log(fresh_name)
        monkeypatch.setattr("restmq.broker.log.MAX_PAGE_BYTES", 1000)
        ids = await node.append(log, *[b"x" * 400] * 100)
        before = node.backend.calls_named("log_get")
        found = await node.logs.get(log, [EntryKey(0, entry_id) for entry_id in ids])
        assert [entry and entry.id for entry in found] == ids
        assert node.backend.calls_named("log_get") - before > 10

    async def test_the_oldest_can_be_discarded(self, node: LogNode, fresh_name: str) -> None:
        log = number_log(fresh_name)
        await node.logs.append_all(log, [NewEntry(b"%d" % n, 60.0, n % 2) for n in range(5000)])
        assert await node.logs.discard(log, id_of_number(4501), partition=0) == 2251
        assert await node.logs.count(log, [0, 1]) == [249, 2500]
        assert await node.logs.discard(log, id_of_number(4501), partition=0) == 0
        assert await node.logs.discard(log, None, partition=1) == 2500
        assert await node.logs.count(log, [0, 1]) == [249, 0]

    @pytest.mark.parametrize("known", [b"{}", b"", b"1" * 1000])
    async def test_nothing_is_stored_in_a_log_with_other_attributes_than_expected(
        self, node: LogNode, fresh_name: str, known: bytes
    ) -> None:
        log, logs = time_log(fresh_name), node.logs
        keys = [EntryKey(0, an_id(1)), EntryKey(0, an_id(2))]

        async def store_all() -> list[object]:
            """Store in each way; returns the errors."""
            outcomes = await asyncio.gather(
                logs.append(log, NewEntry(b"a"), expected=known),
                logs.append_all(log, [NewEntry(b"a", 60.0), NewEntry(b"a")], expected=known),
                logs.put(log, keys, b"a", expected=known),
                return_exceptions=True,
            )
            return [each for each in outcomes if isinstance(each, BaseException)]

        assert [type(error) for error in await store_all()] == [NotFound] * 3
        made = await logs.set_attributes(log, known, None)
        assert await store_all() == []
        assert await node.values(log) == [b"a"] * 5
        changed = await logs.set_attributes(log, known + b"2", known)
        assert made is not None
        assert changed == (made.created, known + b"2")
        for error in await store_all():
            assert isinstance(error, OtherAttributes)
            assert error.info == changed
        assert await logs.append(log, NewEntry(b"b"), expected=known + b"2")
        await logs.append(log, NewEntry(b"c"))
        assert await node.values(log) == [b"a"] * 5 + [b"b", b"c"]
        assert await logs.delete(log)
        assert [type(error) for error in await store_all()] == [NotFound] * 3
        assert await node.values(log) == []
        assert await logs.names(log.collection, log.name, inclusive=True, limit=1) != [log.name]

    async def test_appends_of_one_round_trip_that_expect_different_things_are_told_apart(
        self, node: LogNode, fresh_name: str
    ) -> None:
        log, logs = time_log(fresh_name), node.logs
        await logs.set_attributes(log, b"new", None)
        outcomes = await asyncio.gather(
            *(
                logs.append(log, NewEntry(b"%d" % n), expected=(b"old", b"new")[n % 2])
                for n in range(10)
            ),
            return_exceptions=True,
        )
        assert [isinstance(each, OtherAttributes) for each in outcomes] == [True, False] * 5
        assert await node.values(log) == [b"1", b"3", b"5", b"7", b"9"]

    async def test_attributes_change_only_as_their_writer_expects(
        self, node: LogNode, fresh_name: str
    ) -> None:
        log = time_log(fresh_name)
        assert await node.logs.info(log) is None
        assert await node.logs.set_attributes(log, b"b", b"a") is None
        node.scripts.clock_seconds = NOON
        assert await node.logs.set_attributes(log, b"a", None) == (NOON, b"a")
        node.scripts.clock_seconds = NOON + 1
        assert await node.logs.set_attributes(log, b"z", None) is None
        assert await node.logs.set_attributes(log, b"b", b"a") == (NOON, b"b")
        assert await node.logs.set_attributes(log, b"c", b"a") is None
        assert await node.logs.set_attributes(log, b"", b"b") == (NOON, b"")
        assert await node.logs.info(log) == (NOON, b"")


class TestNames:
    async def test_logs_are_listed_by_name_in_pages(self, node: LogNode, fresh_name: str) -> None:
        collection = f"collection {fresh_name}"
        names = ["b", "a", "a/b", "caf\u00e9", "d}e%"]
        for name in names:
            await node.append(make_log(collection, name, IdKind.NUMBER), b"x")
        expected = sorted(names)
        assert await node.logs.names(collection) == expected
        assert await node.logs.names(collection, limit=2) == expected[:2]
        assert await node.logs.names(collection, "b", inclusive=True) == expected[2:]
        assert await node.logs.names(collection, "b") == expected[3:]
        for name in names:
            assert await node.values(make_log(collection, name, IdKind.NUMBER)) == [b"x"]

    async def test_a_deleted_log_is_listed_no_more_until_it_comes_into_being_again(
        self, make_node: MakeLogNode, fresh_name: str
    ) -> None:
        collection = f"collection {fresh_name}"
        log = make_log(collection, "a", IdKind.NUMBER)
        one, other = await make_node(), await make_node()
        await one.append(log, b"x")
        assert await other.logs.delete(log)
        assert await one.logs.names(collection) == []
        await one.append(log, b"y")
        await one.append(log, b"z")
        assert await one.logs.names(collection) == ["a"]
        log = make_log(collection, "b", IdKind.TIME)
        await one.logs.set_attributes(log, b"", None)
        assert await one.logs.names(collection) == ["a", "b"]
        assert await one.logs.delete(log)
        assert await one.logs.names(collection) == ["a"]

    @pytest.mark.parametrize(
        ("collection", "name"),
        [
            ("", "a"),
            ("a/b", "a"),
            ("a", ""),
            ("a", "\ud800"),
            ("a", "\u00e9" * 513),
            ("a" * 1025, "a"),
        ],
    )
    def test_what_cannot_name_a_log_is_refused(self, collection: str, name: str) -> None:
        with pytest.raises(InvalidInput):
            make_log(collection, name, IdKind.NUMBER)


class TestRefusals:
    @pytest.mark.parametrize(
        "entry",
        [
            NewEntry(b"", ttl_seconds=0),
            NewEntry(b"", ttl_seconds=-1),
            NewEntry(b"", ttl_seconds=float("nan")),
            NewEntry(b"", ttl_seconds=1e12),
            NewEntry(b"", partition=-1),
            NewEntry(b"", partition=256),
            NewEntry(b"", source=b"x" * 256),
            NewEntry(b"", path=b"/\0"),
            NewEntry(b"", path=b"/" + b"x" * 1024),
            NewEntry(b"", path=b"/x" * 33),
        ],
        ids=repr,
    )
    async def test_an_entry_that_cannot_be_stored_takes_its_batch_with_it(
        self, instance_node: LogNode, fresh_name: str, entry: NewEntry
    ) -> None:
        log = number_log(fresh_name)
        with pytest.raises(InvalidInput):
            await instance_node.logs.append_all(log, [NewEntry(b"good"), entry])
        with pytest.raises(InvalidInput):
            await instance_node.logs.append(log, entry)
        assert await instance_node.values(log) == []

    @pytest.mark.parametrize(
        "query",
        [
            Query(0),
            Query(10_001),
            Query(1, b"short"),
            Query(1, bytes(16)),
            Query(1, partition=256),
            Query(1, scope=Scope.EXACT),
            Query(1, scope=Scope.PARENTS, path=b"/x" * 33),
            Query(1, without_source=b"x" * 256),
        ],
        ids=repr,
    )
    async def test_a_query_that_cannot_be_asked_is_refused(
        self, instance_node: LogNode, fresh_name: str, query: Query
    ) -> None:
        with pytest.raises(InvalidInput):
            await instance_node.logs.read(number_log(fresh_name), query)

    async def test_keys_that_no_entry_can_have_are_refused(
        self, instance_node: LogNode, fresh_name: str
    ) -> None:
        logs, log = instance_node.logs, number_log(fresh_name)
        for key in (EntryKey(0, bytes(16)), EntryKey(0, bytes(8)), EntryKey(256, id_of_number(1))):
            with pytest.raises(InvalidInput):
                await logs.put(log, [key], b"")
            with pytest.raises(InvalidInput):
                await logs.get(log, [key])
        with pytest.raises(InvalidInput):
            await logs.remove(log, [EntryKey(0, id_of_number(1))] * 1001)
        with pytest.raises(InvalidInput):
            await logs.append_all(log, [NewEntry(b"")] * 10_001)
        await logs.put(log, [], b"")
        assert await logs.append_all(log, []) == []


class TestPaths:
    async def test_a_path_its_ancestors_and_all_below_it(
        self, node: LogNode, fresh_name: str
    ) -> None:
        log = number_log(fresh_name)
        paths = [b"/t", b"/t/u", b"/t/u/v", b"/tx", b"/t/", b"/t/u/w", b"/t"]
        await node.logs.append_all(log, [NewEntry(path, 60, path=path) for path in paths])

        async def read(scope: Scope, path: bytes) -> list[bytes]:
            return await node.values(log, scope, path)

        assert await read(Scope.EXACT, b"/t") == [b"/t", b"/t"]
        assert await read(Scope.EXACT, b"/t/") == [b"/t/"]
        assert await read(Scope.EXACT, b"/") == []
        assert await read(Scope.PARENTS, b"/t/u/v") == [b"/t", b"/t/u", b"/t/u/v", b"/t"]
        assert await read(Scope.PARENTS, b"/t/u/none") == [b"/t", b"/t/u", b"/t"]
        assert await read(Scope.SUBTREE, b"/t") == [path for path in paths if path != b"/tx"]
        assert await read(Scope.SUBTREE, b"/t/u") == [b"/t/u", b"/t/u/v", b"/t/u/w"]
        assert await read(Scope.SUBTREE, b"/x") == []
        assert await node.values(log) == paths

    @pytest.mark.parametrize("limit", [1, 37, 150])
    async def test_the_limit_counts_after_ancestors_were_merged(
        self, node: LogNode, fresh_name: str, limit: int
    ) -> None:
        log = number_log(fresh_name)
        chance = random.Random(7)
        line = [b"/a", b"/a/b", b"/a/b/c", b"/a/b/c/d"]
        # Some paths are rare, so that their next entry lies far beyond that of the others.
        paths = chance.choices([*line, b"/a/x", b"/b"], [1, 90, 3, 9, 9, 9], k=600)
        entries = [NewEntry(b"", source=chance.choice([b"", b"me"]), path=path) for path in paths]
        await node.logs.append_all(log, entries)
        for newest_first, source in ((False, b""), (True, b""), (False, b"me"), (True, b"me")):
            expected = [
                number
                for number, entry in enumerate(entries, start=1)
                if entry.path in line and (not source or entry.source != source)
            ]
            found: list[int] = []
            query = Query(
                limit,
                scope=Scope.PARENTS,
                path=line[-1],
                newest_first=newest_first,
                without_source=source,
            )
            while True:
                page = await node.logs.read(log, query)
                found += [entry.number for entry in page.entries]
                if page.is_complete:
                    break
                assert len(page.entries) == limit
                query = query._replace(start=page.position)
            assert found == (expected[::-1] if newest_first else expected)

    async def test_what_is_gone_is_gone_from_all_its_paths(
        self, node: LogNode, fresh_name: str
    ) -> None:
        log = number_log(fresh_name)
        node.scripts.clock_seconds = NOON
        await node.logs.append_all(
            log, [NewEntry(b"%d" % n, None if n % 3 else 5, path=b"/a/b") for n in range(9)]
        )
        await node.logs.remove(log, [EntryKey(0, id_of_number(2))])
        await node.logs.put(log, [EntryKey(0, id_of_number(3))], b"moved", path=b"/c")
        node.scripts.clock_seconds = NOON + 5
        for scope, path in (
            (Scope.EXACT, b"/a/b"),
            (Scope.SUBTREE, b"/a"),
            (Scope.PARENTS, b"/a/b"),
        ):
            assert await node.values(log, scope, path) == [b"4", b"5", b"7", b"8"]
        assert await node.values(log, Scope.EXACT, b"/c") == [b"moved"]


async def test_a_log_that_is_deleted_between_listing_and_append_is_listed_again(
    node: LogNode, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a node that has only just listed it."""
    log = make_log(f"collection {fresh_name}", "x", IdKind.NUMBER)
    append = node.scripts.append

    def append_after_deletion(*arguments: Any) -> Call:
        node.committer.submit(command("ZREM", log_registry(log.collection), log.name))
        return append(*arguments)

    monkeypatch.setattr(node.scripts, "append", append_after_deletion)
    await node.append(log, b"a")
    assert await node.logs.names(log.collection) == ["x"]
