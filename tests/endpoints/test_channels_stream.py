"""Channels followed live, as server-sent events: what comes, resuming, and how streams end."""

import asyncio
import contextlib
import json
import socket
from typing import Any

import aiohttp
import pytest

from restmq.broker.log import Logs
from restmq.broker.log_entry import Page
from restmq.broker.log_follow import LogWatcher
from restmq.errors import StoreUnavailable
from tests.endpoints.channel_client import Channels
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import eventually


@pytest.fixture
def channels(node: NodeUnderTest) -> Channels:
    """A client of a node with the default settings."""
    return Channels(node.session, node.url)


def watcher_of(node: NodeUnderTest) -> LogWatcher:
    """Return what tells this node of news."""
    return node.node.broker.log_watcher


async def test_a_stream_brings_what_is_new(channels: Channels, fresh_name: str) -> None:
    """Each message is an event: its envelope, with its id as the event's."""
    await channels.write(fresh_name, "old")
    async with channels.stream(f"/channels/{fresh_name}") as stream:
        await stream.until(b"retry: 1000\n\n")
        [written] = await channels.write(fresh_name, "two\nlines", source="alice")
        event = await stream.event()
        assert (event.id, event.event) == ("2", "message")
        assert json.loads(event.data) == written
        await channels.write(fresh_name, 3, 4)
        assert await stream.messages(2) == [3, 4]


async def test_a_stream_begins_after_the_position_that_is_asked_for(
    channels: Channels, fresh_name: str
) -> None:
    """First what is retained, in order and without a seam, then what comes."""
    await channels.write(fresh_name, *range(1, 6))
    async with channels.stream(f"/channels/{fresh_name}?after=2") as stream:
        assert await stream.messages(3) == [3, 4, 5]
        await channels.write(fresh_name, 6)
        assert await stream.messages(1) == [6]
    async with channels.stream(f"/channels/{fresh_name}/messages?after=0") as stream:
        assert await stream.messages(6) == [1, 2, 3, 4, 5, 6]


async def test_a_long_backlog_comes_whole(channels: Channels, fresh_name: str) -> None:
    """Over many pages."""
    await asyncio.gather(*(channels.write(fresh_name, "x" * 1000) for _ in range(1200)))
    async with channels.stream(f"/channels/{fresh_name}?after=0") as stream:
        ids = [int((await stream.event()).id) for _ in range(1200)]
    assert ids == [*range(1, 1201)]


async def test_a_stream_resumes_by_last_event_id(channels: Channels, fresh_name: str) -> None:
    """The header, or the parameter, wins over ``after``, which is still in the address."""
    await channels.write(fresh_name, *range(1, 6))
    path = f"/channels/{fresh_name}?after=1"
    async with channels.stream(path, last_event_id="4") as stream:
        assert await stream.messages(1) == [5]
    async with channels.stream(path + "&last_event_id=3") as stream:
        assert await stream.messages(2) == [4, 5]
    # What was read elsewhere, or of a store that has lost its data, is no reason to be silent.
    async with channels.stream(path, last_event_id="1000") as stream:
        await stream.until(b"retry")
        await channels.write(fresh_name, 6)
        assert await stream.messages(1) == [6]


