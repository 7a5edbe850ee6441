"""The events that a node keeps in memory: polls find there what the log would have told them."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from restmq.broker.keys import log_keys
from restmq.broker.log_entry import Log, NewEntry, Query, Scope
from restmq.broker.log_ids import id_of_number
from restmq.endpoints import rse_tail
from restmq.endpoints.rse_events import Reading, encode_list, pack_event
from restmq.endpoints.rse_tail import Tail, encode_events
from tests.broker.log_node import LogNode, MakeLogNode, number_log, opening_log_nodes
from tests.broker.steps import NOON
from tests.endpoints.conftest import OpenNode
from tests.endpoints.test_rse import Agent, opened

SOURCE, OTHER = b"one", b"other"
PATHS = (b"/a", b"/a/b", b"/a/b/c", b"/ab", b"/b")


@pytest.fixture
async def make_node(redis_url: str) -> AsyncIterator[MakeLogNode]:
    """Opens nodes on one Redis."""
    async with opening_log_nodes(redis_url) as make:
        yield make


@pytest.fixture
async def node(make_node: MakeLogNode) -> LogNode:
    """One node, whose clock stands at noon."""
    node = await make_node()
    node.scripts.clock_seconds = NOON
    return node


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator["Redis"]:
    """A plain client of that Redis."""
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


def reading(
    last_known_id: int = 0,
    path: bytes = b"/a",
    scope: Scope = Scope.EXACT,
    *,
    limit: int = 200,
    newest_first: bool = False,
    without_source: bytes = b"",
) -> Reading:
    """Make what a poll asks for."""
    query = Query(limit, id_of_number(last_known_id), scope=scope, path=path)
    return Reading(query, newest_first, last_known_id, without_source)


async def post(
    node: LogNode,
    log: Log,
    path: bytes = b"/a",
    count: int = 1,
    *,
    ttl_seconds: float | None = None,
    source: bytes = SOURCE,
    data: bytes = b"{}",
) -> None:
    """Post events in one operation."""
    entry = NewEntry(pack_event("test", data), ttl_seconds, source=source, path=path)
    await node.logs.append_all(log, [entry] * count)


async def ask(tail: Tail, asked: Reading) -> list[int] | None:
    """Return the numbers that a poll finds in the tail; None if it has to ask the log."""
    if not tail.covers(asked):
        return None
    query, future = tail.refresh()
    found = tail.find(asked, query, await future)
    return None if found is None else [event.number for event in found]


async def read_log(node: LogNode, log: Log, asked: Reading) -> list[int]:
    """Return the numbers that the log tells, by the rules of a poll, without any tail."""
    query = asked.query._replace(without_source=asked.without_source)
    if asked.newest_first:
        query = query._replace(start=None, newest_first=True)
    entries = (await node.logs.read(log, query)).entries
    return [entry.number for entry in entries if entry.number > asked.last_known_id]


async def grown(node: LogNode, log: Log, **limits: int) -> Tail:
    """Make a tail that has read what is there."""
    tail = Tail(node.logs, log, **limits)
    while not tail.covers(reading()):
        floor = tail.floor
        await tail.grow(reading())
        if tail.floor == floor:
            break
    return tail


@pytest.fixture
def log(fresh_name: str) -> Log:
    """A log of this test alone."""
    return number_log(fresh_name)


async def test_a_tail_that_has_read_nothing_sends_to_the_log(node: LogNode, log: Log) -> None:
    tail = Tail(node.logs, log)
    assert await ask(tail, reading()) is None
    await tail.grow(reading())
    assert await ask(tail, reading()) == []


async def test_what_is_new_is_found_whichever_node_it_came_through(
    node: LogNode, make_node: MakeLogNode, log: Log
) -> None:
    other = await make_node()
    other.scripts.clock_seconds = NOON
    tails = [await grown(each, log) for each in (node, other)]
    for number in range(1, 20):
        await post((node, other)[number % 2], log)
        for tail in tails:
            assert await ask(tail, reading(number - 1)) == [number]
            assert await ask(tail, reading()) == list(range(1, number + 1))


async def test_reads_that_overlap_bring_in_everything_once(node: LogNode, log: Log) -> None:
    """Two polls that began before either was answered, with posts before and between."""
    tail = await grown(node, log)
    await post(node, log)
    await ask(tail, reading())
    early, late = tail.refresh(), tail.refresh()
    await post(node, log, count=3)
    later = tail.refresh()
    for query, future in (early, late, later):
        found = tail.find(reading(1), query, await future)
        assert found is not None
    assert [event.number for event in found] == [2, 3, 4]
    await post(node, log)
    assert await ask(tail, reading()) == [1, 2, 3, 4, 5]


async def test_older_events_are_read_page_by_page(
    node: LogNode, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rse_tail, "READ_EVENTS", 4)
    await post(node, log, count=10)
    tail = Tail(node.logs, log)
    for floor, found in ((6, None), (2, None), (0, list(range(1, 11)))):
        await tail.grow(reading())
        assert tail.floor == floor
        assert await ask(tail, reading()) == found
        assert await ask(tail, reading(floor)) == list(range(floor + 1, 11))


async def test_only_so_many_events_are_kept(node: LogNode, log: Log) -> None:
    tail = await grown(node, log, max_events=5)
    await post(node, log, count=8)
    assert await ask(tail, reading(0, limit=1)) is None
    assert await ask(tail, reading(2)) is None
    assert await ask(tail, reading(3)) == [4, 5, 6, 7, 8]
    await tail.grow(reading())
    assert tail.floor == 3
    # The newest few are known in any case, but not whether there are more.
    assert await ask(tail, reading(0, limit=5, newest_first=True)) == [8, 7, 6, 5, 4]
    assert await ask(tail, reading(0, limit=6, newest_first=True)) is None


async def test_only_so_many_bytes_are_kept(node: LogNode, log: Log) -> None:
    tail = await grown(node, log, max_bytes=10_000)
    for _ in range(4):
        await post(node, log, data=b'["%b"]' % (b"x" * 3000))
        await ask(tail, reading(2**50))
    assert tail.floor == 2
    assert await ask(tail, reading(2)) == [3, 4]


async def test_what_comes_in_great_numbers_is_asked_of_the_log(
    node: LogNode, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rse_tail, "READ_EVENTS", 5)
    tail = await grown(node, log)
    await post(node, log, count=12)
    assert await ask(tail, reading(0, limit=5)) == [1, 2, 3, 4, 5]
    tail = await grown(node, log)
    await post(node, log, count=12)
    assert await ask(tail, reading(12)) is None  # there is more than one read brings in
    assert await ask(tail, reading(12, newest_first=True, limit=1)) is None
    assert await ask(tail, reading(20)) is None
    assert await ask(tail, reading(12)) == list(range(13, 25))


async def test_nobody_sees_what_has_expired(node: LogNode, log: Log) -> None:
    await post(node, log, ttl_seconds=10)
    await post(node, log, ttl_seconds=5)
    await post(node, log, ttl_seconds=20)
    tail = await grown(node, log)
    for later, left in ((4.9, [1, 2, 3]), (5, [1, 3]), (10, [3])):
        node.scripts.clock_seconds = NOON + later
        assert await ask(tail, reading()) == left
    await post(node, log, ttl_seconds=20)
    node.scripts.clock_seconds = NOON + 20
    # The newest it knew is gone with the one thing that told this log from another.
    assert await ask(tail, reading()) is None
    await tail.grow(reading())
    assert await ask(tail, reading()) == [4]
    node.scripts.clock_seconds = NOON + 30
    assert await ask(tail, reading()) is None
    await tail.grow(reading())
    assert await ask(tail, reading()) == []


@pytest.mark.parametrize("count", [0, 1, 3, 7])
async def test_a_log_that_began_again_is_noticed(
    node: LogNode, log: Log, store: "Redis", count: int
) -> None:
    """Redis lost its data: ids begin with 1 again, and may have passed those that were known."""
    await post(node, log, count=3)
    tail = await grown(node, log)
    assert await ask(tail, reading()) == [1, 2, 3]
    early = tail.refresh()
    assert tail.find(reading(), early[0], await early[1]) is not None
    await store.delete(*log_keys(log.collection, log.name))
    node.scripts.clock_seconds = NOON + 1
    await post(node, log, b"/a/b", count=count)
    await post(node, log, count=1)
    assert await ask(tail, reading()) is None
    await tail.grow(reading())
    assert await ask(tail, reading()) == [count + 1]


async def test_a_log_that_was_deleted_is_noticed(node: LogNode, log: Log) -> None:
    await post(node, log, count=3)
    tail = await grown(node, log)
    await node.logs.delete(log)
    assert await ask(tail, reading()) is None
    await tail.grow(reading())
    assert await ask(tail, reading()) == []
    await post(node, log)
    assert await ask(tail, reading()) == [4]


async def test_what_was_read_before_a_loss_is_not_taken_in_after_it(
    node: LogNode, log: Log, store: "Redis"
) -> None:
    await post(node, log, count=3)
    tail = await grown(node, log)
    old_query, old_future = tail.refresh()
    old_page = await old_future
    await store.delete(*log_keys(log.collection, log.name))
    assert await ask(tail, reading()) is None
    assert tail.find(reading(), old_query, old_page) is None
    await tail.grow(reading())
    assert await ask(tail, reading()) == []


async def test_older_events_that_come_too_late_are_dropped(
    node: LogNode, log: Log, store: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were asked for before all was forgotten, and answered after."""
    monkeypatch.setattr(rse_tail, "READ_EVENTS", 4)
    await post(node, log, count=10)
    tail = Tail(node.logs, log)
    await tail.grow(reading())
    await store.delete(*log_keys(log.collection, log.name))
    query, future = tail.refresh()
    growing = asyncio.create_task(tail.grow(reading()))
    assert tail.find(reading(6), query, await future) is None
    assert not growing.done()
    await growing
    assert tail.floor is None


