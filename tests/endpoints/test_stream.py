"""Streams, from outside (specification of RestMQ, section 6)."""

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from restmq.codecs.sse import EventParser
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import eventually

SSE = {"Accept": "text/event-stream"}


async def lines_of(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the lines of a comet stream as they come."""
    async for line in answer.content:
        yield line


async def test_comet_sends_headers_at_once_and_a_line_a_message(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """The queue need not exist; lines end in CRLF and have no count; DELETE ends in order."""
    async with node.session.get(f"{node.url}/c/{fresh_name}") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/plain"
        assert answer.headers["Transfer-Encoding"] == "chunked"
        await node.add(fresh_name, "a", "b")
        lines = lines_of(answer)
        for number, value in ((1, "a"), (2, "b")):
            line = await anext(lines)
            assert line == b'{"key":"%b:%d","value":"%b"}\r\n' % (
                fresh_name.encode(),
                number,
                value.encode(),
            )
        await node.call("DELETE", f"/q/{fresh_name}")
        assert [line async for line in lines] == []


async def test_comet_with_a_callback_sends_calls(node: NodeUnderTest, fresh_name: str) -> None:
    """One call a line."""
    async with node.session.get(f"{node.url}/c/{fresh_name}?callback=cb") as answer:
        await node.add(fresh_name, "x")
        line = await anext(lines_of(answer))
    assert line.startswith(b'cb({"key":')
    assert line.endswith(b");\r\n")


async def test_a_backlog_is_delivered_on_connection(node: NodeUnderTest, fresh_name: str) -> None:
    """All of it, in order, and it leaves the queue."""
    await asyncio.gather(*(node.add(fresh_name, str(index)) for index in range(500)))
    async with node.session.get(f"{node.url}/c/{fresh_name}") as answer:
        lines = lines_of(answer)
        keys = [json.loads(await anext(lines))["key"] for _ in range(500)]
    assert keys == [f"{fresh_name}:{number}" for number in range(1, 501)]
    assert await node.get(f"/q/{fresh_name}") == (204, b"")


@pytest.mark.parametrize("how", ["accept", "format"])
async def test_server_sent_events(node: NodeUnderTest, fresh_name: str, how: str) -> None:
    """The id is the message's number; line breaks in values do not break the framing."""
    path = f"/c/{fresh_name}" + ("?format=sse" if how == "format" else "")
    headers = SSE if how == "accept" else {}
    parser = EventParser()
    events = []
    async with node.session.get(node.url + path, headers=headers) as answer:
        assert answer.content_type == "text/event-stream"
        await node.add(fresh_name, "line\r\nbreaks\n", "x")
        while len(events) < 3:
            events += parser.receive_data(await answer.content.readany())
    assert [event.event for event in events] == ["open", "message", "message"]
    assert [event.id for event in events] == ["0", "1", "2"]
    assert json.loads(events[1].data) == {"key": f"{fresh_name}:1", "value": "line\r\nbreaks\n"}


async def test_an_idle_event_stream_is_kept_alive(open_node: OpenNode, fresh_name: str) -> None:
    """By comments, which readers pass over."""
    async with (
        open_node(ping_seconds=0.1) as node,
        node.session.get(f"{node.url}/c/{fresh_name}", headers=SSE) as answer,
    ):
        while await answer.content.readline() != b": ping\n":
            assert not answer.content.at_eof()


async def test_long_poll(node: NodeUnderTest, fresh_name: str) -> None:
    """What is there, else the first message, else 204."""
    await node.add(fresh_name, "a", "b")
    status, body = await node.get(f"/c/{fresh_name}?wait=5")
    assert (status, body.count(b"\r\n")) == (200, 2)
    assert await node.get(f"/c/{fresh_name}?wait=0") == (204, b"")
    waiting = asyncio.create_task(node.get(f"/c/{fresh_name}?wait=30"))
    await eventually(lambda: node.node.broker.consumer_count == 1)
    await node.add(fresh_name, "c")
    status, body = await waiting
    assert (status, json.loads(body)["value"]) == (200, "c")
    assert node.node.broker.consumer_count == 0
    assert (await node.get(f"/c/{fresh_name}?wait=61"))[0] == 400


async def test_a_websocket_gets_frames_and_echoes(node: NodeUnderTest, fresh_name: str) -> None:
    """The echo is verbatim and not queued; DELETE closes in order."""
    async with node.session.ws_connect(f"{node.url}/ws/{fresh_name}") as socket:
        await node.add(fresh_name, "x" * 10, "y" * 200, "z" * 70_000)
        for size in (10, 200, 70_000):
            message = await socket.receive_json()
            assert len(message["value"]) == size
        await socket.send_str("hi")
        assert await socket.receive_str() == "hi"
        await socket.send_bytes(b"\x00\xff")
        assert await socket.receive_bytes() == b"\x00\xff"
        await node.call("DELETE", f"/q/{fresh_name}")
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1000


async def test_a_plain_get_of_a_websocket_path_is_refused(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """400, and no consumer is left behind."""
    assert (await node.get(f"/ws/{fresh_name}"))[0] == 400
    assert node.node.broker.consumer_count == 0


async def test_roundrobin_rotates_in_connection_order(node: NodeUnderTest, fresh_name: str) -> None:
    """Four messages, two consumers: two each, in turn."""
    await node.post(f"/p/{fresh_name}", data={"policy": "roundrobin"})
    url = f"{node.url}/c/{fresh_name}"
    async with node.session.get(url) as first, node.session.get(url) as second:
        for value in "abcd":
            await node.add(fresh_name, value)
        got = []
        for answer in (first, second):
            lines = lines_of(answer)
            got.append([json.loads(await anext(lines))["value"] for _ in range(2)])
    assert sorted(got) == [["a", "c"], ["b", "d"]]


async def test_broadcast_reaches_every_format(node: NodeUnderTest, fresh_name: str) -> None:
    """Comet, server-sent events and WebSocket alike."""
    url = f"{node.url}/c/{fresh_name}"
    async with (
        node.session.get(url) as comet,
        node.session.get(url, headers=SSE) as events,
        node.session.ws_connect(f"{node.url}/ws/{fresh_name}") as socket,
    ):
        await node.add(fresh_name, "x")
        key = f"{fresh_name}:1"
        assert (await socket.receive_json())["key"] == key
        assert json.loads(await comet.content.readline())["key"] == key
        while await events.content.readline() != b"id: 1\n":
            assert not events.content.at_eof()


async def test_a_stopped_queue_holds_back_until_it_is_started(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """The backlog flows at once."""
    await node.post(f"/control/{fresh_name}", data={"status": "stop"})
    async with node.session.get(f"{node.url}/c/{fresh_name}") as answer:
        await node.add(fresh_name, "held")
        assert json.loads((await node.get(f"/stats/{fresh_name}"))[1])["len"] == 1
        await node.post(f"/control/{fresh_name}", data={"status": "start"})
        assert json.loads(await answer.content.readline())["value"] == "held"


async def test_a_command_wakes_streams_at_once(node: NodeUnderTest, fresh_name: str) -> None:
    """The original waited for its next tick."""
    async with node.session.get(f"{node.url}/c/{fresh_name}") as answer:
        body = json.dumps({"cmd": "add", "queue": fresh_name, "value": "x"})
        await node.post("/queue", data={"body": body})
        assert json.loads(await answer.content.readline())["value"] == "x"


async def test_http_1_0_gets_a_stream_without_chunks(node: NodeUnderTest, fresh_name: str) -> None:
    """Old clients read until the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.node.port)
    writer.write(f"GET /c/{fresh_name} HTTP/1.0\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"chunked" not in head
    await node.add(fresh_name, "x")
    assert await reader.readline() == b'{"key":"%b:1","value":"x"}\r\n' % fresh_name.encode()
    writer.close()
    await writer.wait_closed()


async def test_a_consumer_that_leaves_is_forgotten(node: NodeUnderTest, fresh_name: str) -> None:
    """Messages wait in the queue again."""
    async with node.session.get(f"{node.url}/c/{fresh_name}"):
        await eventually(lambda: node.node.broker.consumer_count == 1)
        stats = json.loads((await node.get(f"/stats/{fresh_name}"))[1])
        assert stats["consumers"] == 1
    await eventually(lambda: node.node.broker.consumer_count == 0)

    async def nobody_left() -> bool:
        return bool(json.loads((await node.get(f"/stats/{fresh_name}"))[1])["consumers"] == 0)

    await eventually(nobody_left)
    await node.add(fresh_name, "kept")
    assert json.loads((await node.get(f"/q/{fresh_name}"))[1])["value"] == "kept"


async def test_a_later_consumer_does_not_get_what_was_broadcast_before(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """Broadcast is for those who are connected."""
    url = f"{node.url}/c/{fresh_name}"
    async with node.session.get(url) as first:
        await node.add(fresh_name, "old")
        await first.content.readline()
        async with node.session.get(url) as second:
            await node.add(fresh_name, "new")
            assert json.loads(await second.content.readline())["value"] == "new"
    async with node.session.get(url) as third:
        await node.add(fresh_name, "newest")
        assert json.loads(await third.content.readline())["value"] == "newest"


async def test_a_long_poll_is_not_answered_by_a_sign_of_life(
    open_node: OpenNode, fresh_name: str
) -> None:
    """Only messages answer it."""
    async with open_node(ping_seconds=0.1) as node:
        assert await node.get(f"/c/{fresh_name}?wait=1", headers=SSE) == (204, b"")
