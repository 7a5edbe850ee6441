"""Publishing and taking: what arrives is what was sent, once, whatever the connection does."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from restmq.client import (
    AccessDenied,
    Client,
    ConnectionLost,
    CredentialsRequired,
    InvalidInput,
    NoAnswer,
    NotFound,
    QueueFull,
    RestMQError,
    TooLarge,
    Unavailable,
)
from tests.client.cutter import Cutter
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import free_port


@dataclass
class Order:
    """Something that can be written as JSON."""

    number: int
    customer: str


@pytest.fixture
def deaf_url() -> Iterator[str]:
    """The address of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("value", "stored", "content_type"),
    [
        (b"\x00\xff\r\n", b"\x00\xff\r\n", "application/octet-stream"),
        (bytearray(b"ab"), b"ab", "application/octet-stream"),
        ("grüße", "grüße".encode(), "text/plain; charset=utf-8"),
        ({"a": [1, None]}, b'{"a":[1,null]}', "application/json"),
        (None, b"null", "application/json"),
        (Order(7, "Ann"), b'{"number":7,"customer":"Ann"}', "application/json"),
        (b"x" * 1_000_000, b"x" * 1_000_000, "application/octet-stream"),
    ],
)
async def test_a_value_arrives_as_it_was_sent(
    client: Client, fresh_name: str, value: object, stored: bytes, content_type: str
) -> None:
    """Byte for byte, with its type, by each way of getting it."""
    assert await client.publish(fresh_name, value) == f"{fresh_name}:1"
    await client.publish(fresh_name, value)
    await client.publish(fresh_name, value)
    [peeked] = await client.peek(fresh_name)
    assert (peeked.value, peeked.key) == (stored, f"{fresh_name}:1")
    taken = await client.take(fresh_name)
    assert taken is not None
    assert (taken.value, taken.content_type) == (stored, content_type)
    assert (taken.key, taken.queue, taken.number) == (f"{fresh_name}:1", fresh_name, 1)
    async with client.lease(fresh_name) as leased:
        assert (leased.value, leased.content_type) == (stored, content_type)
    assert [message.value for message in await client.take_many(fresh_name, 5)] == [stored]
    assert await client.take(fresh_name) is None
    assert await client.peek(fresh_name) == await client.take_many(fresh_name, 5) == []


async def test_json_is_read_as_the_type_that_is_asked_for(client: Client, fresh_name: str) -> None:
    """A value of another type is the reader's error, and says what is wrong."""
    await client.publish(fresh_name, Order(7, "Ann"))
    message = await client.take(fresh_name)
    assert message is not None
    assert message.json(Order) == Order(7, "Ann")
    assert message.json() == {"number": 7, "customer": "Ann"}
    with pytest.raises(InvalidInput, match="Expected `array`"):
        message.json(list[int])


async def test_what_a_publisher_may_say_is_kept(client: Client, fresh_name: str) -> None:
    """The parameters of the specification, by their names there."""
    at = datetime.now(UTC) + timedelta(hours=1)
    keys = [
        await client.publish(fresh_name, "v", ttl=60, priority=9, content_type="text/x-own"),
        await client.publish(fresh_name, "v", delay=1000),
        await client.publish(fresh_name, "v", at=at),
        await client.publish(fresh_name, "v", at=at.timestamp()),
    ]
    first, delayed, dated, stamped = [await client.message(key) for key in keys]
    assert first.published is not None
    assert first.expires == pytest.approx(first.published + 60, abs=1)
    assert (first.priority, first.content_type, first.state) == (9, "text/x-own", "ready")
    assert delayed.published is not None
    assert delayed.state == "delayed"
    assert delayed.ready_at == pytest.approx(delayed.published + 1000, abs=1)
    assert dated.ready_at == stamped.ready_at == pytest.approx(at.timestamp(), abs=0.01)


async def test_the_same_id_is_stored_once(client: Client, fresh_name: str) -> None:
    """The second publisher gets the key of the first; without an id each is a new message."""
    assert await client.publish(fresh_name, "a", id="order-17") == f"{fresh_name}:1"
    assert await client.publish(fresh_name, "a", id="order-17") == f"{fresh_name}:1"
    assert await client.publish(fresh_name, "a") == f"{fresh_name}:2"
    assert await client.publish_many(fresh_name, "bc", id="two") == [
        f"{fresh_name}:3",
        f"{fresh_name}:4",
    ]
    assert await client.publish_many(fresh_name, "bc", id="two") == [
        f"{fresh_name}:3",
        f"{fresh_name}:4",
    ]
    assert (await client.stats(fresh_name)).ready == 4


