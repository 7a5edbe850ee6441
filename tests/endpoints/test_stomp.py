"""STOMP over the queues of every other endpoint: what the walk-through does not try."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

import pytest

from restmq.broker import store as store_module
from restmq.broker.backend import Backend, open_backend
from restmq.broker.scripts import Script
from restmq.errors import StoreUnavailable
from restmq.queue_settings import Patterns
from tests.broker.fakes import FaultyBackend
from tests.endpoints.conftest import OpenNode
from tests.endpoints.stomp_client import (
    StompNode,
    send,
    stomp_node,
    subscribe,
    web_stomp_client,
)
from tests.support import eventually

Open = Callable[..., contextlib.AbstractAsyncContextManager[StompNode]]


@pytest.fixture
def open_stomp(open_node: OpenNode) -> Open:
    """Open nodes that speak STOMP, with rules and settings of their own."""
    return functools.partial(stomp_node, open_node)


@pytest.fixture
async def node(open_stomp: Open) -> AsyncIterator[StompNode]:
    """A node with the default settings."""
    async with open_stomp() as opened:
        yield opened


# The same queues as REST


async def test_rest_takes_what_stomp_sent(node: StompNode, fresh_name: str) -> None:
    async with node.client() as client:
        await send(client, f"/queue/{fresh_name}", b"\xff\0", content_type="image/x", x_k="v")
    headers = {"Accept": "application/octet-stream"}
    async with node.http.session.get(f"{node.http.url}/q/{fresh_name}", headers=headers) as answer:
        assert await answer.read() == b"\xff\0"
        assert answer.headers["Content-Type"] == "image/x"


async def test_stomp_gets_what_rest_added(node: StompNode, fresh_name: str) -> None:
    async with node.client() as client:
        await subscribe(client, f"/queue/{fresh_name}")
        await node.http.add(fresh_name, "classic")
        message = await client.message()
        assert message.body == b"classic"
        assert "content-type" not in message.headers
        await client.ack(message)
        kind = {"Content-Type": "application/json"}
        await node.http.post(f"/q/{fresh_name}", data=b"{}", headers=kind)
        assert (await client.message()).headers["content-type"] == "application/json"


async def test_one_queue_under_each_of_its_names(node: StompNode, fresh_name: str) -> None:
    async with node.client() as client:
        for number, destination in enumerate(
            (fresh_name, f"/{fresh_name}", f"/queue/{fresh_name}")
        ):
            await send(client, destination, b"x")
            await subscribe(client, destination, "auto", str(number))
            assert (await client.message()).headers["destination"] == destination
            await client.call("UNSUBSCRIBE", id=str(number))


async def test_attempts_are_counted_together_and_end_among_the_dead(
    node: StompNode, fresh_name: str
) -> None:
    """Three deliveries over STOMP and two over REST are five."""
    async with node.client() as client:
        await send(client, f"/queue/{fresh_name}", b"x")
        await subscribe(client, f"/queue/{fresh_name}")
        for _ in range(2):
            await client.nack(await client.message())
        message = await client.message()
        await client.call("UNSUBSCRIBE", id="0")
        assert message.headers["redelivered"] == "true"
        for attempt in (4, 5):
            _, body = await node.http.get(f"/q/{fresh_name}?lease=30")
            leased = json.loads(body)
            assert leased["attempt"] == attempt
            await node.http.post(f"/lease/{leased['receipt']}", data={"release": "0"})
    assert (await node.stats(fresh_name))["dead"] == 1


async def test_fewer_attempts_for_stomp_unless_the_queue_says(
    open_stomp: Open, fresh_name: str
) -> None:
    async with open_stomp(stomp_max_attempts=2) as node, node.client() as client:
        for name in (fresh_name, f"{fresh_name}-own"):
            await send(client, f"/queue/{name}", b"x")
        await node.http.call("PATCH", f"/settings/{fresh_name}-own", data=b'{"max_attempts": 4}')
        await subscribe(client, f"/queue/{fresh_name}")
        for _ in range(2):
            await client.nack(await client.message())
        assert (await node.stats(fresh_name))["dead"] == 1
        await subscribe(client, f"/queue/{fresh_name}-own", number="1")
        for _ in range(4):
            await client.nack(await client.message())
        assert (await node.stats(f"{fresh_name}-own"))["dead"] == 1


async def test_what_nobody_acknowledges_in_time_goes_back(
    open_stomp: Open, fresh_name: str
) -> None:
    """The slot is free again, and a late ACK does nothing."""
    async with open_stomp(stomp_ack_timeout=1.0) as node, node.client() as client:
        await send(client, f"/queue/{fresh_name}", b"1")
        await subscribe(client, f"/queue/{fresh_name}")
        late = await client.message()
        again = await client.message()
        assert (again.body, again.headers["redelivered"]) == (b"1", "true")
        await client.ack(late)
        await client.ack(again)
        assert (await node.stats(fresh_name))["leased"] == 0


async def test_more_attempts_for_stomp_however_the_lease_ends(
    open_stomp: Open, fresh_name: str
) -> None:
    """Refused, left behind, and not acknowledged in time."""
    async with open_stomp(stomp_max_attempts=8, stomp_ack_timeout=1.0) as node:
        queue = f"/queue/{fresh_name}"
        async with node.client() as client:
            await send(client, queue, b"x")
            await subscribe(client, queue)
            for _ in range(5):
                await client.nack(await client.message())
            await client.message()
        async with node.client() as client:
            await subscribe(client, queue)
            await client.message()
            await client.nack(await client.message())  # the seventh ran out
        assert (await node.stats(fresh_name))["dead"] == 1


async def test_attempts_without_end(open_stomp: Open, fresh_name: str) -> None:
    async with open_stomp(stomp_max_attempts=0) as node, node.client() as client:
        await send(client, f"/queue/{fresh_name}", b"x")
        await subscribe(client, f"/queue/{fresh_name}")
        for _ in range(30):
            await client.nack(await client.message())
        await client.ack(await client.message())
        stats = await node.stats(fresh_name)
        assert (stats["dead"], stats["ready"], stats["leased"]) == (0, 0, 0)


async def test_without_a_timeout_leases_are_kept_up_while_somebody_has_the_message(
    open_stomp: Open, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that sets a time of its own is not concerned."""
    monkeypatch.setattr("restmq.broker.subscriptions.RENEWED_LEASE_SECONDS", 1.5)
    own = f"{fresh_name}-own"
    async with (
        open_stomp(stomp_ack_timeout=0.0) as node,
        node.client() as client,
        node.client() as other,
    ):
        await send(client, f"/queue/{fresh_name}", b"kept")
        await send(client, f"/queue/{own}", b"timed")
        await node.http.call("PATCH", f"/settings/{own}", data=b'{"lease_seconds": 1.5}')
        await subscribe(client, f"/queue/{fresh_name}")
        kept = await client.message()
        await subscribe(other, f"/queue/{own}")
        for attempt in range(3):  # 4.5 seconds or more
            timed = await other.message()
            assert ("redelivered" in timed.headers) == (attempt > 0)
        _, body = await node.http.get(f"/m/{fresh_name}:1")
        assert json.loads(body)["state"] == "leased"
        assert (await node.stats(fresh_name))["leased"] == 1
        await client.ack(kept)
        assert (await node.stats(fresh_name))["leased"] == 0


