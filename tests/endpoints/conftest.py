"""A node in this process, behind a real listener, and a client for it."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from restmq.access import Access
from restmq.node import Node
from restmq.settings import Settings

OpenNode = Callable[..., contextlib.AbstractAsyncContextManager["NodeUnderTest"]]


class NodeUnderTest:
    """A node that serves, and a session whose paths are relative to it."""

    def __init__(self, node: Node, session: aiohttp.ClientSession) -> None:
        self.node = node
        self.session = session

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.node.port}"

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        """Send one request, its path taken literally; returns status and body."""
        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, allow_redirects=False, **options) as answer:
            return answer.status, await answer.read()

    async def get(self, path: str, **options: Any) -> tuple[int, bytes]:
        """Send a GET."""
        return await self.call("GET", path, **options)

    async def post(self, path: str, **options: Any) -> tuple[int, bytes]:
        """Send a POST."""
        return await self.call("POST", path, **options)

    async def add(self, queue: str, *values: str) -> None:
        """Publish by the classic form."""
        for value in values:
            status, body = await self.post(f"/q/{queue}", data={"value": value})
            assert status == 200, body


@pytest.fixture
def open_node(redis_url: str, tmp_path: Path) -> OpenNode:
    """Open nodes on the shared Redis, with rules and settings of their own."""

    @contextlib.asynccontextmanager
    async def opened(acl: str = "", **settings: Any) -> AsyncIterator[NodeUnderTest]:
        rules = Access.from_text(acl)
        changed = {"port": 0, "drain_seconds": 1.0, **settings}
        async with (
            Node(Settings(**changed), redis_url, rules) as node,
            aiohttp.ClientSession() as session,
        ):
            yield NodeUnderTest(node, session)

    return opened


@pytest.fixture
async def node(open_node: OpenNode) -> AsyncIterator[NodeUnderTest]:
    """A node that allows everything, with the default settings."""
    async with open_node() as opened:
        yield opened
