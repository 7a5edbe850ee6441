"""Leased delivery over comet, server-sent events, WebSocket and long-poll (delivery, section 3)."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from restmq.broker.receipts import read_receipt
from restmq.endpoints import websocket as websocket_endpoint
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import eventually

Item = dict[str, Any]
HTTP_FORMATS = ("comet", "sse")


class Socket:
    """A leased WebSocket, past its opening."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def next(self) -> Item:
        """Return the next object."""
        item: Item = await self.socket.receive_json(timeout=20)
        return item

    async def messages(self, count: int) -> list[Item]:
        """Return the next messages."""
        found = [await self.next() for _ in range(count)]
        assert all("receipt" in item for item in found), found
        return found

    async def ask(self, **frame: Any) -> Item:
        """Send a frame and return the next object."""
        await self.socket.send_json(frame)
        return await self.next()


@contextlib.asynccontextmanager
async def leased_socket(
    node: NodeUnderTest, queue: str, query: str = "prefetch=1", path: str = "ws"
) -> AsyncIterator[Socket]:
    """Connect, and read the opening."""
    url = f"{node.url}/{path}/{queue}?ack=1&{query}"
    async with node.session.ws_connect(url) as connection:
        socket = Socket(connection)
        assert await socket.next() == {"event": "open", "queue": queue, "position": None}
        yield socket


@contextlib.asynccontextmanager
async def leased_lines(
    node: NodeUnderTest, queue: str, kind: str, query: str
) -> AsyncIterator[AsyncIterator[Item]]:
    """Connect over HTTP; yields the messages as they come."""
    url = f"{node.url}/c/{queue}?format={kind}&ack=1&{query}"

    async def read(answer: aiohttp.ClientResponse) -> AsyncIterator[Item]:
        async for line in answer.content:
            data = line.removeprefix(b"data: ")
            if data.startswith(b"{"):
                yield json.loads(data)

    async with node.session.get(url) as answer:
        assert answer.status == 200, await answer.text()
        items = read(answer)
        assert (await anext(items))["queue"] == queue
        yield items


async def counts(node: NodeUnderTest, queue: str) -> tuple[int, int, int]:
    """Return how many messages are ready, leased and dead."""
    stats = await node.node.broker.stats(queue)
    return stats.length, stats.leased, stats.dead


async def until_counts(node: NodeUnderTest, queue: str, *expected: int) -> None:
    """Wait until so many are ready, leased and dead."""

    async def are_there() -> bool:
        return await counts(node, queue) == expected

    await eventually(are_there)


@pytest.mark.parametrize("kind", HTTP_FORMATS)
class TestOverHttp:
    async def test_it_holds_as_many_as_it_may_and_gets_the_next_when_one_is_settled(
        self, node: NodeUnderTest, fresh_name: str, kind: str
    ) -> None:
        await node.add(fresh_name, *"abcde")
        async with leased_lines(node, fresh_name, kind, "prefetch=2&lease=60") as items:
            first, second = await anext(items), await anext(items)
            assert [first["value"], second["value"]] == ["a", "b"]
            assert first["attempt"] == 1
            assert first["expires"] > 1_700_000_000
            assert await counts(node, fresh_name) == (3, 2, 0)
            await node.node.broker.ack(read_receipt(first["receipt"]))
            assert (await anext(items))["value"] == "c"
            assert await counts(node, fresh_name) == (2, 2, 0)

    async def test_what_it_held_comes_back_at_once_in_order_and_counts_as_an_attempt(
        self, node: NodeUnderTest, fresh_name: str, kind: str
    ) -> None:
        await node.add(fresh_name, *"abcd")
        async with leased_lines(node, fresh_name, kind, "prefetch=3") as items:
            assert [(await anext(items))["value"] for _ in range(3)] == ["a", "b", "c"]
        await until_counts(node, fresh_name, 4, 0, 0)
        async with leased_lines(node, fresh_name, kind, "prefetch=4") as items:
            again = [await anext(items) for _ in range(4)]
        assert [(item["value"], item["attempt"]) for item in again] == [
            ("a", 2),
            ("b", 2),
            ("c", 2),
            ("d", 1),
        ]

    async def test_a_purge_ends_it_though_it_has_no_room(
        self, node: NodeUnderTest, fresh_name: str, kind: str
    ) -> None:
        await node.add(fresh_name, "a", "b")
        async with leased_lines(node, fresh_name, kind, "prefetch=1") as items:
            await anext(items)
            await node.call("DELETE", f"/q/{fresh_name}")
            assert [item async for item in items] == []

    async def test_a_pause_stops_it(self, node: NodeUnderTest, fresh_name: str, kind: str) -> None:
        await node.post(f"/control/{fresh_name}", data={"status": "stop"})
        async with leased_lines(node, fresh_name, kind, "prefetch=5") as items:
            await node.add(fresh_name, "held")
            assert await counts(node, fresh_name) == (1, 0, 0)
            await node.post(f"/control/{fresh_name}", data={"status": "start"})
            assert (await anext(items))["value"] == "held"

    async def test_a_last_event_id_does_not_matter_but_a_position_is_refused(
        self, node: NodeUnderTest, fresh_name: str, kind: str
    ) -> None:
        url = f"{node.url}/c/{fresh_name}?format={kind}&ack=1"
        async with node.session.get(url, headers={"Last-Event-ID": "7"}) as answer:
            assert answer.status == 200
        async with node.session.get(f"{url}&after=3") as answer:
            assert answer.status == 400