async def test_a_message_that_others_delete_makes_room(
    open_stomp: Open, node: StompNode, fresh_name: str
) -> None:
    """Over REST, on the same node and on another; a late ACK does nothing."""
    queue = f"/queue/{fresh_name}"
    async with open_stomp() as another, node.client() as client:
        await send(client, queue, b"1", b"2", b"3")
        await subscribe(client, queue)
        first = await client.message()
        assert (await node.http.call("DELETE", f"/m/{fresh_name}:1"))[0] == 200
        second = await client.message()
        assert second.body == b"2"
        assert (await another.http.call("DELETE", f"/m/{fresh_name}:2"))[0] == 200
        third = await client.message()
        assert third.body == b"3"
        await client.ack(first)
        await client.ack(second)
        assert (await node.stats(fresh_name))["leased"] == 1
        await client.ack(third)
        assert (await node.stats(fresh_name))["leased"] == 0


# Flow control


async def test_one_unacknowledged_message_over_all_subscriptions(
    node: StompNode, fresh_name: str
) -> None:
    """The sequence of radiator's README."""
    async with node.client() as client, node.client() as producer:
        q1, q2, t1 = f"/queue/{fresh_name}1", f"/queue/{fresh_name}2", f"/topic/{fresh_name}"
        for number, destination in enumerate((q1, q2, t1)):
            await subscribe(client, destination, "client", str(number))
        await send(producer, q1, b"M1", b"M2")
        first = await client.message()
        assert first.body == b"M1"
        await send(producer, q2, b"M3")
        await client.assert_quiet()
        await client.ack(first)
        third = await client.message()
        assert third.body == b"M3"
        await send(producer, t1, b"M4")
        assert (await client.message()).body == b"M4"
        await client.ack(third)
        assert (await client.message()).body == b"M2"


