"""Queuey's queues followed live: streams that resume, and reads that wait."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from restmq.codecs.sse import Event, EventParser
from tests.endpoints.conftest import OpenNode
from tests.endpoints.queuey_client import QueueyClient, id_ahead, queuey
from tests.support import eventually

STREAM = {"Accept": "text/event-stream"}


class Events:
    """The events of one stream, one after the other."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self._parser = EventParser()
        self._events: list[Event] = []

    async def next(self) -> Event:
        """Wait for one event; StopAsyncIteration at the end of the stream."""
        async with asyncio.timeout(30):
            while not self._events:
                data = await self.answer.content.readany()
                if not data:
                    raise StopAsyncIteration
                self._events += self._parser.receive_data(data)
        return self._events.pop(0)

    async def bodies(self, count: int) -> list[str]:
        """Wait for so many events; returns the bodies of their messages."""
        return [json.loads((await self.next()).data)["body"] for _ in range(count)]

    async def wait_for_end(self) -> None:
        """Wait until the stream ends in good order, and see that nothing came before."""
        async with asyncio.timeout(30):
            self._events += self._parser.receive_data(await self.answer.content.read())
        assert self._events == []


@contextlib.asynccontextmanager
async def stream(
    app: QueueyClient, path: str = "/q", last_event_id: str | None = None
) -> AsyncIterator[Events]:
    """Follow a queue."""
    headers = {**app.headers, **STREAM}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    url = app.node.url + app.path(path)
    async with app.node.session.get(url, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        yield Events(answer)


@pytest.fixture
async def app(open_node: OpenNode) -> AsyncIterator[QueueyClient]:
    """An application of its own, with a queue ``q`` of three partitions."""
    async with queuey(open_node, "friend=F") as client:
        await client.create(partitions=3)
        yield client


# Streams


async def test_a_stream_tells_what_is_there_and_what_comes(app: QueueyClient) -> None:
    [key] = await app.post("old\nline", partition=1)
    await app.post("elsewhere", partition=2)
    async with stream(app) as events:
        event = await events.next()
        [message] = await app.messages()
        assert json.loads(event.data) == message
        assert (event.id, event.event) == (f"1:{key}", "message")
        await app.post("new 1", "new 2", partition=1)
        assert await events.bodies(2) == ["new 1", "new 2"]
    assert await app.bodies() == ["old\nline", "new 1", "new 2"]


async def test_a_stream_begins_where_it_is_told_to(app: QueueyClient) -> None:
    ids = await app.post("a", "b", "c", partition=1)
    async with stream(app, f"/q?since={ids[1]}") as events:
        assert await events.bodies(2) == ["b", "c"]
    async with stream(app, f"/q?since={id_ahead(ids[0], 20)}") as events:
        await app.ok("PUT", f"/q/{id_ahead(ids[0], 40)}", data="later still")
        assert await events.bodies(1) == ["later still"]
    async with stream(app, f"/q?since={ids[0]}", last_event_id=f"1:{ids[1]}") as events:
        assert await events.bodies(1) == ["c"]
    async with stream(app, f"/q?last_event_id={ids[1]}&limit=1") as events:
        assert await events.bodies(1) == ["c"]


async def test_a_stream_of_several_partitions_resumes_in_each(app: QueueyClient) -> None:
    await app.post("a1", "a2", partition=1)
    await app.post("b1", "b2", partition=2)
    path = "/q?partitions=1,2,3"
    seen: list[str] = []
    last_event_id = None
    for _ in range(5):  # each time the connection breaks after one event
        if len(seen) == 4:
            await app.post("c1", partition=3)
        async with stream(app, path, last_event_id) as events:
            event = await events.next()
            seen.append(json.loads(event.data)["body"])
            last_event_id = event.id
    assert sorted(seen[:4]) == ["a1", "a2", "b1", "b2"]
    assert seen[4] == "c1"
    assert last_event_id is not None
    assert sorted(part.partition(":")[0] for part in last_event_id.split(",")) == ["1", "2", "3"]


async def test_many_followers_get_the_same(app: QueueyClient) -> None:
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(stream(app)) for _ in range(5)]
        expected = [f"m{number}" for number in range(50)]
        for body in expected:
            await app.post(body, partition=1)
        for events in streams:
            assert await events.bodies(50) == expected


async def test_a_public_queue_can_be_followed_by_anyone_until_it_is_not(
    app: QueueyClient,
) -> None:
    await app.create("p", type="public")
    async with stream(app.with_key(None), "/p") as events:
        await app.post("for all", queue="p")
        assert await events.bodies(1) == ["for all"]
        await app.ok("PUT", "/p", data={"type": "user"})
        await app.post("for me", queue="p")
        await events.wait_for_end()


async def test_a_stream_does_not_go_on_in_a_queue_made_anew_for_others(app: QueueyClient) -> None:
    async with stream(app) as events:
        await app.ok("DELETE", "/q")
        await app.create(principles="app:friend")
        await app.post("for a friend")
        await events.wait_for_end()


