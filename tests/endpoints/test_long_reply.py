"""Replies that go out part by part: what becomes of them when something goes wrong on the way."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

import pytest
from aiohttp import web

from restmq.endpoints import queuey_replies
from restmq.endpoints.long_reply import send_in_parts
from restmq.endpoints.router import Route
from restmq.endpoints.web import Request
from restmq.errors import StoreUnavailable
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import eventually


def answer_with(node: NodeUnderTest, parts: AsyncGenerator[bytes]) -> None:
    """Let a path of its own be answered with parts."""

    async def handle(request: Request, rest: str) -> web.StreamResponse:
        return await send_in_parts(request, parts, "text/plain")

    node.node.router._table["parts"] = {"GET": Route("GET", "parts", (), handle, changes=False)}


async def read_reply(node: NodeUnderTest, began: asyncio.Event) -> bytes:
    """Send one request, and read all that comes until the server closes; say when it begins."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.node.port)
    try:
        writer.write(b"GET /parts HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                while data := await reader.read(65536):
                    received += data
                    if b"the first part" in received:
                        began.set()
        return received
    finally:
        writer.close()


@pytest.mark.parametrize("error", [ValueError("nobody expected this"), StoreUnavailable("gone")])
async def test_an_error_on_the_way_cuts_the_client_off_without_a_second_reply(
    node: NodeUnderTest, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = asyncio.Event()
    is_closed = False

    async def parts() -> AsyncGenerator[bytes]:
        nonlocal is_closed
        try:
            yield b"the first part"
            await go_on.wait()
            raise error
        finally:
            is_closed = True

    answer_with(node, parts())
    received = await read_reply(node, go_on)
    assert received.count(b"HTTP/1.1") == 1
    assert b"something failed" not in received
    assert not received.endswith(b"0\r\n\r\n"), "it looks complete"
    assert is_closed
    assert ("nobody expected this" in caplog.text) == isinstance(error, ValueError)


async def test_a_list_that_is_given_up_is_closed_at_once(
    open_node: OpenNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the parts inside it: what they hold is not left to the garbage collector."""
    monkeypatch.setattr(queuey_replies, "MAX_WHOLE_BYTES", 10)
    closed = asyncio.Event()

    async def parts() -> AsyncGenerator[Sequence[object]]:
        try:
            yield ["long enough to be sent in parts"]
            raise StoreUnavailable("gone")
        finally:
            closed.set()

    kept = parts()

    async def handle(request: Request, rest: str) -> web.StreamResponse:
        return await queuey_replies.list_reply(request, "things", kept)

    async with open_node() as node:
        node.node.router._table["things"] = {
            "GET": Route("GET", "things", (), handle, changes=False)
        }
        url = f"{node.url}/things"
        async with node.session.head(url) as answer:
            assert answer.status == 200
        await eventually(closed.is_set)