async def test_queues_are_served_in_turn(node: StompNode, fresh_name: str) -> None:
    names = [f"/queue/{fresh_name}{letter}" for letter in "abc"]
    async with node.client() as client:
        for name in names:
            await send(client, name, b"1", b"2")
        for number, name in enumerate(names):
            await subscribe(client, name, number=str(number))
        served = []
        for _ in range(6):
            message = await client.message()
            served.append(message.headers["destination"])
            await client.ack(message)
        assert set(served[:3]) == set(served[3:]) == set(names)


async def test_prefetch_count_raises_the_limit_and_client_mode_is_cumulative(
    node: StompNode, fresh_name: str
) -> None:
    async with node.client() as client:
        await send(client, f"/queue/{fresh_name}", *(b"%d" % n for n in range(6)))
        await subscribe(client, f"/queue/{fresh_name}", "client", prefetch_count="3")
        held = [await client.message() for _ in range(3)]
        await client.assert_quiet()
        await client.ack(held[1])
        assert [(await client.message()).body for _ in range(2)] == [b"3", b"4"]
        await client.assert_quiet()
        assert (await node.stats(fresh_name))["leased"] == 3


async def test_unsubscribing_gives_back_in_order(node: StompNode, fresh_name: str) -> None:
    async with node.client() as client:
        await send(client, f"/queue/{fresh_name}", b"1", b"2", b"3", b"4")
        await subscribe(client, f"/queue/{fresh_name}", prefetch_count="3")
        for _ in range(3):
            await client.message()
        await client.call("UNSUBSCRIBE", id="0")
        await client.assert_quiet()
        await subscribe(client, f"/queue/{fresh_name}", "auto", "1")
        assert [(await client.message()).body for _ in range(4)] == [b"1", b"2", b"3", b"4"]


async def test_a_thousand_in_order_and_each_once(node: StompNode, fresh_name: str) -> None:
    bodies = [b"%d" % number for number in range(1000)]
    async with node.client() as client, node.client() as consumer:
        await subscribe(consumer, f"/queue/{fresh_name}", "client", prefetch_count="20")
        for body in bodies:
            await client.send_frame("SEND", body, destination=f"/queue/{fresh_name}")
        got = []
        for _ in bodies:
            message = await consumer.message()
            got.append(message.body)
            await consumer.send_frame("ACK", id=message.headers["ack"])
        assert got == bodies
    assert (await node.stats(fresh_name))["len"] == 0