async def test_own_events_are_left_out_and_do_not_count(node: LogNode, log: Log) -> None:
    tail = await grown(node, log)
    for number in range(1, 11):
        await post(node, log, source=SOURCE if number % 3 else OTHER)
    asked = reading(limit=2, without_source=SOURCE)
    assert await ask(tail, asked) == [3, 6]
    assert await ask(tail, asked._replace(newest_first=True)) == [9, 6]
    assert await ask(tail, reading(limit=4)) == [1, 2, 3, 4]


async def test_passing_over_very_many_is_left_to_the_log(
    node: LogNode, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rse_tail, "MAX_PASSED_OVER", 5)
    tail = await grown(node, log)
    await post(node, log, b"/b", count=6)
    await post(node, log, b"/a")
    await post(node, log, b"/b", count=6)
    assert await ask(tail, reading(limit=1, scope=Scope.SUBTREE)) is None
    assert await ask(tail, reading(1, limit=1, scope=Scope.SUBTREE)) == [7]
    assert await ask(tail, reading(limit=1)) == [7]
    assert await ask(tail, reading(limit=1, scope=Scope.PARENTS, path=b"/a/x")) == [7]
    assert await ask(tail, reading(limit=1, path=b"/b", without_source=SOURCE)) is None


_posts = st.tuples(
    st.just("post"),
    st.sampled_from(PATHS),
    st.sampled_from([SOURCE, OTHER]),
    st.sampled_from([None, 2.0, 5.0]),
    st.integers(1, 4),
)
_readings = st.builds(
    reading,
    st.integers(0, 12),
    st.sampled_from([b"/a", b"/a/b", b"/a/b/c/d", b"/none"]),
    st.sampled_from([Scope.EXACT, Scope.PARENTS, Scope.SUBTREE]),
    limit=st.sampled_from([1, 3, 200]),
    newest_first=st.booleans(),
    without_source=st.sampled_from([b"", SOURCE, OTHER]),
)
_polls = st.tuples(st.just("poll"), st.lists(_readings, min_size=3, max_size=8))
_steps = st.lists(
    st.one_of(
        _posts,
        _polls,
        st.tuples(st.just("later"), st.sampled_from([0.5, 2.0, 5.0])),
        st.tuples(st.just("lose")),
    ),
    max_size=15,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    posts=st.lists(_posts, min_size=3, max_size=10),
    steps=_steps,
    polls=_polls,
    limits=st.sampled_from([(100, 100), (100, 100), (8, 100), (8, 3), (3, 3)]),
)
async def test_polls_find_what_the_log_would_tell(
    node: LogNode,
    store: "Redis",
    posts: list[Any],
    steps: list[Any],
    polls: Any,
    limits: tuple[int, int],
) -> None:
    """Two tails, whatever is posted, expires or is lost; where one answers, the log agrees."""
    max_events, read_events = limits
    log = number_log(uuid.uuid4().hex)
    clock = node.scripts.clock_seconds = NOON
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rse_tail, "READ_EVENTS", read_events)
        tails = [Tail(node.logs, log, max_events=max_events) for _ in range(2)]
        for index, (kind, *arguments) in enumerate([*posts, polls, *steps, polls]):
            clock += 0.001  # two events of different logs were never published at the same time
            node.scripts.clock_seconds = clock
            if kind == "post":
                path, source, ttl_seconds, count = arguments
                await post(node, log, path, count, ttl_seconds=ttl_seconds, source=source)
            elif kind == "later":
                clock += arguments[0]
            elif kind == "lose":
                await store.delete(*log_keys(log.collection, log.name))
            else:
                for asked in arguments[0]:
                    expected = await read_log(node, log, asked)
                    tail = tails[index % 2]
                    assert await ask(tail, asked) in (None, expected)
                    await tail.grow(asked)
                    found = await ask(tail, asked)
                    # If it has room for everything, it answers everything.
                    assert found == expected or (found is None and limits != (100, 100))


