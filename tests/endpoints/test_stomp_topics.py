"""Topics over STOMP: to whoever listens now, on every node, and with nothing stored."""

import asyncio
import contextlib

import pytest

from restmq.endpoints import stomp_subscriber
from tests.endpoints.conftest import OpenNode
from tests.endpoints.stomp_client import StompClient, send, stomp_node, subscribe
from tests.support import eventually


async def bodies_of(client: StompClient, count: int) -> list[bytes]:
    return [(await client.message()).body for _ in range(count)]


async def test_every_client_sees_every_message_of_all(open_node: OpenNode, fresh_name: str) -> None:
    """The sender too; one who has unsubscribed misses the last."""
    topic = f"/topic/{fresh_name}"
    async with stomp_node(open_node) as node, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(node.client()) for _ in range(4)]
        for client in clients:
            await subscribe(client, topic, "auto")
        for number, client in enumerate(clients):
            await send(client, topic, b"%d" % number)
        for client in clients:
            assert sorted(await bodies_of(client, 4)) == [b"0", b"1", b"2", b"3"]
        await clients[0].call("UNSUBSCRIBE", id="0")
        await send(clients[1], topic, b"last")
        assert await bodies_of(clients[2], 1) == [b"last"]
        await clients[0].assert_quiet()


async def test_topics_reach_other_nodes_in_order_and_by_wildcard(
    open_node: OpenNode, fresh_name: str
) -> None:
    """Once for each subscription, whatever its characters mean to Redis."""
    name = f"{fresh_name}.[a]*?"
    async with (
        stomp_node(open_node) as here,
        stomp_node(open_node) as there,
        here.client() as publisher,
        there.client() as listener,
        there.client() as other,
    ):
        await subscribe(listener, f"/topic/{name}.x", "auto", "exact")
        await subscribe(listener, f"/topic/{name}.>", "auto", "below")
        await subscribe(other, f"/topic/{fresh_name}.>", "auto")
        await send(publisher, f"/topic/{fresh_name}.aZZ.x", b"no")
        await send(publisher, f"/topic/{name}.x", *(b"%d" % n for n in range(20)), x_k="v")
        got: dict[str, list[bytes]] = {"exact": [], "below": []}
        for _ in range(40):
            message = await listener.message()
            assert message.headers["destination"] == f"/topic/{name}.x"
            assert message.headers["x-k"] == "v"
            got[message.headers["subscription"]].append(message.body)
        assert got["exact"] == got["below"] == [b"%d" % n for n in range(20)]
        assert await bodies_of(other, 21) == [b"no", *(b"%d" % n for n in range(20))]
        await listener.assert_quiet()


async def test_sending_right_after_subscribing_reaches_the_sender(
    open_node: OpenNode, fresh_name: str
) -> None:
    """Without waiting for anything in between; not what was sent before."""
    async with stomp_node(open_node) as node, node.client() as client:
        await client.write(
            f"SEND\ndestination:/topic/{fresh_name}\n\nbefore^@"
            f"SUBSCRIBE\nid:0\ndestination:/topic/{fresh_name}\n\n^@"
            f"SEND\ndestination:/topic/{fresh_name}\n\nafter^@"
        )
        assert (await client.message()).body == b"after"


async def test_acknowledging_a_topic_does_nothing(open_node: OpenNode, fresh_name: str) -> None:
    async with stomp_node(open_node) as node, node.client() as client:
        await subscribe(client, f"/topic/{fresh_name}", "client-individual")
        await send(client, f"/topic/{fresh_name}", b"1", b"2")
        for body in (b"1", b"2"):  # both come, though neither is acknowledged
            assert (await client.message()).body == body
            await client.call("ACK", id="1")
            await client.call("NACK", id="1")


async def test_a_topic_is_heard_again_after_redis_dropped_the_connection(
    open_node: OpenNode, fresh_name: str
) -> None:
    topic = f"/topic/{fresh_name}"
    async with (
        stomp_node(open_node) as here,
        stomp_node(open_node) as there,
        here.client() as publisher,
        there.client() as listener,
    ):
        await subscribe(listener, topic, "auto")
        broker = there.http.node.broker
        pubsub = await broker._stores.disk.backend.subscriber()
        await pubsub.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await pubsub.aclose()  # type: ignore[no-untyped-call]
        arrived = asyncio.create_task(listener.message())

        async def is_heard() -> bool:
            await send(publisher, topic, b"x")
            return arrived.done()

        await eventually(is_heard)
        assert (await arrived).body == b"x"


async def test_a_slow_subscriber_is_cut_off_and_no_other_notices(
    open_node: OpenNode, fresh_name: str
) -> None:
    topic = f"/topic/{fresh_name}"
    body = b"x" * 60_000
    async with (
        stomp_node(open_node, outbox_bytes=200_000) as node,
        node.client() as slow,
        node.client() as quick,
        node.client() as publisher,
    ):
        await subscribe(slow, topic, "auto")
        await subscribe(quick, topic, "auto")
        endpoint = node.http.node._stomp
        for _ in range(2000):
            await send(publisher, topic, body)
            assert (await quick.message()).body == body
            if endpoint.messaging.topics.counts() == {f"topic/{fresh_name}": 1}:
                break
        else:
            raise AssertionError("it was never cut off")
        frames = []
        while (frame := await slow.next_frame()) is not None:
            frames.append(frame)
        assert frames[-1].command == "ERROR"
        assert "unread" in frames[-1].headers["message"]


async def test_the_queues_of_one_wildcard_are_limited(
    open_node: OpenNode, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stomp_subscriber, "MAX_BOUND_QUEUES", 1)
    async with stomp_node(open_node) as node, node.client() as client:
        for number in range(2):
            await send(client, f"/queue/{fresh_name}.{number}", b"x")
        await client.send_frame("SUBSCRIBE", id="0", destination=f"/queue/{fresh_name}.>")
        frame = await client.receive()
        while frame.command != "ERROR":
            frame = await client.receive()
        assert "queues" in frame.headers["message"]