async def test_consumers_that_never_acknowledge_get_one_each(
    node: StompNode, fresh_name: str
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(node.client()) for _ in range(12)]
        for client in clients:
            await subscribe(client, f"/queue/{fresh_name}")
        await send(clients[0], f"/queue/{fresh_name}", *(b"%d" % n for n in range(20)))
        got = [(await client.message()).body for client in clients]
        assert sorted(got) == sorted(b"%d" % n for n in range(12))
        for client in clients:
            await client.assert_quiet()
        assert (await node.stats(fresh_name))["consumers"] == 12
    await eventually(lambda: _has_consumers(node, fresh_name, 0))


async def _has_consumers(node: StompNode, queue: str, count: int) -> bool:
    return bool((await node.stats(queue))["consumers"] == count)


async def test_a_stopped_queue_hands_out_nothing_until_it_starts(
    node: StompNode, fresh_name: str
) -> None:
    async with node.client() as client:
        await send(client, f"/queue/{fresh_name}", b"x")
        await node.http.post(f"/control/{fresh_name}", data={"status": "stop"})
        await subscribe(client, f"/queue/{fresh_name}")
        await client.assert_quiet()
        await node.http.post(f"/control/{fresh_name}", data={"status": "start"})
        assert (await client.message()).body == b"x"


# Acknowledgements


async def test_acknowledging_twice_is_ignored_and_the_unknown_is_refused(
    node: StompNode, fresh_name: str
) -> None:
    async with node.client() as client:
        await send(client, f"/queue/{fresh_name}", b"x")
        await subscribe(client, f"/queue/{fresh_name}")
        message = await client.message()
        await client.ack(message)
        await client.ack(message)
        await client.send_frame("ACK", id="99", receipt="r")
        error = await client.error()
        assert "99" in error.headers["message"]
        assert error.headers["receipt-id"] == "r"


async def test_client_individual_acknowledges_only_one(node: StompNode, fresh_name: str) -> None:
    async with node.client() as client:
        await send(client, f"/queue/{fresh_name}", b"1", b"2")
        await subscribe(client, f"/queue/{fresh_name}", prefetch_count="2")
        await client.message()
        await client.ack(await client.message())
        assert (await node.stats(fresh_name))["leased"] == 1