@pytest.mark.parametrize(
    "query",
    [
        "ack=2",
        "ack=1&prefetch=0",
        "ack=1&prefetch=1001",
        "ack=1&prefetch=x",
        "ack=1&lease=0",
        "ack=1&lease=43201",
        "prefetch=2",
        "lease=5",
        "open=yes",
    ],
)
async def test_bad_parameters_are_refused(node: NodeUnderTest, fresh_name: str, query: str) -> None:
    """With a helpful line, and nobody counts as a consumer."""
    for more in ("", "&wait=0"):
        status, body = await node.get(f"/c/{fresh_name}?{query}{more}")
        assert status == 400
        assert json.loads(body)["error"] == "invalid-input"
    assert node.node.broker.consumer_count == 0


async def test_each_message_goes_to_one_consumer_whatever_the_policy(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """Broadcast is for plain streams."""
    async with (
        leased_socket(node, fresh_name, "prefetch=2") as first,
        leased_socket(node, fresh_name, "prefetch=2", path="c") as second,
    ):
        await node.add(fresh_name, *"abcd")
        got = [*await first.messages(2), *await second.messages(2)]
    assert sorted(item["value"] for item in got) == ["a", "b", "c", "d"]


class TestSettlingOverTheSocket:
    async def test_an_ack_is_answered_and_makes_room(
        self, node: NodeUnderTest, fresh_name: str
    ) -> None:
        await node.add(fresh_name, "a", "b")
        async with leased_socket(node, fresh_name) as socket:
            (first,) = await socket.messages(1)
            receipt = first["receipt"]
            assert await socket.ask(ack=receipt) == {"ack": receipt, "acked": True}
            assert (await socket.messages(1))[0]["value"] == "b"
            assert await counts(node, fresh_name) == (0, 1, 0)
            stale = await socket.ask(ack=receipt)
            assert (stale["ack"], stale["error"]) == (receipt, "stale-receipt")

    async def test_a_list_is_answered_one_by_one(
        self, node: NodeUnderTest, fresh_name: str
    ) -> None:
        await node.add(fresh_name, *"abc")
        async with leased_socket(node, fresh_name, "prefetch=3") as socket:
            receipts = [item["receipt"] for item in await socket.messages(3)]
            answers = [await socket.ask(ack=receipts), await socket.next(), await socket.next()]
            assert answers == [{"ack": receipt, "acked": True} for receipt in receipts]

    async def test_a_nack_puts_it_back_at_the_head_or_delays_it(
        self, node: NodeUnderTest, fresh_name: str
    ) -> None:
        await node.add(fresh_name, "a", "b")
        async with leased_socket(node, fresh_name) as socket:
            receipt = (await socket.messages(1))[0]["receipt"]
            await socket.socket.send_json({"nack": receipt})
            items = [await socket.next(), await socket.next()]
            assert {"nack": receipt, "released": True} in items
            (again,) = [item for item in items if "value" in item]
            assert (again["value"], again["attempt"]) == ("a", 2)
            await socket.socket.send_json({"nack": again["receipt"], "delay": 500})
            items = [await socket.next(), await socket.next()]
            assert {"nack": again["receipt"], "released": True} in items
            assert [item["value"] for item in items if "value" in item] == ["b"]
        stats = await node.node.broker.stats(fresh_name)
        assert stats.delayed == 1

    async def test_extending_and_burying(self, node: NodeUnderTest, fresh_name: str) -> None:
        await node.add(fresh_name, "a")
        async with leased_socket(node, fresh_name, "lease=10") as socket:
            (item,) = await socket.messages(1)
            receipt = item["receipt"]
            answer = await socket.ask(extend=receipt, seconds=300)
            assert answer["extend"] == receipt
            assert answer["expires"] > item["expires"] + 200
            buried = await socket.ask(dead=receipt, reason="no good")
            assert buried == {"dead": receipt, "buried": True}
            assert await counts(node, fresh_name) == (0, 0, 1)

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[]",
            "null",
            "7",
            "{}",
            "\ud7ff",
            '{"ack":7}',
            '{"ack":[]}',
            '{"ack":""}',
            '{"ack":"x"}',
            '{"ack":"x","delay":1}',
            '{"ack":"x","nack":"x"}',
            '{"nack":"x","delay":"soon"}',
            '{"extend":"x"}',
            '{"dead":"x"}',
            '{"what":"x"}',
            "[" * 5000,
        ],
    )
    async def test_a_malformed_frame_is_answered_and_the_connection_lives_on(
        self, node: NodeUnderTest, fresh_name: str, text: str
    ) -> None:
        await node.add(fresh_name, "a")
        async with leased_socket(node, fresh_name) as socket:
            (item,) = await socket.messages(1)
            for _ in range(2):
                await socket.socket.send_str(text)
                answer = await socket.next()
                assert answer["error"] == "invalid-input"
                assert answer["message"]
            await socket.socket.send_bytes(b"\xff\xfe")
            assert (await socket.next())["error"] == "invalid-input"
            assert (await socket.ask(ack=item["receipt"]))["acked"] is True

    async def test_out_of_range_and_foreign_receipts_are_refused_by_name(
        self, node: NodeUnderTest, fresh_name: str
    ) -> None:
        other = f"{fresh_name}-other"
        await node.add(fresh_name, "a")
        await node.add(other, "b")
        (foreign,) = await node.node.broker.lease(other)
        assert foreign.attempt == 1
        async with leased_socket(node, fresh_name) as socket, leased_socket(node, other) as there:
            receipt = (await socket.messages(1))[0]["receipt"]
            for frame in (
                {"nack": receipt, "delay": -1},
                {"extend": receipt, "seconds": 0},
                {"extend": receipt, "seconds": 1e9},
                {"dead": receipt, "reason": ""},
            ):
                answer = await socket.ask(**frame)
                assert answer["error"] == "invalid-input"
                assert receipt in answer.values()
            answer = await there.ask(ack=receipt)
            assert (answer["ack"], answer["error"]) == (receipt, "invalid-input")
            assert (await socket.ask(ack=receipt))["acked"] is True

    async def test_too_many_frames_that_settle_nothing_end_it(
        self, node: NodeUnderTest, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(websocket_endpoint, "MAX_MALFORMED_FRAMES", 3)
        async with leased_socket(node, fresh_name) as socket:
            for _ in range(3):
                await socket.socket.send_str("?")
            async for _ in socket.socket:
                pass
            assert socket.socket.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION

    async def test_many_settlements_under_way_are_all_answered(
        self, node: NodeUnderTest, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also when only few may be under way at a time."""
        monkeypatch.setattr(websocket_endpoint, "MAX_UNANSWERED", 2)
        await asyncio.gather(*(node.add(fresh_name, str(index)) for index in range(100)))
        async with leased_socket(node, fresh_name, "prefetch=50") as socket:
            acked = 0
            while acked < 100:
                item = await socket.next()
                if "receipt" in item:
                    await socket.socket.send_json({"ack": item["receipt"]})
                else:
                    assert item["acked"] is True
                    acked += 1
        assert await counts(node, fresh_name) == (0, 0, 0)

    async def test_what_was_sent_before_the_goodbye_still_counts(
        self, node: NodeUnderTest, fresh_name: str
    ) -> None:
        """A nack with a delay is no release at once because the client left right after it."""
        await node.add(fresh_name, "a", "b", "c")
        async with leased_socket(node, fresh_name, "prefetch=3") as socket:
            first, second, _ = await socket.messages(3)
            await socket.socket.send_json({"ack": first["receipt"]})
            await socket.socket.send_json({"nack": second["receipt"], "delay": 500})
        await until_counts(node, fresh_name, 1, 0, 0)
        assert (await node.node.broker.stats(fresh_name)).delayed == 1

    async def test_a_client_that_vanishes_lets_go_at_once(
        self, node: NodeUnderTest, fresh_name: str
    ) -> None:
        await node.add(fresh_name, "a")
        async with leased_socket(node, fresh_name) as socket:
            await socket.messages(1)
            connection = socket.socket._response.connection
            assert connection is not None
            assert connection.transport is not None
            connection.transport.abort()
            await until_counts(node, fresh_name, 1, 0, 0)
        await eventually(lambda: node.node.broker.consumer_count == 0)

    async def test_a_purge_closes_it_in_order(self, node: NodeUnderTest, fresh_name: str) -> None:
        await node.add(fresh_name, "a")
        async with leased_socket(node, fresh_name) as socket:
            await socket.messages(1)
            await node.call("DELETE", f"/q/{fresh_name}")
            assert (await socket.socket.receive(timeout=20)).type is aiohttp.WSMsgType.CLOSE
            assert socket.socket.close_code == aiohttp.WSCloseCode.OK

    async def test_pings_keep_it_alive(self, open_node: OpenNode, fresh_name: str) -> None:
        async with open_node(ping_seconds=0.2) as node:
            url = f"{node.url}/ws/{fresh_name}?ack=1"
            async with node.session.ws_connect(url, autoping=False) as socket:
                kinds = {(await socket.receive(timeout=20)).type for _ in range(2)}
        assert aiohttp.WSMsgType.PING in kinds

    async def test_a_node_that_stops_says_so_and_gives_back(
        self, open_node: OpenNode, node: NodeUnderTest, fresh_name: str
    ) -> None:
        async with open_node() as stopping:
            await stopping.add(fresh_name, "a", "b")
            async with leased_socket(stopping, fresh_name, "prefetch=2") as socket:
                await socket.messages(2)
                reading = asyncio.create_task(socket.socket.receive(timeout=20))
                await stopping.node.close()
                assert (await reading).type is aiohttp.WSMsgType.CLOSE
                assert socket.socket.close_code == aiohttp.WSCloseCode.GOING_AWAY
            await until_counts(node, fresh_name, 2, 0, 0)


class TestAcrossNodes:
    async def test_what_another_node_settles_makes_room_here(
        self, open_node: OpenNode, node: NodeUnderTest, fresh_name: str
    ) -> None:
        """The wake-up comes over Redis."""
        async with open_node() as other, leased_socket(node, fresh_name, "lease=600") as socket:
            await node.add(fresh_name, "a", "b")
            (item,) = await socket.messages(1)
            await other.node.broker.ack(read_receipt(item["receipt"]))
            assert (await socket.messages(1))[0]["value"] == "b"

    async def test_consumers_of_all_nodes_are_counted_and_forgotten(
        self, open_node: OpenNode, node: NodeUnderTest, fresh_name: str
    ) -> None:
        async def count_is(expected: int) -> bool:
            return (await node.node.broker.stats(fresh_name)).consumers == expected

        async with open_node() as other:
            async with leased_socket(node, fresh_name), leased_socket(other, fresh_name):
                async with leased_socket(node, fresh_name):
                    assert await count_is(3)
                await eventually(lambda: count_is(2))
            await eventually(lambda: count_is(0))


class TestLongPoll:
    @pytest.mark.parametrize("kind", HTTP_FORMATS)
    async def test_what_it_got_stays_leased(
        self, node: NodeUnderTest, fresh_name: str, kind: str
    ) -> None:
        await node.add(fresh_name, "a", "b", "c")
        query = f"format={kind}&wait=5&ack=1&prefetch=2&lease=60"
        status, body = await node.get(f"/c/{fresh_name}?{query}")
        assert status == 200
        lines = [line.removeprefix(b"data: ") for line in body.splitlines()]
        items = [json.loads(line) for line in lines if line.startswith(b"{")]
        assert [item["value"] for item in items] == ["a", "b"]
        assert await counts(node, fresh_name) == (1, 2, 0)
        for item in items:
            await node.node.broker.ack(read_receipt(item["receipt"]))
        assert await counts(node, fresh_name) == (1, 0, 0)

    async def test_it_waits_and_may_get_nothing(self, node: NodeUnderTest, fresh_name: str) -> None:
        assert (await node.get(f"/c/{fresh_name}?wait=0&ack=1"))[0] == 204
        waiting = asyncio.create_task(node.get(f"/c/{fresh_name}?wait=30&ack=1&callback=cb"))
        await node.add(fresh_name, "x")
        status, body = await waiting
        assert status == 200
        assert body.startswith(b'cb({"key":')

    async def test_a_pause_holds_it_back_until_the_start(
        self, node: NodeUnderTest, fresh_name: str
    ) -> None:
        await node.post(f"/control/{fresh_name}", data={"status": "stop"})
        await node.add(fresh_name, "held")
        assert (await node.get(f"/c/{fresh_name}?wait=0&ack=1"))[0] == 204
        waiting = asyncio.create_task(node.get(f"/c/{fresh_name}?wait=60&ack=1"))
        listeners = node.node.broker._stores.disk.listeners
        await eventually(lambda: fresh_name in listeners._interests)
        assert await counts(node, fresh_name) == (1, 0, 0)
        await node.post(f"/control/{fresh_name}", data={"status": "start"})
        status, body = await asyncio.wait_for(waiting, 20)
        assert status == 200
        assert json.loads(body)["value"] == "held"

    async def test_a_pause_does_not_hold_back_a_plain_lease(
        self, node: NodeUnderTest, fresh_name: str
    ) -> None:
        await node.post(f"/control/{fresh_name}", data={"status": "stop"})
        await node.add(fresh_name, "free")
        status, body = await node.get(f"/q/{fresh_name}?lease=60")
        assert (status, json.loads(body)["value"]) == (200, "free")

    async def test_one_that_left_holds_nothing(self, node: NodeUnderTest, fresh_name: str) -> None:
        polling = asyncio.create_task(node.get(f"/c/{fresh_name}?wait=30&ack=1"))
        listeners = node.node.broker._stores.disk.listeners
        await eventually(lambda: fresh_name in listeners._interests)
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
        await node.add(fresh_name, "x")
        (message,) = await node.node.broker.lease(fresh_name, wait_seconds=20)
        assert message.attempt == 1


async def test_the_sections_of_plain_streams_rule(open_node: OpenNode, fresh_name: str) -> None:
    """Who may stream may lease; who may not, may not lease either."""
    acl = "[comet:consumer]\nhosts_deny = all\n[websocket:consumer]\nhosts_deny = all\n"
    async with open_node(acl) as node:
        for path in (f"/c/{fresh_name}?ack=1", f"/ws/{fresh_name}?ack=1"):
            assert (await node.get(path))[0] == 401
