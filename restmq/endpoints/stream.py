"""Streaming consumers: ``/c/Q`` as comet, long-poll or server-sent events, and ``/ws/Q``.

They follow the RestMQ specification, section 6, and the delivery specification, section 3. Each
connection is a ``Consumer`` of the broker; bytes go straight to its transport, framed once for all
consumers of the same format, because a message for a thousand consumers must not cost a thousand
encodings.

A long-poll says in the header ``X-RestMQ-Position`` what to pass as ``after`` next time, also when
it got nothing (204). With ``ack=1`` it is a lease for whoever asks in time: what it was handed
stays leased when the reply is sent, as with ``GET /q/Q?lease=``.
"""

import asyncio
import contextlib

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse

from restmq.access import Section
from restmq.broker.broker import Broker
from restmq.broker.consumers import Consumer, Encoding
from restmq.endpoints.consumers import (
    EVENT_STREAM,
    ConnectionConsumer,
    PollConsumer,
    StreamParameters,
    begin_poll,
    begin_stream,
    join_stream,
    leave_stream,
    read_stream_parameters,
)
from restmq.endpoints.formats import CometEncoding, SseEncoding
from restmq.endpoints.router import Route
from restmq.endpoints.web import JAVASCRIPT, TEXT, Reply, Request, client_is_gone
from restmq.endpoints.websocket import serve_websocket
from restmq.errors import RestMQError

_NO_WAIT_SECONDS = 0.1
"""What ``wait=0`` allows for asking the queue at all."""


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
        parameters = read_stream_parameters(request)
        if parameters.format == "ws":
            return await self._serve_websocket(request, queue, parameters)
        chunked = parameters.wait_seconds is None and request.version >= HttpVersion11
        encoding = self._encoding(parameters, chunked)
        content_type = _content_type(parameters)
        if parameters.wait_seconds is not None:
            if parameters.is_leased:
                return await self._lease(request, queue, encoding, parameters)
            return await self._poll(request, queue, encoding, parameters)
        response = _stream_response(content_type)
        response.headers.extend(request.cors)
        if chunked:
            response.enable_chunked_encoding()
        consumer = ConnectionConsumer(encoding, request)
        await join_stream(self._broker, queue, consumer, parameters)
        try:
            await response.prepare(request)
            _slim_down(request, response)
            await self._stream(queue, consumer, parameters)
        finally:
            await leave_stream(self._broker, queue, consumer, parameters)
        return response

    async def _stream(self, queue: str, consumer: Consumer, parameters: StreamParameters) -> None:
        try:
            await begin_stream(self._broker, queue, consumer, parameters)
        except RestMQError:
            consumer.cut_off()  # too late for a reply: the client sees that the stream is broken
            return
        await consumer.ended

    def _encoding(self, parameters: StreamParameters, chunked: bool) -> Encoding:
        if parameters.format == "sse":
            return self._sse[chunked]
        callback = parameters.callback
        return self._comet[chunked] if callback is None else CometEncoding(callback, chunked)

    async def _poll(
        self, request: Request, queue: str, encoding: Encoding, parameters: StreamParameters
    ) -> web.StreamResponse:
        consumer = PollConsumer(encoding, request)
        after, body, position = parameters.after, b"", None
        await self._broker.join(queue, consumer)
        try:
            await begin_poll(self._broker, queue, consumer, after)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(parameters.wait_seconds or _NO_WAIT_SECONDS):
                    await consumer.arrived.wait()
            if not client_is_gone(request):
                body, position = consumer.reply()
        finally:
            await self._leave(request, queue, consumer)
        if position is None:
            position = consumer.opened_at if after is None else after
        headers = [("X-RestMQ-Position", str(position))]
        return _poll_reply(body, parameters, headers)

    async def _leave(self, request: Request, queue: str, consumer: PollConsumer) -> None:
        # What counts as received goes back all the same if the client leaves while Redis is told,
        # which also ends the telling.
        held = [message for message, _ in consumer.share]
        was_gone = client_is_gone(request)
        consumer.finish()
        try:
            await self._broker.leave(queue, consumer)
        finally:
            if not was_gone and client_is_gone(request):
                self._broker.give_back(queue, held)

    async def _lease(
        self, request: Request, queue: str, encoding: Encoding, parameters: StreamParameters
    ) -> web.StreamResponse:
        messages = await self._broker.lease(
            queue,
            parameters.prefetch,
            parameters.lease_seconds,
            parameters.wait_seconds or 0,
            heeds_pause=True,
        )
        if messages and client_is_gone(request):
            self._broker.release_unseen(queue, messages)
            messages = []
        return _poll_reply(encoding.encode(queue, messages), parameters)

    async def get_websocket(self, request: Request, queue: str) -> web.StreamResponse:
        """``GET /ws/Q``: one text frame a message; what the client sends comes back."""
        return await self._serve_websocket(request, queue, read_stream_parameters(request))

    async def _serve_websocket(
        self, request: Request, queue: str, parameters: StreamParameters
    ) -> web.StreamResponse:
        return await serve_websocket(self._broker, request, queue, parameters, self._ping_seconds)


def _slim_down(request: Request, response: web.StreamResponse) -> None:
    """Let go of what an open stream needs no more: many of them wait for long."""
    request.protocol.keep_alive(False)  # drops the timer that watches idle connections
    response.headers.clear()


def _content_type(parameters: StreamParameters) -> str:
    if parameters.format == "sse":
        return EVENT_STREAM
    return TEXT if parameters.callback is None else JAVASCRIPT


def _poll_reply(
    body: bytes, parameters: StreamParameters, headers: list[tuple[str, str]] | None = None
) -> Reply:
    headers = headers or []
    if body:
        return Reply(body, content_type=_content_type(parameters), headers=headers)
    return Reply(status=204, headers=headers)


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