@pytest.mark.parametrize("wrong", ["x", "-1", "1.5", "99999999999999999999"])
async def test_a_position_that_is_none_is_refused(
    channels: Channels, fresh_name: str, wrong: str
) -> None:
    """Before the stream begins."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": wrong}
    answer = await channels.json("GET", f"/channels/{fresh_name}", 400, headers=headers)
    assert "Last-Event-ID" in answer["message"]


async def test_what_is_kept_no_more_is_announced(channels: Channels, fresh_name: str) -> None:
    """A reader that comes back learns which messages it has missed for good, once."""
    await channels.write(fresh_name, *range(1, 11))
    await channels.json("DELETE", f"/channels/{fresh_name}/messages?before=8")
    async with channels.stream(f"/channels/{fresh_name}", last_event_id="3") as stream:
        gap = await stream.event()
        assert (gap.event, gap.id) == ("gap", "7")
        assert json.loads(gap.data) == {"channel": fresh_name, "from": 4, "to": 7}
        assert await stream.messages(3) == [8, 9, 10]
    async with channels.stream(f"/channels/{fresh_name}", last_event_id=gap.id) as stream:
        assert await stream.messages(3) == [8, 9, 10]


async def test_what_goes_before_its_turn_is_announced(
    node: NodeUnderTest, channels: Channels, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to who asked by ``after``, and to a stream that is behind while messages go."""
    await channels.write(fresh_name, *range(1, 6))
    path = f"/channels/{fresh_name}"
    await channels.json("DELETE", f"{path}/messages?before=3")
    async with channels.stream(f"{path}?after=0") as stream:
        gap = await stream.event()
        assert (gap.event, json.loads(gap.data)["to"]) == ("gap", 2)
        assert await stream.messages(3) == [3, 4, 5]
        logs, reading = node.node.broker.logs, asyncio.Event()
        read = logs.read

        async def read_later(*arguments: Any) -> Page:
            await reading.wait()
            return await read(*arguments)

        monkeypatch.setattr(logs, "read", read_later)
        await channels.write(fresh_name, 6)
        # The reading that was under way may bring this one; the next is held back for certain.
        await channels.write(fresh_name, *range(7, 11))
        await channels.json("DELETE", f"{path}/messages?before=9")
        reading.set()
        told: list[int] = []
        while not told or told[-1] < 10:
            event = await stream.event()
            data = json.loads(event.data)
            told += range(data["from"], data["to"] + 1) if event.event == "gap" else [data["id"]]
        assert told == [6, 7, 8, 9, 10]
        assert b"event: gap" in stream.raw.split(b"id: 5\n")[1]


async def test_a_channel_can_be_followed_before_it_exists(
    channels: Channels, fresh_name: str
) -> None:
    """The first message is new as well."""
    async with channels.stream(f"/channels/{fresh_name}") as stream:
        await stream.until(b"retry")
        await channels.write(fresh_name, 1)
        assert await stream.messages(1) == [1]


async def test_many_readers_get_everything_in_order(channels: Channels, fresh_name: str) -> None:
    """Each of them, whatever the others do."""
    async with contextlib.AsyncExitStack() as stack:
        path = f"/channels/{fresh_name}?after=0"
        streams = [await stack.enter_async_context(channels.stream(path)) for _ in range(20)]
        await channels.write(fresh_name, *range(30))
        for received in await asyncio.gather(*(stream.messages(30) for stream in streams)):
            assert received == [*range(30)]


async def test_nodes_hear_of_each_other_s_messages(open_node: OpenNode, fresh_name: str) -> None:
    """The reader is at another node than the writer."""
    async with open_node() as one, open_node() as other:
        reader, writer = (Channels(each.session, each.url) for each in (one, other))
        async with reader.stream(f"/channels/{fresh_name}") as stream:
            await stream.until(b"retry")
            await writer.write(fresh_name, 1, 2)
            assert await stream.messages(2) == [1, 2]


async def test_a_quiet_stream_carries_signs_of_life(open_node: OpenNode, fresh_name: str) -> None:
    """A comment, which no reader sees as an event."""
    async with open_node(ping_seconds=1) as node:
        channels = Channels(node.session, node.url)
        async with channels.stream(f"/channels/{fresh_name}") as stream:
            await stream.until(b": ping\n\n: ping\n\n")
            await channels.write(fresh_name, 1)
            assert await stream.messages(1) == [1]


async def test_streams_and_waits_end_when_the_node_stops(
    open_node: OpenNode, fresh_name: str
) -> None:
    """In good order, so that clients come back elsewhere; with a drain time that nobody waits."""
    async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
        node = await stack.enter_async_context(open_node(drain_seconds=60.0))
        channels = Channels(session, node.url)
        client = f"{fresh_name}-client"
        await channels.subscribe(client, fresh_name)
        stream = await stack.enter_async_context(channels.stream(f"/channels/{fresh_name}"))
        await stream.until(b"retry")
        waits = [
            asyncio.create_task(channels.read(client, "?wait=60")),
            asyncio.create_task(channels.json("GET", f"/channels/{fresh_name}?wait=60")),
        ]
        held = node.node._log_streams._held
        await eventually(lambda: len(held) == 3)
        async with asyncio.timeout(20):
            await node.node.close()
            assert await stream.event_or_end() is None
            assert await waits[0] == {}
            assert (await waits[1])["messages"] == []
        assert not held