@pytest.mark.parametrize("count", [1, 3])
async def test_a_publish_whose_answer_is_lost_is_stored_once(
    cut_client: Client, cutter: Cutter, fresh_name: str, count: int
) -> None:
    """It is sent again with the same id until there is an answer."""
    cutter.answers_to_lose = count
    assert await cut_client.publish(fresh_name, "once") == f"{fresh_name}:1"
    assert cutter.lost_count == count
    cutter.answers_to_lose = count
    keys = await cut_client.publish_many(fresh_name, [{"n": n} for n in range(50)])
    assert keys == [f"{fresh_name}:{number}" for number in range(2, 52)]
    assert cutter.lost_count == 2 * count
    assert (await cut_client.stats(fresh_name)).ready == 51


async def test_a_take_whose_answer_is_lost_is_told_and_not_repeated(
    cut_client: Client, cutter: Cutter, fresh_name: str
) -> None:
    """What was on its way is gone; nothing more is taken without a word."""
    await cut_client.publish_many(fresh_name, "abc")
    for remaining in "bc":
        cutter.answers_to_lose = 1
        with pytest.raises(ConnectionLost) as lost:
            await cut_client.take(fresh_name)
        assert lost.value.was_sent
        [message] = await cut_client.peek(fresh_name)
        assert message.text == remaining


async def test_a_batch_is_all_or_nothing(client: Client, fresh_name: str) -> None:
    """A queue without room for all takes none."""
    await client.change_settings(fresh_name, max_length=2)
    with pytest.raises(QueueFull, match="507"):
        await client.publish_many(fresh_name, "abc")
    assert await client.peek(fresh_name) == []
    assert len(await client.publish_many(fresh_name, "ab")) == 2


BAD_PUBLISHES: list[tuple[dict[str, Any], str]] = [
    ({"value": {1, object()}}, "cannot be written"),
    ({"value": "\udc80"}, "cannot be written"),
    ({"value": "v", "content_type": "application/x-www-form-urlencoded"}, "as a form"),
    ({"value": "v", "content_type": "text/x\r\nX-Y: z"}, "printable"),
    ({"value": "v", "at": datetime(2030, 1, 1)}, "time zone"),
    ({"value": "v", "priority": 10}, "priority"),
    ({"value": "v", "ttl": 0}, "ttl"),
    ({"value": "v", "delay": -1}, "delay"),
    ({"value": "v", "id": "x" * 129}, "id"),
    ({"value": b""}, "value"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD_PUBLISHES)
async def test_what_cannot_be_published_is_told(
    client: Client, fresh_name: str, arguments: dict[str, Any], words: str
) -> None:
    """By the client or by the server, as the same error, which names the fault."""
    with pytest.raises(InvalidInput, match=words):
        await client.publish(fresh_name, **arguments)


@pytest.mark.parametrize("values", [[], ["a", " "], ["a\nb"], ["a\r"], ["a"] * 10_001])
async def test_what_cannot_be_a_batch_is_told(
    client: Client, fresh_name: str, values: list[object]
) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidInput):
        await client.publish_many(fresh_name, values)


async def test_errors_are_of_the_class_that_the_server_names(
    open_node: OpenNode, fresh_name: str
) -> None:
    """By its code word, with its words."""
    rules = "[rest:producer]\nusername = ann\npassword = secret\n[rest:consumer]\nhosts_deny = all"
    async with open_node(rules, max_body_bytes=1000) as node:
        async with Client(node.url) as client:
            with pytest.raises(CredentialsRequired, match="401"):
                await client.publish(fresh_name, "v")
            with pytest.raises(AccessDenied):
                await client.take(fresh_name)
            with pytest.raises(InvalidInput, match="name"):
                await client.publish("", "v")
        async with Client(node.url, user="ann", password="secret") as client:
            assert await client.publish(fresh_name, "v") == f"{fresh_name}:1"
            with pytest.raises(InvalidInput, match="name"):
                await client.publish("x" * 1025, "v")
            with pytest.raises(TooLarge, match="1000"):
                await client.publish(fresh_name, b"x" * 1001)
        async with Client(node.url.replace("//", "//ann:secret@")) as client:
            assert await client.publish(fresh_name, "v") == f"{fresh_name}:2"
            assert "secret" not in client.url