async def test_what_needs_no_acknowledgement_comes_once_though_redis_was_away(
    open_stomp: Open, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is settled as soon as Redis answers again, long before its lease is over."""
    opened: list[FaultyBackend] = []

    def opening(url: str, scripts: Sequence[Script]) -> Backend:
        opened.append(FaultyBackend(open_backend(url, scripts)))
        return cast(Backend, opened[-1])

    monkeypatch.setattr(store_module, "open_backend", opening)
    async with open_stomp() as node, node.client() as client:
        await subscribe(client, f"/queue/{fresh_name}", "auto")
        away = StoreUnavailable("Redis is away")
        opened[0].refuses = lambda name: away if name == "settle" else None
        await send(client, f"/queue/{fresh_name}", b"once")
        assert (await client.message()).body == b"once"
        await eventually(lambda: opened[0].calls_named("settle"))
        assert (await node.stats(fresh_name))["leased"] == 1
        opened[0].refuses = lambda name: None
        await eventually(lambda: _has_length(node, fresh_name, 0), 30)
        await eventually(lambda: _has_none_leased(node, fresh_name), 30)
        await client.assert_quiet()


async def _has_none_leased(node: StompNode, queue: str) -> bool:
    return bool((await node.stats(queue))["leased"] == 0)


# Wildcards


async def test_a_wildcard_binds_to_queues_that_are_there_and_to_come(
    node: StompNode, fresh_name: str
) -> None:
    async with node.client() as client:
        await send(client, f"/queue/{fresh_name}.a", b"1")
        await send(client, f"/queue/{fresh_name}", b"no")
        await subscribe(client, f"/queue/{fresh_name}.>")
        first = await client.message()
        assert first.headers["destination"] == f"/queue/{fresh_name}.a"
        await client.ack(first)
        await node.http.add(f"{fresh_name}.b.c", "2")
        second = await client.message()
        assert second.headers["destination"] == f"/queue/{fresh_name}.b.c"
        await client.call("UNSUBSCRIBE", id="0")
        await send(client, f"/queue/{fresh_name}.a", b"3")
        await node.http.add(f"{fresh_name}.d", "4")
        await client.assert_quiet()
    assert (await node.stats(f"{fresh_name}.b.c"))["len"] == 1


async def test_nothing_is_sent_to_a_wildcard(node: StompNode, fresh_name: str) -> None:
    async with node.client() as client:
        await client.send_frame("SEND", b"x", destination=f"/queue/{fresh_name}.>")
        assert "wildcard" in (await client.error()).headers["message"]


# Transactions


async def test_a_transaction_over_several_queues_and_a_topic(
    node: StompNode, fresh_name: str
) -> None:
    """What it acknowledges is settled with what it sends."""
    async with node.client() as client, node.client() as consumer:
        await send(client, f"/queue/{fresh_name}", b"work")
        await subscribe(client, f"/queue/{fresh_name}")
        message = await client.message()
        await subscribe(consumer, f"/topic/{fresh_name}")
        await client.call("BEGIN", transaction="t")
        for name in (f"/queue/{fresh_name}1", f"/queue/{fresh_name}2", f"/topic/{fresh_name}"):
            await send(client, name, b"1", b"2", transaction="t")
        await client.call("ACK", transaction="t", **client.ack_headers(message))
        assert (await node.stats(fresh_name))["leased"] == 1
        await client.call("COMMIT", transaction="t")
        assert (await node.stats(fresh_name))["leased"] == 0
        assert [(await consumer.message()).body for _ in range(2)] == [b"1", b"2"]
        for name in (f"{fresh_name}1", f"{fresh_name}2"):
            assert (await node.stats(name))["len"] == 2


async def test_a_transaction_that_does_not_fit_stores_and_acknowledges_nothing(
    node: StompNode, fresh_name: str
) -> None:
    await node.http.call("PATCH", f"/settings/{fresh_name}-full", data=b'{"max_length": 1}')
    async with node.client() as client:
        await send(client, f"/queue/{fresh_name}", b"work")
        await subscribe(client, f"/queue/{fresh_name}")
        message = await client.message()
        await client.call("BEGIN", transaction="t")
        await send(client, f"/queue/{fresh_name}-full", b"1", b"2", transaction="t")
        await client.call("ACK", transaction="t", **client.ack_headers(message))
        await client.send_frame("COMMIT", transaction="t", receipt="c")
        error = await client.error()
        assert "full" in error.headers["message"]
        assert error.headers["receipt-id"] == "c"
    assert (await node.stats(f"{fresh_name}-full"))["len"] == 0
    await eventually(lambda: _has_length(node, fresh_name, 1))


async def _has_length(node: StompNode, queue: str, length: int) -> bool:
    return bool((await node.stats(queue))["len"] == length)


async def test_an_idempotency_key_stores_a_repetition_once(
    node: StompNode, fresh_name: str
) -> None:
    async with node.client() as client:
        await send(client, f"/queue/{fresh_name}", b"x", b"x", idempotency_key="k")
    assert (await node.stats(fresh_name))["len"] == 1


# Receipts


async def test_receipts_come_in_order_and_an_error_in_its_turn(
    node: StompNode, fresh_name: str
) -> None:
    async with node.client() as client:
        for number in range(50):
            await client.send_frame(
                "SEND", b"x", destination=f"/queue/{fresh_name}-{number % 7}", receipt=str(number)
            )
        await client.send_frame("SEND", b"x", destination="/queue/", receipt="bad")
        await client.send_frame("SEND", b"x", destination=f"/queue/{fresh_name}-after")
        for number in range(50):
            assert (await client.receive("RECEIPT")).headers["receipt-id"] == str(number)
        assert (await client.error()).headers["receipt-id"] == "bad"
    assert (await node.stats(f"{fresh_name}-after"))["len"] == 0


async def test_a_client_that_ends_its_side_is_still_answered(
    node: StompNode, fresh_name: str
) -> None:
    """As ``nc`` does; half a frame at the end is dropped."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(
        b"CONNECT\n\n\0SEND\ndestination:%b\nreceipt:r\n\nx\0SEND\ndest" % fresh_name.encode()
    )
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.count(b"\0") == 2
    assert b"receipt-id:r" in answer
    assert (await node.stats(fresh_name))["len"] == 1


