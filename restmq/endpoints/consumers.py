"""What the streaming endpoints share: their parameters, and consumers behind a connection.

The parameters are those of the delivery specification, section 3. Each may come in the query or
in a header ``X-RestMQ-<Name>``; the query wins.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator
from typing import NamedTuple, cast

from restmq.broker.broker import Broker
from restmq.broker.consumers import Consumer, Encoding, End
from restmq.broker.limits import MAX_LEASE_SECONDS, MAX_PREFETCH, MAX_WAIT_SECONDS
from restmq.broker.resume import Gap, Missed
from restmq.endpoints.formats import PollEncoding
from restmq.endpoints.web import Parameters, Request, query_parameters, whole_number
from restmq.errors import InvalidInput

MAX_POSITION = 10**16 - 1

EVENT_STREAM = "text/event-stream"
_FORMATS = ("comet", "sse", "ws")
_LINGER_NOT = struct.pack("ii", 1, 0)


class StreamParameters(NamedTuple):
    """What a client asks of a stream."""

    format: str
    """``comet``, ``sse`` or ``ws``."""
    wait_seconds: float | None
    """For a long-poll: how long to wait for something; None for a stream."""
    after: int | None
    """The number of the last message that it got; 0 for all that is kept, None for what comes."""
    is_leased: bool
    prefetch: int
    lease_seconds: float | None
    """None as the queue's settings say."""
    wants_opening: bool
    """Whether to say that the stream is open where the classic formats do not."""
    callback: str | None


def read_stream_parameters(request: Request) -> StreamParameters:
    """Read the parameters of a stream; raises InvalidInput for what is wrong with them."""
    query = query_parameters(request)
    wanted = query.text(b"format")
    is_upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
    if wanted is None:
        accepted = request.headers.get("Accept", "").lower()
        wanted = "sse" if EVENT_STREAM in accepted else "comet"
    elif wanted not in _FORMATS:
        raise InvalidInput("format must be comet, sse or ws")
    elif wanted == "ws" and not is_upgrade:
        raise InvalidInput("format=ws goes with an upgrade to WebSocket")
    is_leased = _flag(query, "ack")
    if not is_leased:
        for name in ("prefetch", "lease"):
            if query.text(name.encode()) is not None:
                raise InvalidInput(f"{name} goes with ack=1")
    return StreamParameters(
        format="ws" if is_upgrade else wanted,
        wait_seconds=None if is_upgrade else query.number(b"wait", 0, MAX_WAIT_SECONDS),
        after=_after(request, query, is_leased),
        is_leased=is_leased,
        prefetch=query.integer(b"prefetch", 1, MAX_PREFETCH) or 1,
        lease_seconds=query.number(b"lease", 1, MAX_LEASE_SECONDS),
        wants_opening=_flag(query, "open"),
        callback=query.callback(),
    )


def _flag(query: Parameters, name: str) -> bool:
    text = query.text(name.encode())
    if text not in (None, "0", "1"):
        raise InvalidInput(f"{name} must be 0 or 1")
    return text == "1"


def _after(request: Request, query: Parameters, is_leased: bool) -> int | None:
    after = query.integer(b"after", 0, MAX_POSITION)
    if is_leased:
        # An EventSource sends the id it saw last by itself, so that one is no mistake.
        if after is not None:
            raise InvalidInput("after does not go with ack=1: what was not acked comes again")
        return None
    last_event_id = request.headers.get("Last-Event-ID")
    if after is None and last_event_id:
        return whole_number("Last-Event-ID", last_event_id, 0, MAX_POSITION)
    return after


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

    __slots__ = ("_finished", "_parts", "_poll_encoding", "_request", "_sent", "arrived")

    def __init__(self, encoding: Encoding, request: Request) -> None:
        self._poll_encoding = PollEncoding(encoding)
        super().__init__(self._poll_encoding)
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

    def reply(self) -> tuple[bytes, int | None]:
        """Return the body of the reply and how far it goes; None if it is empty.

        From now on its messages count as received.
        """
        self._sent = True
        return self._poll_encoding.read_parts(b"".join(self._parts))


def _tell_missed(queue: str, consumer: Consumer, missed: Missed) -> None:
    encoding = consumer.encoding
    if isinstance(missed, Gap):
        consumer.tell(encoding.gap(*missed))
    else:
        consumer.tell(encoding.encode(queue, missed))


async def begin_stream(
    broker: Broker, queue: str, consumer: Consumer, parameters: StreamParameters
) -> None:
    """Say that the stream is open where the client wants to know, then what it missed; begin.

    The consumer must have joined, and its headers must be on their way. Raises ``Unavailable``.
    """
    after, encoding = parameters.after, consumer.encoding
    tells_opening = (
        parameters.format == "sse"
        or parameters.is_leased
        or parameters.wants_opening
        or after is not None
    )
    if parameters.is_leased:
        consumer.tell(encoding.opened(queue, None))
        broker.begin_leased(queue, consumer)
        return
    if after is None:
        broker.begin(queue, consumer)
        if tells_opening:
            consumer.tell(encoding.opened(queue, consumer.opened_at))
        return
    # The position of one who breaks off before it got what it missed is still the old one.
    consumer.tell(encoding.opened(queue, after))
    async for missed in broker.read_missed(queue, consumer, after):
        _tell_missed(queue, consumer, missed)
    broker.begin(queue, consumer)


async def begin_poll(broker: Broker, queue: str, consumer: PollConsumer, after: int | None) -> None:
    """Hand a long-poll the first page of what it missed, else begin with what comes."""
    if after is not None:
        found = cast(AsyncGenerator[Missed, None], broker.read_missed(queue, consumer, after))
        async with contextlib.aclosing(found):
            async for missed in found:
                _tell_missed(queue, consumer, missed)
                if not isinstance(missed, Gap):
                    break
            if not consumer.arrived.is_set():
                broker.begin(queue, consumer)
        return
    broker.begin(queue, consumer)


async def join_stream(
    broker: Broker, queue: str, consumer: Consumer, parameters: StreamParameters
) -> None:
    """Count a consumer in; raises ``Unavailable`` when Redis does not answer."""
    if parameters.is_leased:
        await broker.join_leased(queue, consumer, parameters.prefetch, parameters.lease_seconds)
    else:
        await broker.join(queue, consumer)


async def leave_stream(
    broker: Broker, queue: str, consumer: Consumer, parameters: StreamParameters
) -> None:
    """Count a consumer out; what it held goes back."""
    if parameters.is_leased:
        await broker.leave_leased(queue, consumer)
    else:
        await broker.leave(queue, consumer)
