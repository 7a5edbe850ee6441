"""STOMP 1.0, 1.1 and 1.2: over TCP, and over WebSocket at ``/stomp``.

It follows the STOMP specifications and the compatibility specification of radiator. Behind it are
the queues of every other endpoint: a subscription is a leased consumer, and a RECEIPT for a SEND
means what a 200 for a POST means.
"""

import asyncio
import contextlib
import logging
import secrets
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aiohttp import web

from restmq.access import Access, Section
from restmq.broker.broker import Broker
from restmq.broker.messaging import Messaging
from restmq.codecs.stomp import FrameLimits
from restmq.endpoints.router import Route
from restmq.endpoints.stomp_access import Peer, StompAccess
from restmq.endpoints.stomp_connection import Connection
from restmq.endpoints.stomp_shared import Client, Shared
from restmq.endpoints.stomp_wheel import Wheel
from restmq.endpoints.stomp_wire import TcpWire, WebSocketWire, Wire
from restmq.endpoints.web import Request
from restmq.errors import InvalidInput, RestMQError, StartupError
from restmq.settings import Settings

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
    ) -> None:
        self._settings = settings
        self._peer_address = peer_address
        self._wheel = Wheel()
        self._connections: dict[Client, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._is_draining = False
        self._is_empty = asyncio.Event()
        self._is_empty.set()

        def may_create(queue: str) -> bool:
            return settings.stomp_create or is_configured(queue)

        self.messaging = Messaging(
            broker, may_create, settings.stomp_ack_timeout, settings.stomp_max_attempts
        )
        self._shared = Shared(
            self.messaging,
            StompAccess(access, settings),
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

        Raises OSError if the port is taken, StartupError if certificate or key cannot be used.
        """
        context = make_tls_context(self._settings)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: TcpWire(self._accept),
            host,
            port,
            reuse_port=reuse_port or None,
            backlog=LISTEN_BACKLOG,
            ssl=context,
        )
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Accept no more, end every connection, and give back what they held."""
        self._is_draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
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
        return self._add(wire, Peer(wire.peer_address))

    def _add(self, wire: Wire, peer: Peer) -> Connection:
        connection = Connection(self._shared, wire, peer, secrets.token_hex(16))
        self._connections[connection] = None
        self._is_empty.clear()
        if self._is_draining:
            connection.refuse("the server is stopping")
        return connection

    def _forget(self, connection: Client) -> None:
        self._connections.pop(connection, None)
        if not self._connections:
            self._is_empty.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name="stomp")
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        return task

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, RestMQError):
            logger.error("a STOMP operation failed", exc_info=error)

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
        )
        wire.reader = self._add(wire, peer)
        await wire.run(response)
        return response


def make_tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return what TLS needs, or None without a certificate; raises StartupError."""
    certificate, key = settings.stomp_certificate, settings.stomp_key
    if not certificate:
        if key:
            raise StartupError("stomp_key goes with stomp_certificate")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key or None)
    except OSError as error:  # ssl.SSLError is one
        raise StartupError(
            f"stomp_certificate {certificate} and its key cannot be used: {error}"
        ) from error
    return context
