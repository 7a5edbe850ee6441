"""Clients of a node in this process, and of one that can be cut off."""

from collections.abc import AsyncIterator

import pytest

from restmq.client import Client
from tests.client.cutter import Cutter
from tests.endpoints.conftest import NodeUnderTest, node, open_node

__all__ = ["node", "open_node"]


@pytest.fixture
async def client(node: NodeUnderTest) -> AsyncIterator[Client]:
    """A client of a node that allows everything."""
    async with Client(node.url) as opened:
        yield opened


@pytest.fixture
async def cutter(node: NodeUnderTest) -> AsyncIterator[Cutter]:
    """What stands between a client and the node, and cuts connections."""
    async with Cutter(node.node.port) as opened:
        yield opened


@pytest.fixture
async def cut_client(cutter: Cutter) -> AsyncIterator[Client]:
    """A client whose connections go through the cutter."""
    async with Client(cutter.url) as opened:
        yield opened
