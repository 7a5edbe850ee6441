"""Streams that are resumed, in every format (specification of delivery, section 3)."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from restmq.codecs.sse import Event, EventParser
from tests.endpoints.conftest import NodeUnderTest
from tests.support import eventually

FORMATS = ("comet", "sse", "ws")
Item = dict[str, Any]


class Reader:
    """One stream in one format, read as what was sent: events by name, and messages."""

    def __init__(self, node: NodeUnderTest, queue: str, kind: str, query: str, **headers: str):
        path = "ws" if kind == "ws" else "c"
        self._url = f"{node.url}/{path}/{queue}?format={kind}&{query}"
        self._kind = kind
        self._headers = headers
        self._session = node.session
        self._parser = EventParser()
        self._waiting: list[Event] = []
        self._stream: Any = None
        self.last_event: Event | None = None

    async def __aenter__(self) -> "Reader":
        if self._kind == "ws":
            self._stream = await self._session.ws_connect(self._url, headers=self._headers)
        else:
            self._stream = await self._session.get(self._url, headers=self._headers)
            assert self._stream.status == 200, await self._stream.text()
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._kind == "ws":
            await self._stream.close()
        else:
            self._stream.close()

    async def next(self) -> Item:
        """Return the next object; an event of SSE as the others write it."""
        async with asyncio.timeout(20):
            if self._kind == "ws":
                item: Item = await self._stream.receive_json()
                return item
            if self._kind == "comet":
                line: Item = json.loads(await self._stream.content.readline())
                return line
            while not self._waiting:
                data = await self._stream.content.readany()
                assert data, "the stream has ended"
                self._waiting += self._parser.receive_data(data)
            self.last_event = event = self._waiting.pop(0)
            fields: Item = json.loads(event.data)
            return fields if event.event == "message" else {"event": event.event, **fields}

    async def numbers(self, count: int) -> list[int]:
        """Return the numbers of the next messages."""
        return [int((await self.next())["key"].rpartition(":")[2]) for _ in range(count)]


async def send(node: NodeUnderTest, queue: str, count: int) -> None:
    """Broadcast so many messages to a consumer that is there meanwhile."""
    async with node.session.get(f"{node.url}/c/{queue}") as answer:
        await node.add(queue, *map(str, range(count)))
        for _ in range(count):
            await answer.content.readline()
    await eventually(lambda: node.node.broker.consumer_count == 0)


@pytest.mark.parametrize("kind", FORMATS)
class TestEveryFormat:
    async def test_what_was_missed_comes_first_and_then_what_is_new(
        self, node: NodeUnderTest, fresh_name: str, kind: str
    ) -> None:
        await send(node, fresh_name, 5)
        async with Reader(node, fresh_name, kind, "after=2") as reader:
            opened = {"event": "open", "queue": fresh_name, "position": 2}
            assert await reader.next() == opened
            assert await reader.numbers(3) == [3, 4, 5]
            await node.add(fresh_name, "new")
            assert await reader.numbers(1) == [6]

    async def test_a_header_says_where_unless_the_query_does(
        self, node: NodeUnderTest, fresh_name: str, kind: str
    ) -> None:
        await send(node, fresh_name, 4)
        header = {"Last-Event-ID": "3"}
        async with Reader(node, fresh_name, kind, "", **header) as reader:
            assert (await reader.next())["position"] == 3
            assert await reader.numbers(1) == [4]
        async with Reader(node, fresh_name, kind, "after=1", **header) as reader:
            assert (await reader.next())["position"] == 1
            assert await reader.numbers(3) == [2, 3, 4]
        async with Reader(node, fresh_name, kind, "", **{"X-RestMQ-After": "2"}) as reader:
            assert (await reader.next())["position"] == 2

    async def test_zero_is_from_the_oldest_kept(
        self, node: NodeUnderTest, fresh_name: str, kind: str
    ) -> None:
        await node.node.broker.configuration.change(fresh_name, {"history_count": 3})
        await send(node, fresh_name, 8)
        async with Reader(node, fresh_name, kind, "after=0") as reader:
            assert (await reader.next())["event"] == "open"
            assert await reader.numbers(3) == [6, 7, 8]

    async def test_a_gap_is_told_in_band(
        self, node: NodeUnderTest, fresh_name: str, kind: str
    ) -> None:
        await node.node.broker.configuration.change(fresh_name, {"history_count": 3})
        await send(node, fresh_name, 8)
        async with Reader(node, fresh_name, kind, "after=2") as reader:
            assert (await reader.next())["event"] == "open"
            assert await reader.next() == {"event": "gap", "from": 3, "to": 5}
            assert await reader.numbers(3) == [6, 7, 8]

    async def test_nothing_is_kept_longer_than_history_seconds(
        self, node: NodeUnderTest, fresh_name: str, kind: str
    ) -> None:
        broker = node.node.broker
        await broker.configuration.change(fresh_name, {"history_seconds": 60})
        await send(node, fresh_name, 3)
        broker.scripts.clock_seconds = await redis_time(node, fresh_name) + 61
        async with Reader(node, fresh_name, kind, "after=1") as reader:
            assert (await reader.next())["event"] == "open"
            assert await reader.next() == {"event": "gap", "from": 2, "to": 3}

    async def test_one_without_a_position_gets_only_what_comes(
        self, node: NodeUnderTest, fresh_name: str, kind: str
    ) -> None:
        await send(node, fresh_name, 3)
        async with Reader(node, fresh_name, kind, "open=1") as reader:
            opened = {"event": "open", "queue": fresh_name, "position": 3}
            assert await reader.next() == opened
            await node.add(fresh_name, "new")
            assert await reader.numbers(1) == [4]

    async def test_bad_positions_are_refused(
        self, node: NodeUnderTest, fresh_name: str, kind: str
    ) -> None:
        for query, headers in (
            ("after=x", {}),
            ("after=-1", {}),
            ("after=1.5", {}),
            ("", {"Last-Event-ID": "abc"}),
        ):
            path = "ws" if kind == "ws" else "c"
            url = f"{node.url}/{path}/{fresh_name}?format={kind}&{query}"
            if kind == "ws":
                with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                    await node.session.ws_connect(url, headers=headers)
                assert caught.value.status == 400
            else:
                async with node.session.get(url, headers=headers) as answer:
                    assert answer.status == 400
        assert node.node.broker.consumer_count == 0

    async def test_resuming_again_and_again_while_many_publish_misses_and_repeats_nothing(
        self, node: NodeUnderTest, fresh_name: str, kind: str
    ) -> None:
        """The one consumer comes and goes, so what is under way when it goes must not be lost."""
        total = 600

        async def publish(start: int) -> None:
            for number in range(start, total, 6):
                await node.add(fresh_name, str(number))

        got: list[int] = []
        publishing = asyncio.gather(*(publish(start) for start in range(6)))
        query = "open=1"
        turn = 0
        while len(got) < total:
            turn += 1
            async with Reader(node, fresh_name, kind, query) as reader:
                assert (await reader.next())["event"] == "open"
                got += await reader.numbers(min(7 + turn % 30, total - len(got)))
            query = f"after={got[-1]}"
        await publishing
        assert got == list(range(1, total + 1))


async def redis_time(node: NodeUnderTest, queue: str) -> float:
    """Return about the time on Redis's clock."""
    await node.add(f"{queue}-other", "x")
    peeked = await node.node.broker.peek(f"{queue}-other", 1)
    return peeked[0].published


