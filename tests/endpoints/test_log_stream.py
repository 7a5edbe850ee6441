"""What the live streams of logs share, apart from any protocol."""

import asyncio
from contextlib import aclosing

from restmq.broker.log_entry import Entry, NewEntry, Page, Query, make_log
from restmq.broker.log_follow import follow_all
from restmq.broker.log_ids import IdKind, id_of_number
from restmq.endpoints.log_stream import EncodeOnce, LogStreams
from tests.endpoints.conftest import NodeUnderTest


def page_of(*values: bytes) -> Page:
    """Make a page that holds these values."""
    entries = [Entry(0, id_of_number(1), bytes(19) + value) for value in values]
    return Page(entries, None, True, 0.0)


def test_a_page_is_encoded_once_for_those_that_share_it() -> None:
    """Another page is encoded anew, even one that looks the same."""
    calls = 0

    def encode(page: Page) -> bytes:
        nonlocal calls
        calls += 1
        return b"".join(entry.value for entry in page.entries)

    once = EncodeOnce(encode)
    page, other = page_of(b"a", b"b"), page_of(b"a", b"b")
    assert [once(page), once(page), once(page._replace(now=1.0))] == [b"ab"] * 3
    assert calls == 1
    assert once(other) == b"ab"
    assert calls == 2


async def test_several_partitions_are_followed_at_once(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """Each in its order, what is there and what comes; the others are left out."""
    broker = node.node.broker
    log = make_log("tests", fresh_name, IdKind.TIME)
    await broker.logs.append_all(log, [NewEntry(b"%d" % n, partition=n % 3) for n in range(9)])
    queries = [Query(2, partition=1), Query(2, partition=2)]
    seen: dict[int, list[bytes]] = {1: [], 2: []}
    async with (
        asyncio.timeout(20),
        aclosing(follow_all(broker.logs, broker.log_watcher, log, queries)) as pages,
    ):
        async for page in pages:
            for entry in page.entries:
                seen[entry.partition].append(entry.value)
            count = sum(map(len, seen.values()))
            if count == 6:
                await broker.logs.append(log, NewEntry(b"10", partition=0))
                await broker.logs.append(log, NewEntry(b"11", partition=2))
            if count == 7:
                break
    assert seen == {1: [b"1", b"4", b"7"], 2: [b"2", b"5", b"8", b"11"]}


async def test_what_is_held_is_dropped_when_the_node_stops() -> None:
    """Now and later; a result or an error that is there is given."""
    streams = LogStreams(ping_seconds=30.0)

    async def answer(value: int) -> int:
        return value

    assert await streams.hold(answer(1)) == 1
    waiting = asyncio.create_task(streams.hold(asyncio.sleep(60)))
    await asyncio.sleep(0)
    streams.end_all()
    async with asyncio.timeout(20):
        assert await waiting is None
        assert await streams.hold(asyncio.sleep(60)) is None
