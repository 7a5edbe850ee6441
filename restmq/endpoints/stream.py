"""Streaming consumers: ``/c/Q`` as comet, long-poll or server-sent events, and ``/ws/Q``.

They follow the RestMQ specification, section 6. Each connection is a ``Consumer`` of the broker;
bytes go straight to its transport, framed once for all consumers of the same format, because a
message for a thousand consumers must not cost a thousand encodings.
"""

import asyncio
import contextlib
import socket
import struct

from aiohttp import HttpVersion11, WSCloseCode, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse

from restmq.access import Section
from restmq.broker.broker import Broker
from restmq.broker.consumers import Consumer, Encoding, End
from restmq.endpoints.formats import CometEncoding, SseEncoding, WebSocketEncoding
from restmq.endpoints.router import Route
from restmq.endpoints.web import (
    JAVASCRIPT,
    TEXT,
    Parameters,
    Reply,
    Request,
    client_is_gone,
    query_parameters,
)
from restmq.errors import InvalidInput

MAX_WAIT_SECONDS = 60
_NO_WAIT_SECONDS = 0.1
"""What ``wait=0`` allows for asking the queue at all."""

MAX_CLIENT_FRAME_BYTES = 1024 * 1024
"""The largest WebSocket message that a client may send for its echo."""

_LINGER_NOT = struct.pack("ii", 1, 0)

EVENT_STREAM = "text/event-stream"


class ConnectionConsumer(Consumer):
    """A consumer whose bytes go to the transport of a request."""

    __slots__ = ("_request", "_transport")

    def __init__(self, encoding: Encoding, request: Request) -> None:
        super().__init__(encoding)
        assert request.transport is not None
        self._request = request
        self._transport = request.transport
        # Any unsent byte pauses the writer, so that waiting for it means: all is sent.
        request.transport.set_write_buffer_limits(high=0)

    def write(self, data: bytes) -> None:
        """Send bytes, or keep them in the transport's buffer."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def offer(self, data: bytes, limit_bytes: int) -> bool:
        """Write unless the transport's buffer holds too much; one call, as there are many."""
        transport = self._transport
        if transport.get_write_buffer_size() > limit_bytes:
            return self.ended.done()
        if not (self.ended.done() or transport.is_closing()):
            transport.write(data)
        return True

    @property
    def unsent_bytes(self) -> int:
        """Return the size of the transport's buffer."""
        return self._transport.get_write_buffer_size()

    @property
    def is_connected(self) -> bool:
        """Return whether the connection stands."""
        return not self._transport.is_closing()

    async def wait_until_sent(self) -> None:
        """Wait until the transport's buffer is empty, or the connection is gone."""
        try:
            await self._request.writer.drain()
        except ConnectionError:
            return

    def cut_off(self) -> None:
        """Reset the connection, so that the kernel drops at once what nobody reads."""
        connection = self._transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._transport.abort()


class PollConsumer(Consumer):
    """A consumer that takes what comes first and then has had enough: a long-poll."""

    __slots__ = ("_finished", "_parts", "_request", "_sent", "arrived")

    def __init__(self, encoding: Encoding, request: Request) -> None:
        super().__init__(encoding)
        self._parts: list[bytes] = []
        self._request = request
        self._sent = False
        self._finished = asyncio.Event()
        self.arrived = asyncio.Event()

    def write(self, data: bytes) -> None:
        """Keep the bytes for the reply."""
        self._parts.append(data)
        self.arrived.set()

    def offer(self, data: bytes, limit_bytes: int) -> bool:
        """Keep the bytes for the reply, if it is not under way."""
        if not self.ended.done() and not self._sent:
            self.write(data)
        return True

    @property
    def unsent_bytes(self) -> int:
        """Return what waits for the reply; so no more is handed to a poll that has something."""
        return 0 if self._sent else sum(map(len, self._parts))

    @property
    def is_connected(self) -> bool:
        """Return whether the messages are on their way, or someone still waits for them."""
        return self._sent or not (self._finished.is_set() or self._request.transport is None)

    @property
    def is_open(self) -> bool:
        """Return whether the poll still waits for its first messages."""
        return super().is_open and not self._parts

    async def wait_until_sent(self) -> None:
        """Wait for the end of the poll."""
        await self._finished.wait()

    def finish(self) -> None:
        """Say that the poll is over; what is not in its reply goes back."""
        self._finished.set()

    def end(self, reason: End) -> None:
        """End the stream, and with it the waiting."""
        super().end(reason)
        self.arrived.set()

    def ping(self) -> None:
        """Do nothing: a reply is no stream."""

    def cut_off(self) -> None:
        """Do nothing: the reply is short and on its way."""

    def reply(self) -> bytes:
        """Return the body of the reply; from now on its messages count as received."""
        self._sent = True
        return b"".join(self._parts)


class EventStreamResponse(EventSourceResponse):
    """aiohttp-sse's response without its ping task: one task of the broker pings all streams."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the headers."""
        return await web.StreamResponse.prepare(self, request)


