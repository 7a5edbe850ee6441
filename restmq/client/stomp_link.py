"""One STOMP 1.2 connection over the WebSocket ``/stomp``, as a client has it."""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import aiohttp

from restmq.client.connection import CONNECT_TIMEOUT_SECONDS, Connection
from restmq.client.errors import ConnectionLost
from restmq.codecs.stomp import Frame, FrameLimits, FrameParser, StompError
from restmq.codecs.stomp_encoder import encode_frame
from restmq.errors import RestMQError
from restmq.http_client import error_class, one_line

SUBPROTOCOLS: Final = ("v12.stomp",)
VERSION: Final = "1.2"
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
MAX_WEBSOCKET_BYTES: Final = 256 * 1024 * 1024
"""The server puts the frames of one moment into one message."""

STOPPING: Final = "the server is stopping"
"""What a server says that others, or itself after a restart, will make good."""

OnMessage = Callable[["StompLink", Frame], None]


class StompLink:
    """A connection that is open, until ``ended``; only its reader may say so.

    ``on_message`` is called for each MESSAGE. Every method raises ConnectionLost once it ended.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, on_message: OnMessage) -> None:
        self._socket = socket
        self._on_message = on_message
        self._parser = FrameParser(FrameLimits(max_body_bytes=MAX_BODY_BYTES))
        self._receipts: dict[str, asyncio.Future[None]] = {}
        self._receipt_ids = itertools.count(1)
        self._connected: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._reason = "the connection was closed"
        self._reader: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()
        self.session = ""
        """What the server calls this connection."""

    @classmethod
    async def open(cls, connection: Connection, on_message: OnMessage) -> Self:
        """Connect and log in. Raises what the server refuses with, by its code word."""
        socket = await connection.websocket("/stomp", SUBPROTOCOLS, MAX_WEBSOCKET_BYTES)
        link = cls(socket, on_message)
        link._reader = asyncio.get_running_loop().create_task(link._read(), name="restmq stomp")
        try:
            await link._connect(connection)
        except BaseException:
            await link.close()
            raise
        return link

    async def _connect(self, connection: Connection) -> None:
        headers = {"accept-version": VERSION, "host": connection.address.host}
        if connection.credentials is not None:
            headers["login"], headers["passcode"] = connection.credentials
        await self.send("CONNECT", headers)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                connected = await self._connected
        except TimeoutError as error:
            raise ConnectionLost("no CONNECTED came in time", was_sent=False) from error
        self.session = connected.headers.get("session", "")

    async def close(self) -> None:
        """Hang up; what the server handed to this connection goes back."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()

    async def send(self, command: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send a frame."""
        if self.ended.is_set():
            raise self._lost()
        try:
            await self._socket.send_bytes(encode_frame(command, headers, body, version=VERSION))
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionLost(f"lost the connection: {error}", was_sent=True) from error

    async def ask(self, command: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send a frame and wait until the server has done what it says.

        Raises RestMQError if the server refuses it, with the server's words.
        """
        receipt_id = str(next(self._receipt_ids))
        receipt: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._receipts[receipt_id] = receipt
        try:
            await self.send(command, {**headers, "receipt": receipt_id}, body)
            await receipt
        finally:
            del self._receipts[receipt_id]
            receipt.cancel()

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    self._receive(message.data)
                elif message.type is aiohttp.WSMsgType.TEXT:
                    self._receive(message.data.encode())
        except StompError as error:
            self._reason = f"the server sent no STOMP: {error}"
        finally:
            self._end()

    def _receive(self, data: bytes) -> None:
        for frame in self._parser.receive_data(data):
            if frame.command == "MESSAGE":
                self._on_message(self, frame)
            elif frame.command == "RECEIPT":
                receipt = self._receipts.get(frame.headers.get("receipt-id", ""))
                if receipt is not None and not receipt.done():
                    receipt.set_result(None)
            elif frame.command == "CONNECTED" and not self._connected.done():
                self._connected.set_result(frame)
            elif frame.command == "ERROR":
                self._refused(frame)

    def _refused(self, frame: Frame) -> None:
        self._reason = one_line(frame.headers.get("message", ""))
        if self._reason == STOPPING:
            return
        kind = error_class(frame.headers.get("code", ""))
        receipt = self._receipts.get(frame.headers.get("receipt-id", ""))
        if receipt is not None and not receipt.done():
            receipt.set_exception(kind(self._reason))
        elif kind is not RestMQError and not self._connected.done():
            self._connected.set_exception(kind(self._reason))
        # Else it is no refusal for good: to all who wait the connection is lost.

    def _end(self) -> None:
        self.ended.set()
        waiting: list[asyncio.Future[Any]] = [self._connected, *self._receipts.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(self._lost())
            if not future.cancelled():
                future.exception()  # whoever waited may be gone

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(f"STOMP: {self._reason}", was_sent=True)
