"""The two wires of STOMP: a TCP connection, and a WebSocket. A connection cannot tell them apart.

Any octet that the kernel has not taken pauses the writer, so that "not paused" means: all is sent.
"""

import asyncio
import contextlib
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Protocol, cast

from aiohttp import WSCloseCode, WSMsgType, web

from restmq.codecs.websocket import encode_text_frame
from restmq.endpoints.web import Request

_LINGER_NOT: Final = struct.pack("ii", 1, 0)
_FINAL_BINARY: Final = 0x82

_KEEP_ALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""Seconds of silence until the kernel asks for a sign of life, seconds between such questions, and
how many: who has vanished without a word, and has no heart-beats, is gone after two minutes."""


class Reader(Protocol):
    """What a wire tells its connection."""

    def receive(self, data: bytes) -> None:
        """Take in what arrived."""

    def end_of_input(self) -> None:
        """Take note that no more will come, though answers may still be read."""

    def pause(self) -> None:
        """Take note that octets are unsent."""

    def resume(self) -> None:
        """Take note that all is sent."""

    def lost(self) -> None:
        """Take note that the connection is gone."""


class Wire(ABC):
    """Where the octets of one connection go."""

    __slots__ = ("reader",)

    reader: Reader

    @property
    @abstractmethod
    def kind(self) -> str:
        """Return what it is, in a word for people."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send octets, or keep them; never waits."""

    @property
    @abstractmethod
    def unsent_bytes(self) -> int:
        """Return how much is kept."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Take nothing more from the client for now."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Take from the client again."""

    @abstractmethod
    def close(self) -> None:
        """Send what is kept, then close."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once, and have the kernel drop what nobody reads."""


def _reset(transport: asyncio.BaseTransport) -> None:
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):  # it is gone already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    connection = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):  # it is gone already, or no TCP
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE:
            option = getattr(socket, name, None)  # not on all platforms
            if option is not None:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)


class TcpWire(asyncio.Protocol, Wire):
    """A TCP connection, with or without TLS."""

    __slots__ = ("_is_tls", "_make_reader", "_transport")

    def __init__(self, make_reader: Callable[["TcpWire"], Reader]) -> None:
        self._make_reader = make_reader
        self._transport: asyncio.Transport | None = None
        self._is_tls = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        self._transport.set_write_buffer_limits(high=1, low=0)
        _keep_alive(transport)
        self.reader = self._make_reader(self)

    @property
    def peer_address(self) -> str:
        """Return the client's address; empty if it is gone."""
        peer = self._transport.get_extra_info("peername") if self._transport else None
        return str(peer[0]) if isinstance(peer, tuple) else ""

    @property
    def kind(self) -> str:
        """Return whether TLS is on it."""
        return "tls" if self._is_tls else "tcp"

    def data_received(self, data: bytes) -> None:
        """Pass octets on."""
        self.reader.receive(data)

    def eof_received(self) -> bool:
        """Stay open for what is still to be answered; TLS has no half of a connection."""
        self.reader.end_of_input()
        return not self._is_tls

    def pause_writing(self) -> None:
        """Pass it on."""
        self.reader.pause()

    def resume_writing(self) -> None:
        """Pass it on."""
        self.reader.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._transport = None
        self.reader.lost()

    def write(self, data: bytes) -> None:
        """Send octets, or keep them in the transport's buffer."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    @property
    def unsent_bytes(self) -> int:
        """Return the size of the transport's buffer."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Leave octets in the kernel."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Send what is kept, then close."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            _reset(self._transport)
            self._transport.abort()


class WebSocketWire(Wire):
    """A WebSocket: text messages if the client sends such and the octets are text, else binary."""

    __slots__ = ("_closing", "_draining", "_loop", "_request", "_sends_text", "_transport", "_turn")

    def __init__(self, request: Request) -> None:
        assert request.transport is not None
        self._request = request
        self._transport = request.transport
        self._transport.set_write_buffer_limits(high=0)
        _keep_alive(self._transport)  # pings may be rare
        self._loop = asyncio.get_running_loop()
        self._sends_text = False
        self._closing: asyncio.Future[None] = self._loop.create_future()
        self._turn = asyncio.Event()
        self._turn.set()
        self._draining: asyncio.Task[None] | None = None

    @property
    def kind(self) -> str:
        """Return that it is a WebSocket."""
        return "websocket"

    async def run(self, response: web.WebSocketResponse) -> None:
        """Read until either side closes."""
        reading = self._loop.create_task(self._read(response), name="stomp-websocket")
        try:
            await asyncio.wait([reading, self._closing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            self.reader.lost()
            if self._draining is not None:
                self._draining.cancel()
                await asyncio.gather(self._draining, return_exceptions=True)
            await response.close(code=WSCloseCode.OK)

    async def _read(self, response: web.WebSocketResponse) -> None:
        async for message in response:
            if message.type is WSMsgType.TEXT:
                self._sends_text = True
                self.reader.receive(message.data.encode())
            elif message.type is WSMsgType.BINARY:
                self._sends_text = False
                self.reader.receive(message.data)
            await self._turn.wait()

    def write(self, data: bytes) -> None:
        """Send octets as one message, or keep them in the transport's buffer."""
        if self._transport.is_closing() or not data:
            return
        frame = encode_text_frame(data)
        if not (self._sends_text and _is_text(data)):
            frame = bytes((_FINAL_BINARY,)) + frame[1:]
        self._transport.write(frame)
        if self._draining is None and self.unsent_bytes:
            self.reader.pause()
            self._draining = self._loop.create_task(self._drain(), name="stomp-drain")

    async def _drain(self) -> None:
        try:
            await self._request.writer.drain()
        except ConnectionError:
            self.reader.lost()
            return
        finally:
            self._draining = None
        self.reader.resume()

    @property
    def unsent_bytes(self) -> int:
        """Return the size of the transport's buffer."""
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Take no more messages."""
        self._turn.clear()

    def resume_reading(self) -> None:
        """Take messages again."""
        self._turn.set()

    def close(self) -> None:
        """Have ``run`` send what is kept, and close."""
        if not self._closing.done():
            self._closing.set_result(None)

    def abort(self) -> None:
        """Reset the connection."""
        _reset(self._transport)
        self._transport.abort()
        self.close()


def _is_text(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