class StreamEndpoint:
    """Queues as streams."""

    def __init__(self, broker: Broker, ping_seconds: float) -> None:
        self._broker = broker
        self._ping_seconds = ping_seconds
        # One object for all streams of a format, not one each.
        self._sse = {chunked: SseEncoding(chunked) for chunked in (False, True)}
        self._comet = {chunked: CometEncoding(None, chunked) for chunked in (False, True)}

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        comet, websocket = (Section.COMET,), (Section.WEBSOCKET,)
        return [
            Route("GET", "c", comet, self.get_stream, changes=True, named=True),
            Route("GET", "ws", websocket, self.get_websocket, changes=True, named=True),
        ]

    async def get_stream(self, request: Request, queue: str) -> web.StreamResponse:
        """``GET /c/Q``: a stream that never ends, or with ``wait`` a single answer."""
        parameters = query_parameters(request)
        server_sent_events = _wants_events(request, parameters)
        wait_seconds = parameters.integer(b"wait", 0, MAX_WAIT_SECONDS)
        chunked = wait_seconds is None and request.version >= HttpVersion11
        callback = parameters.callback()
        encoding = self._encoding(server_sent_events, callback, chunked)
        content_type = TEXT if callback is None else JAVASCRIPT
        if server_sent_events:
            content_type = EVENT_STREAM
        if wait_seconds is not None:
            return await self._poll(request, queue, encoding, wait_seconds, content_type)
        response = _stream_response(content_type)
        response.headers.extend(request.cors)
        if chunked:
            response.enable_chunked_encoding()
        consumer = ConnectionConsumer(encoding, request)
        await self._broker.join(queue, consumer)
        try:
            await response.prepare(request)
            _slim_down(request, response)
            self._broker.begin(queue, consumer)
            await consumer.ended
        finally:
            await self._broker.leave(queue, consumer)
        return response

    def _encoding(self, server_sent_events: bool, callback: str | None, chunked: bool) -> Encoding:
        if server_sent_events:
            return self._sse[chunked]
        return self._comet[chunked] if callback is None else CometEncoding(callback, chunked)

    async def _poll(
        self,
        request: Request,
        queue: str,
        encoding: Encoding,
        wait_seconds: int,
        content_type: str,
    ) -> web.StreamResponse:
        consumer = PollConsumer(encoding, request)
        await self._broker.join(queue, consumer)
        try:
            self._broker.begin(queue, consumer)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds or _NO_WAIT_SECONDS):
                    await consumer.arrived.wait()
            body = b"" if client_is_gone(request) else consumer.reply()
            held = [message for message, _ in consumer.share]
        finally:
            consumer.finish()
            await self._broker.leave(queue, consumer)
        if body and client_is_gone(request):  # it went while Redis was told
            self._broker.give_back(queue, held)
        return Reply(body, content_type=content_type) if body else Reply(status=204)

    async def get_websocket(self, request: Request, queue: str) -> web.StreamResponse:
        """``GET /ws/Q``: one text frame a message; what the client sends comes back."""
        response = web.WebSocketResponse(
            heartbeat=self._ping_seconds, max_msg_size=MAX_CLIENT_FRAME_BYTES
        )
        if not response.can_prepare(request):
            raise InvalidInput("this path speaks WebSocket; /c/ streams to ordinary requests")
        consumer = ConnectionConsumer(WebSocketEncoding(), request)
        await self._broker.join(queue, consumer)
        try:
            await response.prepare(request)
            self._broker.begin(queue, consumer)
            await _echo_until_end(response, consumer)
        finally:
            await self._broker.leave(queue, consumer)
        return response


def _slim_down(request: Request, response: web.StreamResponse) -> None:
    """Let go of what an open stream needs no more: many of them wait for long."""
    request.protocol.keep_alive(False)  # drops the timer that watches idle connections
    response.headers.clear()


def _wants_events(request: Request, parameters: Parameters) -> bool:
    wanted = parameters.text(b"format")
    if wanted is None:
        return EVENT_STREAM in request.headers.get("Accept", "").lower()
    if wanted not in ("comet", "sse"):
        raise InvalidInput("format must be comet or sse")
    return wanted == "sse"


def _stream_response(content_type: str) -> web.StreamResponse:
    if content_type == EVENT_STREAM:
        return EventStreamResponse()
    headers = {
        "Content-Type": content_type,
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
        "X-Content-Type-Options": "nosniff",
    }
    return web.StreamResponse(headers=headers)


async def _echo_until_end(response: web.WebSocketResponse, consumer: Consumer) -> None:
    """Echo until the client closes, or the stream ends and is closed in order."""
    echo = asyncio.get_running_loop().create_task(_echo(response))
    consumer.ended.add_done_callback(lambda _: echo.cancel())
    try:
        await asyncio.wait([echo])
    finally:
        echo.cancel()
        await asyncio.gather(echo, return_exceptions=True)
    if consumer.ended.done():
        code = WSCloseCode.OK
        if consumer.ended.result() is End.DRAIN:
            code = WSCloseCode.GOING_AWAY
        elif consumer.ended.result() is End.SLOW:
            code = WSCloseCode.TRY_AGAIN_LATER
        await response.close(code=code, message=consumer.ended.result().value.encode())


async def _echo(response: web.WebSocketResponse) -> None:
    async for message in response:
        if message.type is WSMsgType.TEXT:
            await response.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await response.send_bytes(message.data)