async def test_events_are_written_as_from_the_log(node: LogNode, log: Log) -> None:
    await post(node, log, count=3, data=b'{"a": "\xc3\xa9"}')
    node.scripts.clock_seconds = NOON + 7.9
    tail = await grown(node, log)
    query, future = tail.refresh()
    page = await future
    found = tail.find(reading(), query, page)
    assert found is not None
    assert encode_events(found, page.now) == encode_list(await node.logs.read(log, reading().query))
    assert b'"age":7,' in encode_events(found, page.now)


async def test_polls_over_http_see_at_once_what_another_node_stored(open_node: OpenNode) -> None:
    """Both nodes answer from memory, which neither the posts nor the other node know of."""
    channel = f"/tail-{uuid.uuid4().hex}"
    async with (
        opened(open_node, "path", rse_test_mode=True) as first,
        opened(open_node, "path", rse_test_mode=True) as second,
    ):
        senders = [first.agent(), second.agent()]
        readers: list[Agent] = [first.agent(), second.agent()]
        last_ids = [0, 0]
        for number in range(20):
            await senders[number % 2].posted(f"{channel}/below", [number])
            for index, reader in enumerate(readers):
                asked = f"?events=all&last-known-id={last_ids[index]}"
                (event,) = (await reader.get(channel + asked)).events
                assert event["data"] == [number]
                last_ids[index] = event["id"]
                answer = await reader.get(f"{channel}?events=all&last-known-id={event['id']}")
                assert answer.status == 204