async def test_a_body_that_is_far_too_large_is_refused_and_not_sent_again(
    open_node: OpenNode, fresh_name: str
) -> None:
    """Though the server closes before it has read it all."""
    async with open_node(max_body_bytes=1000) as node, Client(node.url) as client:
        with pytest.raises(TooLarge):
            await client.publish(fresh_name, b"x" * 20_000_000)


async def test_an_api_key_is_a_bearer_token() -> None:
    """As it is; and it is one way of saying who asks, not one of two."""
    heads = asyncio.Queue[bytes]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.put_nowait(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Client(url, api_key="rmq_abc") as client:
            assert await client.take("q") is None
        assert b"Authorization: Bearer rmq_abc\r\n" in await heads.get()
    with pytest.raises(InvalidInput):
        Client(url, api_key="k", user="ann", password="secret")
    with pytest.raises(InvalidInput):
        Client(url, user="ann")
    with pytest.raises(InvalidInput):
        Client(url, api_key="a b")
    with pytest.raises(InvalidInput):
        Client("ftp://127.0.0.1")


async def test_no_server_is_told_when_the_time_is_up(deaf_url: str, fresh_name: str) -> None:
    """Not there, or there and silent: an error that says which, and a TimeoutError as well."""
    async with Client(f"http://127.0.0.1:{free_port()}", timeout_seconds=0.3) as client:
        with pytest.raises(ConnectionLost, match="cannot reach") as lost:
            await client.publish(fresh_name, "v")
        assert not lost.value.was_sent
    async with Client(deaf_url, timeout_seconds=0.3) as client:
        with pytest.raises(NoAnswer, match="in time"):
            await client.publish(fresh_name, "v")
        with pytest.raises(TimeoutError):
            await client.stats(fresh_name)


async def test_a_server_that_starts_late_is_waited_for(
    fresh_name: str, node: NodeUnderTest
) -> None:
    """Connections that are refused or cut at once are tried again."""
    async with Cutter(node.node.port) as cutter, Client(cutter.url) as client:
        cutter.is_refusing = True
        publishing = asyncio.create_task(client.publish(fresh_name, "v"))
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await asyncio.shield(publishing)
        assert not publishing.done()
        cutter.is_refusing = False
        assert await publishing == f"{fresh_name}:1"


async def test_what_the_server_cannot_do_now_is_asked_again() -> None:
    """503 with Retry-After is repeated; a take that Redis may have begun is not."""
    answers = [
        (503, b'{"error":"overloaded","message":"full"}'),
        (503, b'{"error":"unavailable","message":"starting"}'),
        (200, b'{"queue":"q","key":"q:1"}'),
        (503, b'{"error":"overloaded","message":"full"}'),
        (503, b'{"error":"store-unavailable","message":"Redis is away"}'),
        (502, b"<html>proxy</html>"),
    ]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        status, body = answers.pop(0)
        kind = "application/json" if body[:1] == b"{" else "text/html"
        head = f"HTTP/1.1 {status} Word\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
        writer.write(f"{head}\r\nRetry-After: 0\r\nConnection: close\r\n\r\n".encode() + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Client(url) as client:
            assert await client.publish("q", {"n": 1}) == "q:1"
            with pytest.raises(Unavailable, match="Redis is away"):
                await client.take("q")
            with pytest.raises(ConnectionLost, match="502"):
                await client.take("q")
    assert answers == []


async def test_a_closed_client_says_so(client: Client, fresh_name: str) -> None:
    """Instead of opening connections that nobody closes."""
    await client.publish(fresh_name, "v")
    await client.close()
    with pytest.raises(RestMQError, match="closed"):
        await client.publish(fresh_name, "v")
    await client.close()


async def test_a_name_may_be_any_text(client: Client, fresh_name: str) -> None:
    """Slashes, spaces, percent signs, and what is no ASCII."""
    queue = f"{fresh_name}/ä b%2F?&#:1"
    key = await client.publish(queue, "v")
    assert key == f"{queue}:1"
    assert (await client.message(key)).text == "v"
    message = await client.take(queue)
    assert message is not None
    assert (message.key, message.queue, message.number) == (key, queue, 1)
    with pytest.raises(NotFound):
        await client.message(key)
