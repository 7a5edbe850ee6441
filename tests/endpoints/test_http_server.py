"""Connections and their requests, below any endpoint: who waits for whom, and when it ends."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from restmq.endpoints.http_server import HttpConnection, HttpServer
from restmq.endpoints.router import Pending, Router
from restmq.endpoints.web import Reply, Request, error_reply, read_body
from restmq.errors import RestMQError
from restmq.settings import Settings
from tests.endpoints.conftest import NodeUnderTest
from tests.support import eventually

Handle = Callable[[Request], Awaitable[web.StreamResponse]]
PATIENCE_SECONDS = 20


class Client:
    """A bare connection to the server under test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *requests: str, body: bytes = b"") -> None:
        """Send request heads, each a line and perhaps further header lines, then a body."""
        for request in requests:
            self.writer.write(b"%b\r\nHost: x\r\n\r\n" % request.encode())
        self.writer.write(body)

    async def reply(self) -> tuple[int, bytes]:
        """Read one reply; returns its status and its body."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\nContent-Length: (\d+)", head)
            body = await self.reader.readexactly(int(length[1]) if length else 0)
        return int(head.split()[1]), body

    async def rest(self) -> bytes:
        """Read until the server closes."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.reader.read()


class Listening:
    """A server whose requests go to one function."""

    def __init__(self, server: HttpServer, port: int) -> None:
        self.server = server
        self.port = port

    @property
    def connection(self) -> HttpConnection:
        """The server's side of the only connection."""
        (connection,) = self.server.connections
        return cast(HttpConnection, connection)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect; the connection is reset at the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Client(reader, writer)
        finally:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def listening(
    handle: Handle, begin: Callable[[Request], Pending | None] | None = None, **settings: Any
) -> AsyncIterator[Listening]:
    """Serve with ``handle`` in the place of a router, and ``begin`` for what begins at once."""

    def finish(request: Request, pending: Pending) -> Reply:
        return pending.finish(pending.future.result())

    begin = begin or (lambda request: None)
    router = cast(Router, SimpleNamespace(handle=handle, begin=begin, finish=finish))
    server = HttpServer(router, Settings(**settings))
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(server, "127.0.0.1", 0)
    try:
        yield Listening(server, listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        await server.shutdown(1.0)


async def echo(request: Request) -> web.StreamResponse:
    """Answer the path and the body."""
    try:
        body = await read_body(request)
    except RestMQError as error:
        return error_reply(error)
    return Reply(request.raw_path.encode() + b" " + body)


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with listening(echo) as listener, listener.client() as client:
        client.send(*(f"GET /{index} HTTP/1.1" for index in range(200)))
        for index in range(200):
            assert await client.reply() == (200, b"/%d " % index)


async def test_a_client_that_reads_no_replies_is_not_served_until_it_does() -> None:
    served = 0
    count, large = 3000, bytes(16 * 1024)

    async def handle(request: Request) -> web.StreamResponse:
        nonlocal served
        served += 1
        return Reply(large)

    async with listening(handle) as listener, listener.client() as client:
        client.send(*(["GET / HTTP/1.1"] * count))
        await eventually(lambda: served > 0 and listener.connection.writing_paused)
        transport = listener.connection.transport
        assert transport is not None
        served_at_first = served
        async with listener.client() as other:  # which is served meanwhile
            for _ in range(10):
                other.send("GET / HTTP/1.1")
                assert await other.reply() == (200, large)
        assert served == served_at_first + 10 < count
        assert transport.get_write_buffer_size() < 8 * len(large)
        for _ in range(count):
            assert await client.reply() == (200, large)
        assert served == count + 10


async def test_a_client_that_never_reads_its_replies_is_cut_off() -> None:
    async def handle(request: Request) -> web.StreamResponse:
        return Reply(bytes(1024 * 1024))

    async with listening(handle, body_timeout_seconds=0.2) as listener, listener.client() as client:
        client.send(*(["GET / HTTP/1.1"] * 100))
        await eventually(lambda: listener.server.connections)
        await eventually(lambda: not listener.server.connections)


async def test_a_client_that_leaves_ends_the_work_on_its_request() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handle(request: Request) -> web.StreamResponse:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return Reply()

    async with listening(handle) as listener:
        async with listener.client() as client:
            client.send("GET / HTTP/1.1", "GET / HTTP/1.1")
            await begun.wait()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await ended.wait()
        await eventually(lambda: not listener.server.connections)


async def test_a_long_poll_whose_client_leaves_takes_no_message(
    node: NodeUnderTest, fresh_name: str
) -> None:
    async def count_consumers() -> int:
        return (await node.node.broker.stats(fresh_name)).consumers

    async def has_consumers() -> bool:
        return await count_consumers() == 1

    async def has_none() -> bool:
        return await count_consumers() == 0

    waiting = asyncio.create_task(node.get(f"/c/{fresh_name}?wait=30"))
    await eventually(has_consumers)
    waiting.cancel()  # which closes its connection
    await asyncio.gather(waiting, return_exceptions=True)
    await eventually(has_none)
    await node.add(fresh_name, "kept")
    status, body = await node.get(f"/q/{fresh_name}")
    assert status == 200
    assert b'"kept"' in body


async def test_a_malformed_request_is_refused_after_those_before_it_are_answered() -> None:
    async with listening(echo) as listener, listener.client() as client:
        client.send("GET /good HTTP/1.1")
        assert await client.reply() == (200, b"/good ")
        client.writer.write(b"this is no request\r\n\r\n")
        assert (await client.reply())[0] == 400
        assert await client.rest() == b""


async def test_a_refused_upgrade_leaves_the_connection_and_what_follows_in_order() -> None:
    async with listening(echo) as listener, listener.client() as client:
        upgrade = "GET /up HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket"
        client.send("GET /before HTTP/1.1", upgrade, "GET /after HTTP/1.1")
        for path in (b"/before ", b"/up ", b"/after "):
            assert await client.reply() == (200, path)


async def test_a_body_may_come_in_chunks_and_later_than_its_head() -> None:
    async with listening(echo) as listener, listener.client() as client:
        for _ in range(2):
            client.send("POST /late HTTP/1.1\r\nTransfer-Encoding: chunked")
            await eventually(lambda: listener.connection._current_request)
            client.writer.write(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
            assert await client.reply() == (200, b"/late abcde")


async def test_a_body_is_asked_for_when_the_client_expects_that() -> None:
    async with listening(echo) as listener, listener.client() as client:
        client.send("POST /asked HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3")
        assert await client.reply() == (100, b"")
        client.writer.write(b"abc")
        assert await client.reply() == (200, b"/asked abc")


async def test_what_a_handler_left_of_a_body_is_no_request() -> None:
    async def ignore(request: Request) -> web.StreamResponse:
        return Reply(request.raw_path.encode())

    async with listening(ignore) as listener, listener.client() as client:
        client.send("POST /first HTTP/1.1\r\nContent-Length: 30")
        assert await client.reply() == (200, b"/first")
        client.send(body=b"GET /smuggled HTTP/1.1\r\n\r\n1234")
        client.send("GET /second HTTP/1.1")
        assert await client.reply() == (200, b"/second")


async def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    async with listening(echo, max_body_bytes=10) as listener, listener.client() as client:
        client.send("POST / HTTP/1.1\r\nContent-Length: 11")
        assert (await client.reply())[0] == 413
        client.send(body=bytes(11))
        client.send("GET /next HTTP/1.1")
        assert await client.reply() == (200, b"/next ")


@pytest.mark.parametrize(
    ("request_line", "is_kept"),
    [
        ("GET / HTTP/1.1", True),
        ("GET / HTTP/1.1\r\nConnection: close", False),
        ("GET / HTTP/1.0", False),
        ("GET / HTTP/1.0\r\nConnection: keep-alive", True),
    ],
)
async def test_the_connection_is_kept_as_the_client_wants(request_line: str, is_kept: bool) -> None:
    async with listening(echo) as listener, listener.client() as client:
        client.send(request_line)
        assert await client.reply() == (200, b"/ ")
        client.send("GET /next HTTP/1.1")
        if is_kept:
            assert await client.reply() == (200, b"/next ")
        else:
            with contextlib.suppress(ConnectionResetError):
                assert await client.rest() == b""


async def test_the_absolute_form_of_a_target_is_understood() -> None:
    async def handle(request: Request) -> web.StreamResponse:
        return Reply(f"{request.rel_url.raw_path} {request.host}".encode())

    async with listening(handle) as listener, listener.client() as client:
        client.send("GET http://elsewhere/path HTTP/1.1")
        assert await client.reply() == (200, b"/path elsewhere")


async def test_what_a_request_seldom_needs_is_there_when_it_is_asked_for() -> None:
    async def handle(request: Request) -> web.StreamResponse:
        assert not request.secure
        assert request.transport is request.writer.transport
        assert len(request) == 0
        assert request.client_max_fields == 1000
        return Reply(str(request.remote).encode())

    async with listening(handle) as listener, listener.client() as client:
        client.send("GET / HTTP/1.1")
        assert await client.reply() == (200, b"127.0.0.1")


async def test_the_general_response_and_raised_ones_are_written_too() -> None:
    async def handle(request: Request) -> web.StreamResponse:
        if request.raw_path == "/raised":
            raise web.HTTPConflict(text="raised")
        return web.Response(text="general")

    async with listening(handle) as listener, listener.client() as client:
        client.send("GET /raised HTTP/1.1", "GET / HTTP/1.1")
        assert await client.reply() == (409, b"raised")
        assert await client.reply() == (200, b"general")


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = asyncio.Event()

    async def handle(request: Request) -> web.StreamResponse:
        if request.raw_path == "/busy":
            await release.wait()
        return Reply(b"done")

    monkeypatch.setattr("restmq.endpoints.http_server.KEEP_ALIVE_SECONDS", 0.2)
    async with (
        listening(handle) as listener,
        listener.client() as busy,
        listener.client() as idle,
        listener.client() as silent,
    ):
        busy.send("GET /busy HTTP/1.1")
        idle.send("GET / HTTP/1.1")
        assert await idle.reply() == (200, b"done")
        assert await idle.rest() == b""
        assert await silent.rest() == b""
        release.set()
        assert await busy.reply() == (200, b"done")


async def test_stopping_lets_a_request_finish_and_closes_what_is_idle() -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def handle(request: Request) -> web.StreamResponse:
        if request.raw_path == "/busy":
            begun.set()
            await release.wait()
        return Reply(b"done")

    async with (
        listening(handle) as listener,
        listener.client() as busy,
        listener.client() as idle,
    ):
        idle.send("GET / HTTP/1.1")
        assert await idle.reply() == (200, b"done")
        busy.send("GET /busy HTTP/1.1", "GET /too-late HTTP/1.1")
        await begun.wait()
        listener.server.pre_shutdown()
        stopping = asyncio.create_task(listener.server.shutdown(PATIENCE_SECONDS))
        assert await idle.rest() == b""
        assert not stopping.done()
        release.set()
        assert await busy.reply() == (200, b"done")
        assert await busy.rest() == b""
        await stopping


class Beginner:
    """Begins every request whose path starts with /quick, and lets a test finish it."""

    def __init__(self) -> None:
        self.futures: list[asyncio.Future[bytes]] = []
        self.given_back: list[bytes] = []

    def begin(self, request: Request) -> Pending | None:
        """Begin a request."""
        if not request.raw_path.startswith("/quick"):
            return None
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        path = request.raw_path.encode()
        return Pending(future, lambda result: Reply(path + b" " + result), self.given_back.append)

    async def number(self, index: int) -> "asyncio.Future[bytes]":
        """Return a future once it is there."""
        await eventually(lambda: len(self.futures) > index)
        return self.futures[index]


async def test_what_begins_at_once_is_answered_when_its_operation_is_done() -> None:
    beginner = Beginner()
    async with listening(echo, beginner.begin) as listener, listener.client() as client:
        client.send("GET /first HTTP/1.1")
        assert await client.reply() == (200, b"/first ")
        for index in range(3):
            client.send(f"GET /quick{index} HTTP/1.1")
            (await beginner.number(index)).set_result(b"done")
            assert await client.reply() == (200, b"/quick%d done" % index)


async def test_what_comes_while_a_request_is_under_way_is_answered_after_it() -> None:
    beginner = Beginner()
    async with listening(echo, beginner.begin) as listener, listener.client() as client:
        client.send("GET /first HTTP/1.1")
        assert await client.reply() == (200, b"/first ")
        client.send("GET /quick HTTP/1.1")
        future = await beginner.number(0)
        client.send("GET /second HTTP/1.1", "GET /quick-in-a-row HTTP/1.1")
        async with listener.client() as other:  # by then the server has read the two
            other.send("GET /other HTTP/1.1")
            assert await other.reply() == (200, b"/other ")
        future.set_result(b"done")
        assert await client.reply() == (200, b"/quick done")
        assert await client.reply() == (200, b"/second ")
        assert await client.reply() == (200, b"/quick-in-a-row ")


async def test_a_client_that_leaves_cancels_what_was_begun_for_it() -> None:
    beginner = Beginner()
    async with listening(echo, beginner.begin) as listener:
        async with listener.client() as client:
            client.send("GET /first HTTP/1.1")
            assert await client.reply() == (200, b"/first ")
            client.send("GET /quick HTTP/1.1")
            future = await beginner.number(0)
        await eventually(future.cancelled)
    assert beginner.given_back == []


async def test_what_was_done_for_a_client_that_is_gone_is_given_back() -> None:
    beginner = Beginner()
    async with listening(echo, beginner.begin) as listener, listener.client() as client:
        client.send("GET /first HTTP/1.1")
        assert await client.reply() == (200, b"/first ")
        client.send("GET /quick HTTP/1.1")
        future = await beginner.number(0)
        transport = listener.connection.transport
        assert transport is not None
        transport.abort()
        future.set_result(b"message")
        await eventually(lambda: beginner.given_back == [b"message"])


async def test_stopping_lets_what_was_begun_finish() -> None:
    beginner = Beginner()
    async with listening(echo, beginner.begin) as listener, listener.client() as client:
        client.send("GET /first HTTP/1.1")
        assert await client.reply() == (200, b"/first ")
        client.send("GET /quick HTTP/1.1")
        future = await beginner.number(0)
        listener.server.pre_shutdown()
        stopping = asyncio.create_task(listener.server.shutdown(PATIENCE_SECONDS))
        async with listener.client():
            assert not stopping.done()
        future.set_result(b"done")
        assert await client.reply() == (200, b"/quick done")
        assert await client.rest() == b""
        await stopping


async def test_the_last_request_of_a_connection_is_left_to_its_task() -> None:
    beginner = Beginner()
    async with listening(echo, beginner.begin) as listener, listener.client() as client:
        client.send("GET /first HTTP/1.1")
        assert await client.reply() == (200, b"/first ")
        client.send("GET /quick HTTP/1.1\r\nConnection: close")
        assert await client.reply() == (200, b"/quick ")
        assert await client.rest() == b""
    assert not beginner.futures