async def test_a_reader_that_leaves_leaves_nothing_behind(
    node: NodeUnderTest, channels: Channels, fresh_name: str
) -> None:
    """Neither a task nor a watch."""
    held = node.node._log_streams._held
    async with channels.stream(f"/channels/{fresh_name}") as stream:
        await stream.until(b"retry")
        await eventually(lambda: held and watcher_of(node)._watches)
    await eventually(lambda: not held and not watcher_of(node)._watches)


async def test_a_reader_that_does_not_read_is_cut_off(open_node: OpenNode, fresh_name: str) -> None:
    """After the time that it has for reading a reply; the others are not held up."""
    async with open_node(body_timeout_seconds=1.0) as node:
        channels = Channels(node.session, node.url)
        port = node.node.port
        with socket.create_connection(("127.0.0.1", port)) as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.sendall(
                f"GET /channels/{fresh_name}?after=0 HTTP/1.1\r\nHost: x\r\n"
                "Accept: text/event-stream\r\n\r\n".encode()
            )
            held = node.node._log_streams._held
            await eventually(lambda: held)
            async with channels.stream(f"/channels/{fresh_name}?after=0") as stream:
                for number in range(1, 101):
                    await channels.write(fresh_name, "x" * 200_000)
                    assert (await stream.event()).id == str(number)
                await eventually(lambda: len(held) == 1, timeout_seconds=30)
                await channels.write(fresh_name, "still there")
                assert await stream.messages(1) == ["still there"]


async def test_a_stream_outlives_a_store_that_is_away(
    node: NodeUnderTest,
    channels: Channels,
    fresh_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes on from where it was; one that begins meanwhile is refused with 503."""
    logs = node.node.broker.logs
    failures = 0

    async def away(*arguments: object) -> None:
        nonlocal failures
        failures += 1
        raise StoreUnavailable("away")

    async with channels.stream(f"/channels/{fresh_name}") as stream:
        await stream.until(b"retry")
        await channels.write(fresh_name, 1)
        assert await stream.messages(1) == [1]
        with monkeypatch.context() as patch:
            patch.setattr(logs, "read", away)
            patch.setattr(logs, "last_number", away)
            await channels.write(fresh_name, 2)
            await eventually(lambda: failures)
            headers = {"Accept": "text/event-stream"}
            _, told = await channels.call("GET", f"/channels/{fresh_name}", 503, headers=headers)
            assert told["Retry-After"]
        assert await stream.messages(1) == [2]


async def test_a_stream_that_fails_is_cut_off_and_not_ended(
    node: NodeUnderTest,
    channels: Channels,
    fresh_name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client can tell, and the log has it all."""

    async def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    async with channels.stream(f"/channels/{fresh_name}") as stream:
        await stream.until(b"retry")
        monkeypatch.setattr(Logs, "read", broken)
        await channels.write(fresh_name, 1)
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream.event_or_end()
    assert "ZeroDivisionError" in caplog.text


async def test_a_client_of_http_1_0_gets_the_plain_bytes(node: NodeUnderTest) -> None:
    """No chunks, and the connection ends with the stream."""
    channels, name = Channels(node.session, node.url), "old-client"
    await channels.write(name, 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", node.node.port)
    writer.write(
        b"GET /channels/old-client?after=0&x HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n"
    )
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Transfer-Encoding" not in head
        assert await reader.readuntil(b"\n\n") == b"retry: 1000\n\n"
        assert (await reader.readuntil(b"\n\n")).startswith(b"id: 1\ndata: {")
    writer.close()
    await writer.wait_closed()


async def test_a_head_of_a_stream_does_not_stream(channels: Channels, fresh_name: str) -> None:
    """It is answered like one of the overview."""
    await channels.write(fresh_name, 1)
    headers = {"Accept": "text/event-stream"}
    body, told = await channels.call("HEAD", f"/channels/{fresh_name}", 200, headers=headers)
    assert body == b""
    assert told["Content-Type"] == "application/json"


async def test_pages_of_allowed_origins_may_listen(open_node: OpenNode, fresh_name: str) -> None:
    """The stream carries the header that lets them."""
    origin = "https://app.example"
    async with open_node(allowed_origins=(origin,)) as node:
        headers = {"Accept": "text/event-stream", "Origin": origin}
        url = f"{node.url}/channels/{fresh_name}"
        async with node.session.get(url, headers=headers) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == origin
