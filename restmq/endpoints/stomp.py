"""STOMP 1.0, 1.1 and 1.2: over TCP, and over WebSocket at ``/stomp``.

It follows the STOMP specifications and the compatibility specification of radiator. Behind it are
the queues of every other endpoint: a subscription is a leased consumer, and a RECEIPT for a SEND
means what a 200 for a POST means.
"""

import asyncio
import contextlib
import functools
import logging
import secrets
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aiohttp import web

from restmq.access import Access, Section
from restmq.access_log import AccessLog
from restmq.broker.broker import Broker
from restmq.broker.messaging import Messaging
from restmq.codecs.stomp import FrameLimits
from restmq.endpoints.peers import key_of
from restmq.endpoints.router import Route
from restmq.endpoints.stomp_access import Peer, StompAccess
from restmq.endpoints.stomp_connection import Connection
from restmq.endpoints.stomp_report import Reports
from restmq.endpoints.stomp_shared import Client, Shared
from restmq.endpoints.stomp_wheel import Wheel
from restmq.endpoints.stomp_wire import TcpWire, WebSocketWire, Wire
from restmq.endpoints.web import Request, connection_id
from restmq.errors import AccessDenied, InvalidInput, RestMQError
from restmq.rate_limits import RateLimits
from restmq.settings import Settings
from restmq.tls import load_tls

logger = logging.getLogger(__name__)

SUBPROTOCOLS: Final = ("v12.stomp", "v11.stomp", "v10.stomp")
LISTEN_BACKLOG: Final = 4096
_HEADER_ROOM_BYTES: Final = 1024 * 1024
"""What a WebSocket message may have beside the largest body."""


class StompEndpoint:
    """All STOMP connections of a node.

    ``is_configured``: whether the settings name a queue, which ``[stomp] create = false`` allows.
    ``peer_address``: who is behind a request.
    """

    def __init__(
        self,
        broker: Broker,
        access: Access,
        settings: Settings,
        is_configured: Callable[[str], bool],
        peer_address: Callable[[Request], str],
        rate_limits: RateLimits | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        self._settings = settings
        self._peer_address = peer_address
        self._access_log = access_log or AccessLog(is_on=False)
        self.tls = load_tls(settings.stomp_certificate, settings.stomp_key, prefix="stomp")
        self._wheel = Wheel()
        self._connections: dict[Client, Connection] = {}
        self._connection_count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._is_draining = False
        self._is_empty = asyncio.Event()
        self._is_empty.set()

        def may_create(queue: str) -> bool:
            return settings.stomp_create or is_configured(queue)

        self.messaging = Messaging(
            broker, may_create, settings.stomp_ack_timeout, settings.stomp_max_attempts
        )
        self.reports = Reports(self.messaging, broker.node, self._connections.values)
        self._shared = Shared(
            self.messaging,
            StompAccess(access, settings, rate_limits),
            settings,
            self._wheel,
            FrameLimits(max_body_bytes=settings.max_body_bytes),
            self._spawn,
            self._forget,
        )

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        return [Route("GET", "stomp", (Section.WEBSOCKET,), self.get_websocket, changes=True)]

    async def open(self, host: str, port: int, *, reuse_port: bool) -> int:
        """Listen over TCP; returns the port, which differs from ``port`` if that is 0.

        Raises OSError if the port is taken.
        """
        server = await self._listen(host=host, port=port, reuse_port=reuse_port or None)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def open_passed(self, listener: socket.socket) -> None:
        """Listen on a socket that the service manager has passed."""
        await self._listen(sock=listener)

    async def _listen(self, **where: Any) -> asyncio.Server:
        server = await asyncio.get_running_loop().create_server(
            lambda: TcpWire(self._accept),
            **where,
            backlog=LISTEN_BACKLOG,
            ssl=None if self.tls is None else self.tls.context,
        )
        self._servers.append(server)
        return server

    async def close(self) -> None:
        """Accept no more, end every connection, and give back what they held."""
        self._is_draining = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections.values()):
            connection.refuse("the server is stopping", "connect again, perhaps to another node")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_seconds):
                await self._is_empty.wait()
        self._wheel.close()
        for task in self._tasks:  # nobody is left who would want their outcome
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.messaging.close()

    @property
    def connection_count(self) -> int:
        """Return how many clients are connected."""
        return len(self._connections)

    def _accept(self, wire: TcpWire) -> Connection:
        return self._add(wire, Peer(wire.peer_address), self._access_log.new_connection_id())

    def _add(self, wire: Wire, peer: Peer, log_id: str) -> Connection:
        if not self._connection_count:
            self.reports.listen()
        self._connection_count += 1
        session_id = secrets.token_hex(16)
        number = self._connection_count
        connection = Connection(self._shared, wire, peer, session_id, number, log_id)
        self._connections[connection] = connection
        self._is_empty.clear()
        if self._access_log.is_on:
            self._access_log.note_stomp("connected", log_id, peer.address)
        if self._is_draining:
            connection.refuse("the server is stopping")
        return connection

    def end_keyless(self) -> None:
        """End connections whose API key was removed or changed, or has expired."""
        for connection in list(self._connections.values()):
            try:
                self._shared.access.check_key(connection.peer)
            except AccessDenied as error:
                connection.refuse(str(error), code=error.code)

    def _forget(self, client: Client) -> None:
        connection = self._connections.pop(client, None)
        if connection is not None and self._access_log.is_on:
            peer = connection.peer
            key = None if peer.key is None else peer.key.id
            self._access_log.note_stomp("disconnected", connection.log_id, peer.address, key)
        if not self._connections:
            self._is_empty.set()

    def _spawn(self, work: Coroutine[Any, Any, None], client: Client) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name="stomp")
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._finish, client))
        return task

    def _finish(self, client: Client, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, RestMQError):
            logger.error("a STOMP operation failed", exc_info=error, extra=client.log_fields)

    async def get_websocket(self, request: Request, rest: str) -> web.StreamResponse:
        """``GET /stomp``: a WebSocket that carries frames, whole or in parts."""
        response = web.WebSocketResponse(
            protocols=SUBPROTOCOLS,
            heartbeat=self._settings.ping_seconds,
            max_msg_size=self._settings.max_body_bytes + _HEADER_ROOM_BYTES,
            compress=False,  # frames are written past it
        )
        if not response.can_prepare(request):
            raise InvalidInput("this path speaks STOMP over WebSocket")
        await response.prepare(request)
        wire = WebSocketWire(request)
        peer = Peer(
            self._peer_address(request),
            request.headers.get("Authorization"),
            request.headers.get("Cookie"),
            key_of(request, "stomp"),
        )
        wire.reader = self._add(wire, peer, connection_id(request))
        await wire.run(response)
        return response
