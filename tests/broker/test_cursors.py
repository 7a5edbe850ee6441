"""Cursors: each client reads on from where it was, on a Redis instance and on a Redis Cluster."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from restmq.broker import cursors as cursors_module
from restmq.broker.cursors import Start
from restmq.broker.keys import log_registry
from restmq.broker.log_entry import Entry, Log, NewEntry, make_log
from restmq.broker.log_ids import MAX_NUMBER, IdKind, id_of_number
from restmq.broker.scripts import Call, command
from restmq.errors import InvalidInput, StoreUnavailable
from tests.broker.log_node import LogNode, MakeLogNode, number_log, opening_log_nodes, time_log

ALL = 1000


@pytest.fixture
async def make_node(broker_redis_url: str) -> AsyncIterator[MakeLogNode]:
    """Opens nodes on an instance, and then on a cluster."""
    async with opening_log_nodes(broker_redis_url) as make:
        yield make


@pytest.fixture
async def node(make_node: MakeLogNode) -> LogNode:
    """One node on an instance, and then on a cluster."""
    return await make_node()


async def read(
    node: LogNode, log: Log, client: str, count: int = ALL, kept_count: int = 4096
) -> list[int] | None:
    """Read as a client; returns the numbers of the entries."""
    page = await node.cursors.read(log, client, count, kept_count=kept_count)
    return None if page is None else numbers_of(page.entries)


def numbers_of(entries: list[Entry]) -> list[int]:
    """Return the numbers of entries."""
    return [entry.number for entry in entries]


async def append(node: LogNode, log: Log, count: int) -> None:
    """Append so many entries at once."""
    await node.append(log, *[b"x"] * count)


async def test_a_client_reads_on_from_where_it_was(node: LogNode, fresh_name: str) -> None:
    log = number_log(fresh_name)
    assert await read(node, log, "alice") is None
    assert await node.cursors.set(log, "alice", Start.CURRENT) == 0
    await append(node, log, 10)
    assert await read(node, log, "alice", 4) == [1, 2, 3, 4]
    assert await read(node, log, "alice", 4) == [5, 6, 7, 8]
    assert await read(node, log, "alice", 4) == [9, 10]
    assert await read(node, log, "alice", 4) == []
    await append(node, log, 1)
    assert await read(node, log, "alice", 4) == [11]


async def test_where_a_client_begins(node: LogNode, fresh_name: str) -> None:
    log, cursors = number_log(fresh_name), node.cursors
    await append(node, log, 10)
    assert await cursors.set(log, "dave", Start.LATEST) == 10
    assert await cursors.set(log, "erin", Start.CURRENT) == 10
    assert await cursors.set(log, "bob", Start.EARLIEST) == 0
    await node.logs.discard(log, id_of_number(4))
    assert await cursors.set(log, "carol", Start.EARLIEST) == 4
    assert await read(node, log, "carol", 2) == [5, 6]
    assert await cursors.set(log, "carol", Start.CURRENT) == 6
    assert await read(node, log, "dave") == []
    await append(node, log, 3)
    assert await read(node, log, "bob") == list(range(5, 14))
    assert await read(node, log, "carol") == list(range(7, 14))
    assert await read(node, log, "dave") == [11, 12, 13]
    assert await read(node, log, "erin") == [11, 12, 13]
    assert await cursors.set(log, "dave", Start.EARLIEST) == 4
    assert await read(node, log, "dave", 2) == [5, 6]
    assert await cursors.set(log, "dave", Start.LATEST) == 13
    assert await read(node, log, "dave") == []
    await node.logs.discard(log, None)
    assert await cursors.set(log, "dave", Start.EARLIEST) == 13


async def test_a_cursor_can_be_moved_to_any_number(node: LogNode, fresh_name: str) -> None:
    log, cursors = number_log(fresh_name), node.cursors
    assert await cursors.set(log, "alice", 7) == 0, "nothing was ever written"
    await append(node, log, 10)
    assert await cursors.set(log, "alice", 7) == 7
    assert await read(node, log, "alice") == [8, 9, 10]
    assert await cursors.set(log, "alice", 3) == 3, "it can go back"
    assert await read(node, log, "alice", 2) == [4, 5]
    assert await cursors.set(log, "alice", MAX_NUMBER) == 10
    assert await read(node, log, "alice") == []
    assert await cursors.set(log, "alice", 0) == 0
    await node.logs.discard(log, id_of_number(4))
    assert await read(node, log, "alice", 2) == [5, 6]
    for number in (-1, MAX_NUMBER + 1):
        with pytest.raises(InvalidInput):
            await cursors.set(log, "alice", number)


async def test_a_log_in_which_there_are_only_cursors_is_listed(
    make_node: MakeLogNode, fresh_name: str
) -> None:
    node, other = await make_node(), await make_node()
    log = make_log(f"collection {fresh_name}", "x", IdKind.NUMBER)
    assert await other.logs.names(log.collection) == []
    for start in (Start.CURRENT, Start.EARLIEST, 5):
        await node.cursors.set(log, "alice", start)
        assert await other.logs.names(log.collection) == ["x"]
        await other.logs.delete(log)
        assert await other.logs.names(log.collection) == []


async def test_a_log_that_is_deleted_while_a_client_comes_is_listed_all_the_same(
    node: LogNode, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make_log(f"collection {fresh_name}", "x", IdKind.NUMBER)
    set_cursor = node.scripts.set_cursor
    deleted = False

    def set_after_deletion(log: Log, client: str, start: str | int) -> Call:
        nonlocal deleted
        if not deleted:
            deleted = True
            deletion = command("ZREM", log_registry(log.collection), log.name)
            node.committer.submit(deletion)
        return set_cursor(log, client, start)

    monkeypatch.setattr(node.scripts, "set_cursor", set_after_deletion)
    await node.cursors.set(log, "alice", Start.CURRENT)
    assert deleted
    assert await node.logs.names(log.collection) == ["x"]


async def test_entries_in_the_way_that_are_gone_hold_nobody_up(
    node: LogNode, fresh_name: str
) -> None:
    log = number_log(fresh_name)
    await node.cursors.set(log, "alice", Start.CURRENT)
    await append(node, log, 3000)
    await node.logs.discard(log, id_of_number(2990))
    assert await read(node, log, "alice", 5) == [2991, 2992, 2993, 2994, 2995]


async def test_what_everyone_has_read_is_discarded_but_for_some(
    node: LogNode, fresh_name: str
) -> None:
    log = number_log(fresh_name)
    await node.cursors.set(log, "alice", Start.CURRENT)
    await node.cursors.set(log, "bob", Start.CURRENT)
    await append(node, log, 100)
    assert await read(node, log, "alice", kept_count=10) == list(range(1, 101))
    assert await node.logs.count(log) == [100], "bob has yet to read them"
    assert await read(node, log, "bob", 60, kept_count=10) == list(range(1, 61))
    assert await node.logs.count(log) == [50]
    assert await read(node, log, "bob", kept_count=0) == list(range(61, 101))
    assert await node.logs.count(log) == [0]
    await append(node, log, 1)
    assert await read(node, log, "alice") == [101]


async def test_who_leaves_takes_along_what_only_he_held_back(
    node: LogNode, fresh_name: str
) -> None:
    log, cursors = number_log(fresh_name), node.cursors
    for client in ("alice", "bob"):
        await cursors.set(log, client, Start.CURRENT)
    await append(node, log, 5000)
    await read(node, log, "alice", 4500)
    await read(node, log, "bob", 4)
    assert await cursors.remove(log, "bob")
    assert not await cursors.remove(log, "bob")
    assert await node.logs.count(log) == [500]
    assert await cursors.set(log, "carol", Start.EARLIEST) == 4500
    assert await read(node, log, "alice", 2) == [4501, 4502]
    assert not await cursors.remove(log, "nobody")
    assert await node.logs.count(log) == [500]
    assert await cursors.remove(log, "carol")
    assert await cursors.remove(log, "alice")
    assert await node.logs.count(log) == [0]
    assert await cursors.set(log, "alice", Start.EARLIEST) == 5000
    await append(node, log, 1)
    assert await read(node, log, "alice") == [5001]


async def test_two_who_share_a_cursor_share_the_entries(
    make_node: MakeLogNode, fresh_name: str
) -> None:
    one, other, writer = await make_node(), await make_node(), await make_node()
    log = number_log(fresh_name)
    await one.cursors.set(log, "alice", Start.CURRENT)
    seen: list[int] = []

    async def consume(node: LogNode) -> None:
        while len(seen) < ALL:
            seen.extend(await read(node, log, "alice", 7, kept_count=0) or [])

    async def write() -> None:
        for _ in range(ALL):
            await writer.logs.append(log, NewEntry(b"x"))

    async with asyncio.timeout(60):
        await asyncio.gather(consume(one), consume(other), write())
    assert sorted(seen) == list(range(1, ALL + 1))


async def test_a_cursor_never_goes_back_by_itself(redis_url: str, fresh_name: str) -> None:
    async with opening_log_nodes(redis_url) as make:
        node, log = await make(), number_log(fresh_name)
        await node.cursors.set(log, "alice", Start.CURRENT)
        await append(node, log, 10)
        node.backend.lose_next("log_cursor_read")
        with pytest.raises(StoreUnavailable):
            await read(node, log, "alice", 5)
        assert await node.cursors.of_log(log) == [("alice", 5)]
        assert await read(node, log, "alice", 2) == [6, 7]
        await node.logs.discard(log, None)
        assert await read(node, log, "alice", 5) == []
        assert await node.cursors.of_log(log) == [("alice", 7)]


async def test_cursors_are_listed_by_client_and_by_log(
    make_node: MakeLogNode, fresh_name: str
) -> None:
    node = await make_node()
    collection, cursors = f"collection {fresh_name}", node.cursors
    logs = {name: make_log(collection, name, IdKind.NUMBER) for name in ("x", "y", "caf\u00e9")}
    for index, log in enumerate(logs.values()):
        await append(node, log, index + 1)
        await cursors.set(log, "alice", Start.LATEST)
        await cursors.set(log, "bob", Start.EARLIEST)
    assert await cursors.of_client(collection, "alice") == {"x": 1, "y": 2, "caf\u00e9": 3}
    assert await cursors.of_client(collection, "nobody") == {}
    assert await cursors.of_log(logs["y"]) == [("bob", 0), ("alice", 2)]
    assert await cursors.of_log(logs["y"], offset=1, limit=5) == [("alice", 2)]
    assert await cursors.count_of_log(logs["y"]) == 2
    await cursors.remove(logs["y"], "alice")
    assert await cursors.count_of_log(logs["y"]) == 1
    assert await cursors.of_client(collection, "alice") == {"x": 1, "caf\u00e9": 3}
    await node.logs.delete(logs["x"])
    assert await cursors.of_client(collection, "alice") == {"caf\u00e9": 3}
    assert await cursors.remove_client(collection, "alice")
    assert not await cursors.remove_client(collection, "alice")
    assert await cursors.of_client(collection, "alice") == {}
    assert await cursors.of_client(collection, "bob") == {"y": 0, "caf\u00e9": 0}


async def test_a_client_reads_all_its_logs_at_once(
    node: LogNode, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursors_module, "_LOGS_AT_ONCE", 3)
    collection = f"collection {fresh_name}"
    logs = [make_log(collection, f"{index:02}", IdKind.NUMBER) for index in range(8)]
    for log in logs:
        await node.cursors.set(log, "alice", Start.CURRENT)
    assert await node.cursors.read_all(collection, "alice", 5) == {}
    for log in logs[1:]:
        await append(node, log, 7)
    for expected in ([1, 2, 3, 4, 5], [6, 7]):
        found = await node.cursors.read_all(collection, "alice", 5)
        assert {name: numbers_of(entries) for name, entries in found.items()} == {
            log.name: expected for log in logs[1:]
        }
    assert await node.cursors.read_all(collection, "alice", 5) == {}
    monkeypatch.setattr(cursors_module, "_BYTES_AT_ONCE", 1)
    for log in logs:
        await append(node, log, 1)
    seen: list[str] = []
    while found := await node.cursors.read_all(collection, "alice", 5):
        seen += found
        assert len(found) <= 3
    assert seen == [log.name for log in logs]


async def test_no_cursor_is_missing_from_its_client_s_list(
    make_node: MakeLogNode, fresh_name: str
) -> None:
    """However setting and removing one fall together."""
    nodes, client = [await make_node(), await make_node()], f"client {fresh_name}"
    logs = [make_log(f"collection {fresh_name}", f"{n:02}", IdKind.NUMBER) for n in range(40)]
    work = [(log, is_set) for log in logs for is_set in (True, True, True, False, False, False)]
    random.Random(1).shuffle(work)

    async def do(node: LogNode, log: Log, is_set: bool) -> None:
        if is_set:
            await node.cursors.set(log, client, Start.EARLIEST)
        else:
            await node.cursors.remove(log, client)

    await asyncio.gather(*(do(random.choice(nodes), *each) for each in work))
    listed = await nodes[0].cursors.of_client(logs[0].collection, client)
    counts = [await nodes[0].cursors.count_of_log(log) for log in logs]
    assert sorted(listed) == [log.name for log, count in zip(logs, counts, strict=True) if count]


async def test_a_cursor_that_comes_while_another_goes_stays_on_the_list(
    make_node: MakeLogNode, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was set after the old one went, and before its name did."""
    node, other = await make_node(), await make_node()
    log, unlist = make_log(f"collection {fresh_name}", "x", IdKind.NUMBER), node.cursors._unlist

    async def set_before(logs: Sequence[Log], client: str) -> None:
        await other.cursors.set(log, client, Start.LATEST)
        await unlist(logs, client)

    await node.cursors.set(log, "alice", Start.LATEST)
    monkeypatch.setattr(node.cursors, "_unlist", set_before)
    assert await node.cursors.remove(log, "alice")
    assert await node.cursors.of_client(log.collection, "alice") == {"x": 0}