async def test_classic_clients_get_nothing_but_messages(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """No opening on comet and WebSocket unless it was asked for."""
    for kind in ("comet", "ws"):
        async with Reader(node, fresh_name, kind, "") as reader:
            await node.add(fresh_name, "x")
            assert (await reader.next())["value"] == "x"


async def test_an_event_stream_says_when_to_come_back_and_what_its_position_is(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """So that an EventSource that never got a message can resume."""
    await send(node, fresh_name, 2)
    async with Reader(node, fresh_name, "sse", "") as reader:
        opened = {"event": "open", "queue": fresh_name, "position": 2}
        assert await reader.next() == opened
        assert reader.last_event is not None
        assert reader.last_event.id == "2"
        assert reader._parser.retry_milliseconds is not None
    async with node.session.get(f"{node.url}/c/{fresh_name}?format=sse") as answer:
        assert (await answer.content.readline()).startswith(b"retry: ")


async def test_one_who_breaks_off_while_it_catches_up_resumes_from_its_old_position(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """The opening of a resumed stream must not move the position past what is still to come."""
    await send(node, fresh_name, 5)
    async with Reader(node, fresh_name, "sse", "after=2") as reader:
        await reader.next()
        assert reader.last_event is not None
        assert reader.last_event.id == "2"


async def test_jsonp_carries_openings_gaps_and_messages(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """Each is one call."""
    await node.node.broker.configuration.change(fresh_name, {"history_count": 1})
    await send(node, fresh_name, 3)
    async with node.session.get(f"{node.url}/c/{fresh_name}?callback=cb&after=1") as answer:
        lines = [await answer.content.readline() for _ in range(3)]
    calls = [json.loads(line.removeprefix(b"cb(").removesuffix(b");\r\n")) for line in lines]
    assert [call.get("event") for call in calls] == ["open", "gap", None]
    assert calls[1] == {"event": "gap", "from": 2, "to": 2}


async def test_c_upgrades_to_a_websocket(node: NodeUnderTest, fresh_name: str) -> None:
    """On either path; and format=ws without an upgrade is refused."""
    async with node.session.ws_connect(f"{node.url}/c/{fresh_name}") as socket:
        await node.add(fresh_name, "x")
        assert (await socket.receive_json())["value"] == "x"
    assert (await node.get(f"/c/{fresh_name}?format=ws"))[0] == 400


class TestLongPoll:
    async def poll(self, node: NodeUnderTest, queue: str, query: str) -> tuple[list[Item], int]:
        """Poll once; returns what came and the position."""
        async with node.session.get(f"{node.url}/c/{queue}?{query}") as answer:
            assert answer.status in (200, 204)
            lines = (await answer.read()).splitlines()
            position = int(answer.headers["X-RestMQ-Position"])
            return [json.loads(line) for line in lines], position

    async def test_it_answers_with_what_was_missed(
        self, node: NodeUnderTest, fresh_name: str
    ) -> None:
        await send(node, fresh_name, 5)
        items, position = await self.poll(node, fresh_name, "wait=20&after=3")
        assert [item["key"] for item in items] == [f"{fresh_name}:4", f"{fresh_name}:5"]
        assert position == 5
        assert await self.poll(node, fresh_name, "wait=0&after=5") == ([], 5)

    async def test_a_gap_is_in_the_answer(self, node: NodeUnderTest, fresh_name: str) -> None:
        await node.node.broker.configuration.change(fresh_name, {"history_count": 1})
        await send(node, fresh_name, 4)
        items, position = await self.poll(node, fresh_name, "wait=20&after=1")
        assert items[0] == {"event": "gap", "from": 2, "to": 3}
        assert items[1]["key"] == f"{fresh_name}:4"
        assert position == 4

    async def test_one_that_got_nothing_learns_its_position_all_the_same(
        self, node: NodeUnderTest, fresh_name: str
    ) -> None:
        assert await self.poll(node, fresh_name, "wait=0") == ([], 0)
        await send(node, fresh_name, 3)
        assert await self.poll(node, fresh_name, "wait=0") == ([], 3)

    @pytest.mark.parametrize("policy", ["broadcast", "roundrobin"])
    async def test_polls_get_all_that_was_published_and_no_more(
        self, node: NodeUnderTest, fresh_name: str, policy: str
    ) -> None:
        await node.post(f"/p/{fresh_name}", data={"policy": policy})
        total = 300

        async def publish(start: int) -> None:
            for number in range(start, total, 4):
                await node.add(fresh_name, str(number))

        publishing = asyncio.gather(*(publish(start) for start in range(4)))
        got: list[str] = []
        position = 0
        while len(got) < total:
            query = f"wait=20&after={position}"
            items, position = await self.poll(node, fresh_name, query)
            got += [item["key"] for item in items]
        await publishing
        assert got == [f"{fresh_name}:{number}" for number in range(1, total + 1)]

    async def test_one_that_leaves_while_redis_is_told_gives_back_what_was_for_it(
        self, node: NodeUnderTest, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Under round-robin, when the goodbye to Redis takes its time."""
        broker = node.node.broker
        await node.post(f"/p/{fresh_name}", data={"policy": "roundrobin"})
        leave = broker.leave
        leaving, may_leave = asyncio.Event(), asyncio.Event()

        async def slow_leave(*arguments: Any) -> None:
            leaving.set()
            await may_leave.wait()
            await leave(*arguments)

        monkeypatch.setattr(broker, "leave", slow_leave)
        _, writer = await asyncio.open_connection("127.0.0.1", node.node.port)
        await node.add(fresh_name, "precious")
        writer.write(f"GET /c/{fresh_name}?wait=30 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await asyncio.wait_for(leaving.wait(), 20)
        assert await broker.peek(fresh_name, 1) == []
        writer.transport.abort()
        monkeypatch.setattr(broker, "leave", leave)

        async def is_back() -> bool:
            may_leave.set()
            return len(await broker.peek(fresh_name, 1)) == 1

        await eventually(is_back)
        await eventually(lambda: broker.consumer_count == 0)
        assert json.loads((await node.get(f"/q/{fresh_name}"))[1])["value"] == "precious"
