"""Clients that vanish without a word: the kernel notices, whatever the wire."""

import socket

import pytest

from restmq.endpoints.stomp_connection import Connection
from restmq.endpoints.stomp_wire import TcpWire, WebSocketWire
from tests.endpoints.conftest import OpenNode
from tests.endpoints.stomp_client import stomp_node, web_stomp_client

OPTIONS = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="this platform cannot say when")
@pytest.mark.parametrize("kind", ["tcp", "websocket"])
async def test_the_kernel_asks_silent_clients_for_signs_of_life(
    open_node: OpenNode, kind: str
) -> None:
    async with stomp_node(open_node) as node:
        client = node.client() if kind == "tcp" else web_stomp_client(node.http.url)
        async with client:
            (connection,) = node.http.node._stomp._connections
            assert isinstance(connection, Connection)
            assert isinstance(connection.wire, TcpWire | WebSocketWire)
            assert connection.wire.kind == kind
            assert connection.wire._transport is not None
            served = connection.wire._transport.get_extra_info("socket")
            assert served.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for name, value in OPTIONS.items():
                assert served.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