async def test_a_name_without_a_cursor_takes_nobody_s_place(
    node: LogNode, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursors_module, "MAX_LOGS_OF_CLIENT", 3)
    monkeypatch.setattr(cursors_module, "_NAMES_AT_ONCE", 2)
    logs = [make_log(f"collection {fresh_name}", f"{n}", IdKind.NUMBER) for n in range(6)]
    for log in logs[:3]:
        await node.cursors.set(log, "alice", Start.LATEST)
    with pytest.raises(InvalidInput, match="3 logs"):
        await node.cursors.set(logs[3], "alice", Start.LATEST)
    for log in logs[:2]:
        await node.logs.delete(log)
    for log in logs[3:5]:
        await node.cursors.set(log, "alice", Start.LATEST)
    assert set(await node.cursors.of_client(logs[0].collection, "alice")) == {"2", "3", "4"}
    with pytest.raises(InvalidInput, match="3 logs"):
        await node.cursors.set(logs[5], "alice", Start.LATEST)


async def test_busy_logs_do_not_starve_the_others(
    node: LogNode, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursors_module, "_LOGS_AT_ONCE", 2)
    monkeypatch.setattr(cursors_module, "_BYTES_AT_ONCE", 300)
    logs = [make_log(f"collection {fresh_name}", f"{n}", IdKind.NUMBER) for n in range(5)]
    for log in logs:
        await node.cursors.set(log, "alice", Start.LATEST)
    seen: set[str] = set()
    for _ in range(3):
        for log in logs:
            await node.append(log, *[b"x" * 100] * 5)
        found = await node.cursors.read_all(logs[0].collection, "alice", ALL)
        assert sum(len(entries) for entries in found.values()) <= 4, "the rest is not asked for"
        seen.update(found)
    assert seen == {log.name for log in logs}


async def test_what_cannot_be_is_refused(
    node: LogNode, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, cursors = number_log(fresh_name), node.cursors
    with pytest.raises(InvalidInput):
        await cursors.set(time_log(fresh_name), "alice", Start.LATEST)
    for name in ("", "\ud800", "x" * 1025):
        with pytest.raises(InvalidInput):
            await cursors.set(log, name, Start.LATEST)
        with pytest.raises(InvalidInput):
            await cursors.of_client("tests", name)
    for count in (0, 10_001):
        with pytest.raises(InvalidInput):
            await cursors.read(log, "alice", count)
    with pytest.raises(InvalidInput):
        await cursors.read(log, "alice", 1, kept_count=-1)
    monkeypatch.setattr(cursors_module, "MAX_LOGS_OF_CLIENT", 1)
    client = f"client {fresh_name}"
    await cursors.set(log, client, Start.LATEST)
    await cursors.set(log, client, Start.EARLIEST)
    with pytest.raises(InvalidInput):
        await cursors.set(number_log(fresh_name + " too"), client, Start.LATEST)