async def test_streams_end_in_good_order_when_the_node_stops(open_node: OpenNode) -> None:
    async with contextlib.AsyncExitStack() as stack:
        app = await stack.enter_async_context(queuey(open_node))
        await app.create()
        events = await stack.enter_async_context(stream(app))
        url = app.node.url + app.path("/q?wait=60")
        waiting = asyncio.ensure_future(app.node.session.get(url, headers=app.headers))
        await app.post("x")
        assert await events.bodies(1) == ["x"]
        await app.node.node.close()
        await events.wait_for_end()
        async with await waiting as answer:
            assert answer.status == 200


async def test_a_quiet_stream_shows_signs_of_life(open_node: OpenNode) -> None:
    async with queuey(open_node, ping_seconds=0.1) as app:
        await app.create()
        async with stream(app) as events, asyncio.timeout(30):
            received = b""
            while b": ping\n\n" not in received:
                received += await events.answer.content.readany()


@pytest.mark.parametrize(
    ("query", "headers", "field"),
    [
        ("order=descending", STREAM, "order"),
        ("partitions=0", STREAM, "partitions"),
        ("partitions=x", STREAM, "partitions"),
        ("since=x", STREAM, "since"),
        ("", {**STREAM, "Last-Event-ID": "x"}, "last_event_id"),
        ("last_event_id=1:x", STREAM, "last_event_id"),
        ("last_event_id=1:x", {}, "last_event_id"),
        ("wait=x", {}, "wait"),
        ("wait=61", {}, "wait"),
        ("wait=-1", {}, "wait"),
    ],
)
async def test_wrong_wishes_are_refused(
    app: QueueyClient, query: str, headers: dict[str, str], field: str
) -> None:
    assert (await app.error("GET", f"/q?{query}", headers=headers))[:2] == (400, field)


async def test_following_needs_the_same_rights_as_reading(app: QueueyClient) -> None:
    for client in (app.with_key(None), app.with_key("F")):
        assert (await client.error("GET", "/q", headers=STREAM))[0] == 403
        assert (await client.error("GET", "/q?wait=1"))[0] == 403
    assert (await app.error("GET", "/missing", headers=STREAM))[:2] == (404, "InvalidQueueName")


async def test_acl_conf_can_forbid_following_alone(open_node: OpenNode) -> None:
    async with queuey(open_node, acl="[comet:consumer]\nhosts_deny = all\n") as app:
        await app.create()
        assert await app.bodies() == []
        for options in ({"headers": STREAM}, {}):
            path = "/q" if options else "/q?wait=1"
            assert (await app.call("GET", path, **options))[0] == 401
        assert await app.bodies("/q?wait=0") == []


# Reads that wait


async def until_the_server_waits(app: QueueyClient) -> None:
    """Wait until somebody watches a log of this node."""
    await eventually(lambda: bool(app.node.node.broker.log_watcher._watches))


async def waiting_read(app: QueueyClient, query: str) -> "asyncio.Task[list[str]]":
    """Start a read that waits, and return once the server waits too."""
    task = asyncio.ensure_future(app.bodies(f"/q?wait=60&{query}"))
    await until_the_server_waits(app)
    return task


async def test_a_read_waits_for_the_first_message(app: QueueyClient) -> None:
    read = await waiting_read(app, "partitions=2,3")
    await app.post("not this", partition=1)
    await app.post("this", partition=3)
    assert await read == ["this"]


async def test_a_read_waits_for_what_comes_after_the_last_one(app: QueueyClient) -> None:
    ids = await app.post("a", "b", partition=1)
    assert await app.bodies(f"/q?wait=60&since={ids[1]}") == ["b"]
    assert await app.bodies(f"/q?wait=60&last_event_id={ids[0]}") == ["b"]
    read = await waiting_read(app, f"last_event_id=1:{ids[1]}")
    await app.post("c", partition=1)
    assert await read == ["c"]


async def test_a_read_that_waited_for_nothing_is_empty(app: QueueyClient) -> None:
    assert await app.bodies("/q?wait=0") == []
    assert await app.bodies("/q?wait=1") == []
    assert await app.bodies("/q?wait=0&partitions=0") == []


async def test_a_read_does_not_wait_in_a_queue_that_is_deleted(app: QueueyClient) -> None:
    """It ends with the deletion, as if it came after that."""

    async def wait() -> tuple[int, Any]:
        return await app.call("GET", "/q?wait=60")

    task = asyncio.ensure_future(wait())
    await until_the_server_waits(app)
    await app.ok("DELETE", "/q")
    status, answer = await task
    assert (status, list(answer["error_msg"])) == (404, ["InvalidQueueName"])


async def test_a_read_does_not_wait_where_the_client_may_read_no_more(app: QueueyClient) -> None:
    task = asyncio.ensure_future(app.call("GET", "/q?wait=60"))
    await until_the_server_waits(app)
    await app.ok("PUT", "/q", data={"principles": "app:friend"})
    await app.post("for a friend", partition=2)
    assert (await task)[0] == 403


async def test_a_stream_ends_with_its_queue(app: QueueyClient) -> None:
    async with stream(app) as events:
        await app.post("last", partition=1)
        assert await events.bodies(1) == ["last"]
        await app.ok("DELETE", "/q")
        await events.wait_for_end()