# Which destinations there may be


async def test_without_create_only_known_and_configured_queues(
    open_stomp: Open, fresh_name: str
) -> None:
    patterns = Patterns([(f"{fresh_name}.configured*", {"max_attempts": 3})])
    async with open_stomp(stomp_create=False, queues=patterns) as node:
        await node.http.add(f"{fresh_name}.known", "x")
        async with node.client() as client:
            for name in ("known", "configured"):
                await send(client, f"/queue/{fresh_name}.{name}", b"x")
            await client.call("BEGIN", transaction="t")
            for name in ("configured2", "unknown"):
                await send(client, f"/queue/{fresh_name}.{name}", b"x", transaction="t")
            await client.send_frame("COMMIT", transaction="t")
            assert "unknown" in (await client.error()).headers["message"]
        for command in ("SEND", "SUBSCRIBE"):
            async with node.client() as client:
                await client.send_frame(command, id="0", destination=f"/queue/{fresh_name}.unknown")
                assert "unknown" in (await client.error()).headers["message"]
        assert (await node.stats(f"{fresh_name}.configured2"))["len"] == 0


# Request and reply


async def test_a_reply_comes_back_to_a_private_destination(
    node: StompNode, fresh_name: str
) -> None:
    async with node.client() as asker, node.client() as worker:
        await subscribe(worker, f"/queue/{fresh_name}")
        await subscribe(asker, "/temp-queue/replies", "auto")
        await send(
            asker,
            f"/queue/{fresh_name}",
            b"2+2",
            reply_to="/temp-queue/replies",
            correlation_id="7",
        )
        request = await worker.message()
        reply_to = request.headers["reply-to"]
        await send(worker, reply_to, b"4", correlation_id=request.headers["correlation-id"])
        reply = await asker.message()
        assert (reply.body, reply.headers["correlation-id"]) == (b"4", "7")
        assert reply.headers["destination"] == "/temp-queue/replies"
        await worker.send_frame("SUBSCRIBE", id="1", destination=reply_to, receipt="r")
        assert "private" in (await worker.error()).headers["message"]


async def test_messages_of_one_websocket_may_be_cut_anywhere(
    node: StompNode, fresh_name: str
) -> None:
    """Text that is not ASCII comes back as text, other octets as binary."""
    async with web_stomp_client(node.http.url, sends_text=True) as client:
        frame = (
            f"SEND\ndestination:{fresh_name}\n\nä^@SUBSCRIBE\nid:0\ndestination:{fresh_name}\n\n^@"
        )
        for character in frame.replace("^@", "\0"):
            await client.write(character)
        assert (await client.message()).body == "ä".encode()
        await node.http.post(f"/q/{fresh_name}", data=b"\xff", headers={"Content-Type": "a/b"})
        assert (await client.message()).body == b"\xff"


async def test_a_node_that_stops_says_so_and_returns_what_was_held(
    open_stomp: Open, fresh_name: str
) -> None:
    async with open_stomp() as other, contextlib.AsyncExitStack() as stack:
        async with open_stomp() as node:
            client = await stack.enter_async_context(node.client())
            await send(client, f"/queue/{fresh_name}", b"x")
            await subscribe(client, f"/queue/{fresh_name}")
            await client.message()
        assert "stopping" in (await client.error()).headers["message"]
        async with other.client() as second:
            await subscribe(second, f"/queue/{fresh_name}")
            assert (await second.message()).headers["redelivered"] == "true"
