"""The walk-through of the STOMP specification, step by step, against the real program."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from restmq.codecs.stomp import Frame
from tests.endpoints.stomp_client import StompClient, stomp_client, web_stomp_client
from tests.server_process import ServerProcess, running_server
from tests.support import free_port

Connect = Callable[..., contextlib.AbstractAsyncContextManager[StompClient]]
INDIVIDUAL = "client-individual"


class Served:
    """The program, and ways to connect to it."""

    def __init__(self, process: ServerProcess, stomp_port: int) -> None:
        self.process = process
        self.stomp_port = stomp_port

    def tcp(self, *arguments: Any, **options: Any) -> Any:
        """Connect over TCP."""
        return stomp_client(self.stomp_port, *arguments, **options)

    def web(self, *arguments: Any, **options: Any) -> Any:
        """Connect over WebSocket."""
        return web_stomp_client(self.process.url, *arguments, **options)

    def text(self, *arguments: Any, **options: Any) -> Any:
        """Connect over WebSocket, with text messages."""
        return web_stomp_client(self.process.url, *arguments, sends_text=True, **options)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """The program with a STOMP port."""
    port = free_port()
    async with running_server(tmp_path, "--stomp-port", str(port)) as process:
        yield Served(process, port)


@pytest.fixture(params=["tcp", "web", "text"])
def connect(request: pytest.FixtureRequest, served: Served) -> Connect:
    """Each way to connect, one after the other."""
    way: Connect = getattr(served, request.param)
    return way


async def subscribe(
    client: StompClient, destination: str, ack: str = "auto", number: str = "0", **headers: str
) -> None:
    """Subscribe, and wait until that is done."""
    await client.call("SUBSCRIBE", id=number, destination=destination, ack=ack, **headers)


async def send(client: StompClient, destination: str, *bodies: bytes, **headers: str) -> None:
    """Send, and wait until all is stored."""
    for body in bodies:
        await client.call("SEND", body, destination=destination, **headers)


async def bodies_of(client: StompClient, count: int) -> list[bytes]:
    """Return the bodies of so many messages."""
    return [(await client.message()).body for _ in range(count)]


async def test_step_1_connects_as_1_0(connect: Connect) -> None:
    async with connect(None) as client:
        await client.write("CONNECT\n\n^@")
        answer = await client.receive("CONNECTED")
        assert len(bytes.fromhex(answer.headers["session"])) == 16


async def test_step_2_agrees_on_the_highest_version(connect: Connect) -> None:
    async with connect(None) as client:
        await client.write("STOMP\naccept-version:1.0,1.1,1.2\nhost:x\nheart-beat:0,0\n\n^@")
        answer = await client.receive("CONNECTED")
        assert answer.headers["version"] == "1.2"
        assert answer.headers["server"].startswith("RestMQ/")


async def test_step_3_refuses_versions_it_does_not_speak(connect: Connect) -> None:
    async with connect(None) as client:
        await client.write("CONNECT\naccept-version:9.9\n\n^@")
        assert (await client.error()).headers["version"] == "1.0,1.1,1.2"


async def test_steps_4_and_5_store_and_deliver_with_user_headers(connect: Connect) -> None:
    async with connect() as client:
        await client.write("SEND\ndestination:/queue/a\nreceipt:r1\nx-k:a\\cb\n\nhello^@\n")
        assert (await client.receive("RECEIPT")).headers == {"receipt-id": "r1"}
        await client.write("SUBSCRIBE\nid:0\ndestination:/queue/a\nack:client-individual\n\n^@")
        message = await client.message()
        assert message.body == b"hello"
        assert message.headers["subscription"] == "0"
        assert message.headers["destination"] == "/queue/a"
        assert message.headers["x-k"] == "a:b"
        assert message.headers["content-length"] == "5"
        assert message.headers["ack"]
        assert not {"receipt", "transaction", "redelivered"} & set(message.headers)


async def test_step_6_holds_one_message_and_returns_it_when_the_socket_closes(
    connect: Connect,
) -> None:
    async with connect() as first, connect() as second:
        await send(second, "/queue/a", b"1", b"2", b"3")
        await subscribe(first, "/queue/a", INDIVIDUAL)
        message = await first.message()
        assert message.body == b"1"
        await first.assert_quiet()
        await first.ack(message)
        assert (await first.message()).body == b"2"
        await first.close()
        await subscribe(second, "/queue/a", INDIVIDUAL)
        again = await second.message()
        assert (again.body, again.headers["redelivered"]) == (b"2", "true")
        await second.ack(again)
        last = await second.message()
        assert last.body == b"3"
        assert "redelivered" not in last.headers


async def test_step_7_nack_brings_the_same_message_again(connect: Connect) -> None:
    async with connect() as client:
        await send(client, "/queue/a", b"1", b"2")
        await subscribe(client, "/queue/a", INDIVIDUAL)
        await client.nack(await client.message())
        again = await client.message()
        assert (again.body, again.headers["redelivered"]) == (b"1", "true")


async def test_step_8_leaves_bodies_as_they_are(served: Served) -> None:
    async with served.tcp() as client:
        await client.write("SEND\ndestination:/queue/a\ncontent-length:3\n\na^@b^@")
        await client.write("SEND\ndestination:/queue/a\n\nx\n^@")
        await client.write("SEND\ndestination:/queue/a\n\n^@")
        await subscribe(client, "/queue/a")
        assert await bodies_of(client, 3) == [b"a\0b", b"x\n", b""]


async def test_step_9_drains_a_queue_to_one_who_needs_no_ack(connect: Connect) -> None:
    async with connect() as client:
        bodies = [b"%d" % number for number in range(20)]
        await send(client, "/queue/a", *bodies)
        await subscribe(client, "/queue/a")
        assert await bodies_of(client, 20) == bodies
    async with connect() as client:
        await subscribe(client, "/queue/a", INDIVIDUAL)
        await client.assert_quiet()


async def test_step_10_shares_a_queue_between_consumers(connect: Connect) -> None:
    async with connect() as producer, connect() as one, connect() as other:
        got: dict[str, list[bytes]] = {"one": [], "other": []}
        for client in (one, other):
            await subscribe(client, "/queue/a", "client")
        bodies = [b"%d" % number for number in range(10)]
        await send(producer, "/queue/a", *bodies)

        async def consume(name: str, client: StompClient) -> None:
            while True:
                message = await client.message()
                got[name].append(message.body)
                await client.ack(message)

        tasks = [
            asyncio.create_task(consume("one", one)),
            asyncio.create_task(consume("other", other)),
        ]
        async with asyncio.timeout(20):
            while sum(map(len, got.values())) < 10:
                await asyncio.wait(tasks, timeout=0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(got["one"] + got["other"]) == bodies
        assert got["one"]
        assert got["other"]


async def test_step_11_topics_reach_those_who_listen_now(connect: Connect) -> None:
    async with connect() as one, connect() as other, connect() as late:
        for client in (one, other):
            await subscribe(client, "/topic/t")
        await send(one, "/topic/t", b"x")
        assert await bodies_of(one, 1) == await bodies_of(other, 1) == [b"x"]
        await subscribe(late, "/topic/t")
        await late.assert_quiet()


async def test_step_12_wildcards_of_topics(connect: Connect) -> None:
    async with connect() as client:
        await subscribe(client, "/topic/foo.>")
        for name in ("/topic/foo", "/topic/blah", "/queue/foo.2", "/topic/foo.1", "/topic/foo.a.b"):
            await send(client, name, b"x")
        names = [(await client.message()).headers["destination"] for _ in range(2)]
        assert names == ["/topic/foo.1", "/topic/foo.a.b"]
        await client.assert_quiet()


async def test_step_13_transactions_commit_or_not(connect: Connect) -> None:
    async with connect() as client, connect() as consumer:
        await subscribe(consumer, "/queue/a")
        await client.call("BEGIN", transaction="t1")
        await send(client, "/queue/a", b"1", b"2", transaction="t1")
        await consumer.assert_quiet()
        await client.call("COMMIT", transaction="t1")
        assert await bodies_of(consumer, 2) == [b"1", b"2"]
        await client.call("BEGIN", transaction="t1")
        await send(client, "/queue/a", b"3", transaction="t1")
        await client.call("ABORT", transaction="t1")
        await send(client, "/queue/a", b"4")
        assert await bodies_of(consumer, 1) == [b"4"]


async def test_step_14_an_aborted_ack_acknowledges_nothing(connect: Connect) -> None:
    async with connect() as client, connect() as other:
        await send(client, "/queue/a", b"1")
        await subscribe(client, "/queue/a", INDIVIDUAL)
        message = await client.message()
        await client.call("BEGIN", transaction="t1")
        await client.call("ACK", transaction="t1", **client.ack_headers(message))
        await client.call("ABORT", transaction="t1")
        await client.close()
        await subscribe(other, "/queue/a", INDIVIDUAL)
        again = await other.message()
        assert (again.body, again.headers["redelivered"]) == (b"1", "true")


@pytest.mark.parametrize(
    ("frame", "word"),
    [("SEND\n\nbody^@", "destination"), ("FOO\n\n^@", "FOO"), ("SEND\na\\tb:c\n\n^@", "escape")],
)
async def test_step_15_bad_frames_are_named_and_end_the_connection(
    connect: Connect, frame: str, word: str
) -> None:
    async with connect() as client:
        await client.write(frame)
        error = await client.error()
        assert word in error.headers["message"]
        assert error.headers["content-type"] == "text/plain"


async def test_step_16_heart_beats(served: Served) -> None:
    async with served.tcp(heart_beat="500,500") as client:
        for _ in range(2):
            async with asyncio.timeout(10):
                assert await client.wire.read() == b"\n"
        assert "heart-beat" in (await client.error()).headers["message"]


async def test_step_17_disconnect_is_answered(connect: Connect) -> None:
    async with connect() as client:
        await client.send_frame("SEND", b"x", destination="/queue/a", receipt="first")
        await client.send_frame("DISCONNECT", receipt="bye")
        frames: list[Frame] = [await client.receive("RECEIPT"), await client.receive("RECEIPT")]
        assert [frame.headers["receipt-id"] for frame in frames] == ["first", "bye"]
        assert await client.next_frame() is None


async def test_step_18_a_1_0_client_goes_by_destinations(served: Served) -> None:
    async with served.tcp("1.0") as client:
        await client.call("SEND", b"1", destination="/queue/a")
        await client.call("SEND", b"2", destination="/queue/a")
        await client.call("SUBSCRIBE", destination="/queue/a", ack="client")
        message = await client.message()
        assert "subscription" not in message.headers
        assert "ack" not in message.headers
        await client.ack(message)
        second = await client.message()
        assert second.body == b"2"
        await client.ack(second)
        await client.call("UNSUBSCRIBE", destination="/queue/a")
        await client.call("SEND", b"3", destination="/queue/a")
        await client.assert_quiet()


async def test_step_19_a_1_1_client_names_message_and_subscription(served: Served) -> None:
    async with served.tcp("1.1") as client:
        await send(client, "/queue/a", b"1", b"2")
        await subscribe(client, "/queue/a", INDIVIDUAL, "s")
        message = await client.message()
        assert message.headers["subscription"] == "s"
        await client.ack(message)
        assert (await client.message()).body == b"2"


async def test_step_20_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    port = free_port()
    async with running_server(tmp_path, "--stomp-port", str(port)) as process:
        async with stomp_client(port) as client:
            await send(client, "/queue/a", b"1", b"2", b"3", x_k="kept")
            await process.kill()
        await process.start()
        async with stomp_client(port) as client:
            await subscribe(client, "/queue/a", INDIVIDUAL)
            for body in (b"1", b"2", b"3"):
                message = await client.message()
                assert (message.body, message.headers["x-k"]) == (body, "kept")
                await client.ack(message)
