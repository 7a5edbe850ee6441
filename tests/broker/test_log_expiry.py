"""What expires in a log: invisible from that moment, and out of Redis soon after."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from restmq.broker.keys import log_keys
from restmq.broker.log_entry import EntryKey, Log, NewEntry, Query, Scope
from restmq.broker.log_ids import id_of_number
from restmq.broker.scripts import command
from tests.broker.log_node import (
    ALL,
    LogNode,
    MakeLogNode,
    number_log,
    opening_log_nodes,
    time_log,
    values_of,
)
from tests.broker.steps import NOON, size_of, until


@pytest.fixture
async def make_node(broker_redis_url: str) -> AsyncIterator[MakeLogNode]:
    """Opens nodes on an instance, and then on a cluster."""
    async with opening_log_nodes(broker_redis_url) as make:
        yield make


@pytest.fixture
async def instance_node(redis_url: str) -> AsyncIterator[LogNode]:
    """One node on an instance only, whose clock stands at noon."""
    async with opening_log_nodes(redis_url) as make:
        node = await make()
        node.scripts.clock_seconds = NOON
        yield node


async def members_of(store: "Redis", log: Log) -> list[bytes]:
    """Return all that the order of a log holds."""
    key = log_keys(log.collection, log.name).order
    members: list[bytes] = await store.zrange(key, 0, -1)  # type: ignore[assignment]
    return members


async def entry_count(store: "Redis", log: Log) -> int:
    """Return how many records a log holds, expired or not."""
    fields = await store.hkeys(log_keys(log.collection, log.name).entries)
    return len([field for field in fields if field not in (b"last", b"attributes")])


async def test_nobody_sees_what_has_expired(instance_node: LogNode, fresh_name: str) -> None:
    node, log = instance_node, number_log(fresh_name)
    for ttl_seconds in (5, None, 10, 5, 7.5):
        await node.logs.append(log, NewEntry(b"%r" % ttl_seconds, ttl_seconds, path=b"/p"))
    everything = [b"5", b"None", b"10", b"5", b"7.5"]
    for later, gone in (
        (4.999, ()),
        (5, (b"5",)),
        (7.5, (b"5", b"7.5")),
        (10, (b"5", b"7.5", b"10")),
    ):
        node.scripts.clock_seconds = NOON + later
        expected = [value for value in everything if value not in gone]
        keys = [EntryKey(0, id_of_number(number)) for number in range(1, 6)]
        assert values_of(await node.logs.get(log, keys)) == expected
        assert await node.values(log) == expected
        assert await node.values(log, Scope.SUBTREE, b"/p") == expected
        assert await node.logs.count(log) == [len(expected)]


async def test_it_is_invisible_even_where_too_much_has_expired_to_clear_at_once(
    instance_node: LogNode, store: "Redis", fresh_name: str
) -> None:
    node, log = instance_node, number_log(fresh_name)
    for index in range(30):
        ttl_seconds = None if index % 10 == 9 else 5
        await node.logs.append_all(log, [NewEntry(b"%d" % index, ttl_seconds, path=b"/p")] * 300)
    node.scripts.clock_seconds = NOON + 5
    expected = [b"9"] * 300 + [b"19"] * 300 + [b"29"] * 300
    assert values_of(await node.logs.read(log, Query(400))) == expected[:400]
    assert await entry_count(store, log) > 8000, "one read does not clear away everything"
    parents = Query(ALL, scope=Scope.PARENTS, path=b"/p/q", newest_first=True)
    assert values_of(await node.logs.read(log, parents)) == expected[::-1]
    assert values_of(await node.logs.get(log, [EntryKey(0, id_of_number(5000))])) == []
    assert await node.logs.remove(log, [EntryKey(0, id_of_number(5001))]) == 0
    assert await node.logs.id_at_offset(log, 0) == id_of_number(2701)
    assert await node.logs.count(log) == [900]
    assert await entry_count(store, log) == 900


async def test_a_put_gives_new_life_from_now_on(
    instance_node: LogNode, store: "Redis", fresh_name: str
) -> None:
    node, log = instance_node, time_log(fresh_name)
    ids = [one.id for one in await node.logs.append_all(log, [NewEntry(b"a", 5)] * 5)]
    node.scripts.clock_seconds = NOON + 4
    await node.logs.put(log, [EntryKey(0, ids[1]), EntryKey(0, ids[3])], b"b", ttl_seconds=5)
    node.scripts.clock_seconds = NOON + 6
    assert await node.values(log) == [b"b", b"b"]
    await node.logs.put(log, [EntryKey(0, ids[3])], b"c")
    await node.logs.put(log, [EntryKey(0, ids[2])], b"d", ttl_seconds=1)
    assert await node.values(log) == [b"b", b"d", b"c"]
    node.scripts.clock_seconds = NOON + 600
    assert await node.values(log) == [b"c"]
    assert len(await members_of(store, log)) == 1


async def test_appends_alone_keep_a_log_small(
    instance_node: LogNode, store: "Redis", fresh_name: str
) -> None:
    node, log = instance_node, number_log(fresh_name)
    for second in range(50):
        node.scripts.clock_seconds = NOON + second
        await node.logs.append_all(log, [NewEntry(b"a", 5, path=b"/a/b")] * 200)
    assert await entry_count(store, log) <= 5 * 200 + 200


async def test_entries_that_expire_together_share_one_mark(
    instance_node: LogNode, store: "Redis", fresh_name: str
) -> None:
    node, log = instance_node, time_log(fresh_name)
    await node.logs.append_all(log, [NewEntry(b"a", 60, 1 + n % 2) for n in range(100)])
    assert len(await members_of(store, log)) == 100 + 2
    mixed = [NewEntry(b"a", 60 + n % 2, 3) for n in range(10)]
    await node.logs.append_all(log, mixed)
    node.scripts.clock_seconds = NOON + 60
    assert await node.logs.count(log, [1, 2, 3]) == [0, 0, 5]
    node.scripts.clock_seconds = NOON + 61
    assert await node.logs.count(log, [1, 2, 3]) == [0, 0, 0]
    assert await members_of(store, log) == []
    assert await entry_count(store, log) == 0


async def test_what_is_removed_leaves_no_mark_behind(
    instance_node: LogNode, store: "Redis", fresh_name: str
) -> None:
    node, log = instance_node, number_log(fresh_name)
    kept = await node.append(log, b"kept")
    for _ in range(3):
        (entry_id,) = await node.append(log, b"a", ttl_seconds=60)
        await node.logs.put(log, [EntryKey(0, entry_id)], b"b", ttl_seconds=90)
        await node.logs.remove(log, [EntryKey(0, entry_id)])
    assert len(await members_of(store, log)) == 1
    await node.append(log, b"a", b"b", ttl_seconds=60)
    await node.logs.discard(log, None)
    assert await members_of(store, log) == []
    assert kept == [id_of_number(1)]


async def test_expired_entries_leave_redis_by_themselves(
    make_node: MakeLogNode, fresh_name: str
) -> None:
    node = await make_node()
    node.schedule.start()
    log = time_log(fresh_name)
    await node.logs.append_all(log, [NewEntry(b"a" * 100, 0.3)] * 5000)
    await node.logs.put(
        log, [EntryKey(4, (await node.append(log, b"b"))[0])], b"c", ttl_seconds=0.6
    )
    keys = log_keys(log.collection, log.name)
    before = node.backend.calls_named("log_visit")

    async def is_empty() -> bool:
        return await sizes(node, keys.entries, keys.order) == [2, 1]

    await until(is_empty, 30)
    assert node.backend.calls_named("log_visit") > before
    assert await node.values(log) == [b"b"]


async def sizes(node: LogNode, entries: str, order: str) -> list[object]:
    """Return how much a log holds, without reading it as a log."""
    hash_size, set_size = await asyncio.gather(
        node.committer.submit(command("HLEN", entries)),
        node.committer.submit(command("ZCARD", order)),
    )
    return [hash_size, set_size]


async def test_a_log_with_one_message_is_cheap(
    instance_node: LogNode, store: "Redis", fresh_name: str
) -> None:
    node, log = instance_node, time_log(fresh_name)
    attributes = b'{"partitions":1,"type":"user","consistency":"strong"}'
    await node.logs.set_attributes(log, attributes, None)
    await node.logs.append(log, NewEntry(b"x" * 100, 259_200, partition=1), expected=attributes)
    keys = log_keys(log.collection, log.name)
    assert sum([await size_of(store, key) for key in keys if await store.exists(key)]) < 1200
