"""Streams over WebSocket: ``/ws/Q``, and ``/c/Q`` when the client asks for an upgrade.

They follow the RestMQ specification, section 6, and the delivery specification, section 3. A plain
stream echoes what the client sends. On a leased one the client settles what it was handed:

    {"ack": R}                       the message is done; R may be a list of receipts
    {"nack": R, "delay": 5}          it goes back, after so many seconds (0 if not said)
    {"extend": R, "seconds": 30}     the lease runs for so long from now
    {"dead": R, "reason": "..."}     it goes to the dead letters

Each receipt is answered by an object with the same verb and receipt, and what became of it:
``acked``, ``released`` or ``buried`` (true), ``expires`` (seconds since the epoch), or ``error``
and ``message``. What is no such frame is answered by ``error`` and ``message`` alone.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from restmq.broker.broker import Broker
from restmq.broker.consumers import Consumer, End
from restmq.broker.receipts import Receipt, read_receipt
from restmq.broker.scripts import Reply
from restmq.codecs.websocket import encode_text_frame
from restmq.endpoints.consumers import (
    ConnectionConsumer,
    StreamParameters,
    begin_stream,
    join_stream,
    leave_stream,
)
from restmq.endpoints.formats import WebSocketEncoding
from restmq.endpoints.web import Request, encode_json
from restmq.errors import InvalidInput, RestMQError

MAX_CLIENT_FRAME_BYTES = 1024 * 1024
"""The largest WebSocket message that a client may send."""

MAX_UNANSWERED = 1000
"""Settlements of one connection that wait for Redis before more are read."""

MAX_UNSENT_BYTES = 64 * 1024
"""Unsent bytes with which no more settlements are read: their answers would pile up."""

MAX_MALFORMED_FRAMES = 100
"""So many frames that say nothing, one after the other, end a leased stream."""

_Text = Annotated[str, msgspec.Meta(max_length=1500)]
_Receipts = Annotated[list[_Text], msgspec.Meta(min_length=1, max_length=1000)]


class _Frame(msgspec.Struct, forbid_unknown_fields=True):
    """What a client of a leased stream may send."""

    ack: _Text | _Receipts | None = None
    nack: _Text | None = None
    extend: _Text | None = None
    dead: _Text | None = None
    delay: float | None = None
    seconds: float | None = None
    reason: str | None = None


_Settle = Callable[[Receipt], Awaitable[dict[str, object]]]

_decode_frame = msgspec.json.Decoder(_Frame).decode


class Settler:
    """Settles what one leased stream holds, as its client says; many settlements at a time."""

    def __init__(self, broker: Broker, queue: str, consumer: Consumer) -> None:
        self._broker = broker
        self._queue = queue
        self._consumer = consumer
        self._loop = asyncio.get_running_loop()
        self._unanswered = 0
        self._answered = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: list[bytes] = []
        self.malformed_frames = 0
        """How many came since the last that was understood."""

    def receive(self, data: bytes) -> None:
        """Begin what a frame asks for; its answers are sent when they are there."""
        try:
            frame = _decode_frame(data)
            self._begin_frame(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidInput) as error:
            self.malformed_frames += 1
            self._answer({"error": InvalidInput.code, "message": str(error)})
            return
        self.malformed_frames = 0

    @property
    def is_full(self) -> bool:
        """Return whether too many settlements are under way, or too many answers are unsent."""
        return self._unanswered >= MAX_UNANSWERED or self._consumer.unsent_bytes > MAX_UNSENT_BYTES

    async def wait_for_room(self) -> None:
        """Wait until no more ``is_full``, or the connection is gone."""
        while self._unanswered >= MAX_UNANSWERED:
            await self._wait_for_answer()
        if self._consumer.unsent_bytes > MAX_UNSENT_BYTES:
            await self._consumer.wait_until_sent()

    async def finish(self) -> None:
        """Wait until all is answered that was begun."""
        while self._unanswered:
            await self._wait_for_answer()
        self._send_answers()

    async def _wait_for_answer(self) -> None:
        self._answered.clear()
        await self._answered.wait()

    def _begin_frame(self, frame: _Frame) -> None:
        if frame.ack is not None:
            if frame != _Frame(ack=frame.ack):  # many of these come, so no loop over the fields
                _check_fields(frame, "ack")
            for text in [frame.ack] if isinstance(frame.ack, str) else frame.ack:
                self._begin_ack(text)
        elif frame.nack is not None:
            _check_fields(frame, "nack", "delay")
            self._begin("nack", frame.nack, functools.partial(self._release, frame.delay or 0))
        elif frame.extend is not None:
            _check_fields(frame, "extend", "seconds")
            if frame.seconds is None:
                raise InvalidInput("extend needs seconds")
            self._begin("extend", frame.extend, functools.partial(self._extend, frame.seconds))
        elif frame.dead is not None:
            _check_fields(frame, "dead", "reason")
            if frame.reason is None:
                raise InvalidInput("dead needs a reason")
            self._begin("dead", frame.dead, functools.partial(self._bury, frame.reason))
        else:
            raise InvalidInput("a frame must have ack, nack, extend or dead, with a receipt")

    def _begin_ack(self, text: str) -> None:
        if not self._broker.knows(self._queue):  # the long way, which finds out
            self._begin("ack", text, self._ack)
            return
        try:
            receipt = self._read_receipt(text)
            future = self._broker.begin_ack(receipt)
        except RestMQError as error:
            self._answer_error("ack", text, error)
            return
        self._unanswered += 1
        future.add_done_callback(functools.partial(self._note_ack, text, receipt))

    def _note_ack(self, text: str, receipt: Receipt, future: asyncio.Future[Reply]) -> None:
        self._note_answered()
        try:
            self._broker.conclude(receipt, future.result())
        except RestMQError as error:
            self._answer_error("ack", text, error)
        else:
            self._answer({"ack": text, "acked": True})

    def _begin(self, verb: str, text: str, settle: _Settle) -> None:
        try:
            receipt = self._read_receipt(text)
        except InvalidInput as error:
            self._answer_error(verb, text, error)
            return
        self._unanswered += 1
        task = self._loop.create_task(self._settle(verb, text, settle(receipt)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, verb: str, text: str, outcome: Awaitable[dict[str, object]]) -> None:
        try:
            self._answer({verb: text, **await outcome})
        except RestMQError as error:
            self._answer_error(verb, text, error)
        finally:
            self._note_answered()

    async def _ack(self, receipt: Receipt) -> dict[str, object]:
        await self._broker.ack(receipt)
        return {"acked": True}

    async def _release(self, delay_seconds: float, receipt: Receipt) -> dict[str, object]:
        await self._broker.release(receipt, delay_seconds)
        return {"released": True}

    async def _extend(self, seconds: float, receipt: Receipt) -> dict[str, object]:
        return {"expires": await self._broker.extend(receipt, seconds)}

    async def _bury(self, reason: str, receipt: Receipt) -> dict[str, object]:
        await self._broker.bury(receipt, reason)
        return {"buried": True}

    def _read_receipt(self, text: str) -> Receipt:
        receipt = read_receipt(text)
        if receipt.queue != self._queue:
            raise InvalidInput("this receipt is of another queue; settle it on a stream of that")
        return receipt

    def _note_answered(self) -> None:
        self._unanswered -= 1
        self._answered.set()

    def _answer_error(self, verb: str, text: str, error: RestMQError) -> None:
        self._answer({verb: text, "error": error.code, "message": str(error)})

    def _answer(self, fields: dict[str, object]) -> None:
        if not self._answers:  # those of one round trip come together, and leave together
            self._loop.call_soon(self._send_answers)
        self._answers.append(encode_text_frame(encode_json(fields)))

    def _send_answers(self) -> None:
        answers, self._answers = self._answers, []
        self._consumer.tell(b"".join(answers))


def _check_fields(frame: _Frame, *allowed: str) -> None:
    """Raise InvalidInput if a frame says more than goes with its verb."""
    for name in frame.__struct_fields__:
        if getattr(frame, name) is not None and name not in allowed:
            raise InvalidInput(f"{name} does not go with {allowed[0]}")


async def serve_websocket(
    broker: Broker,
    request: Request,
    queue: str,
    parameters: StreamParameters,
    ping_seconds: float,
) -> web.StreamResponse:
    """Serve one WebSocket from its handshake to its end; raises InvalidInput if it is none."""
    is_leased = parameters.is_leased
    response = web.WebSocketResponse(
        heartbeat=ping_seconds,
        max_msg_size=MAX_CLIENT_FRAME_BYTES,
        compress=not is_leased,  # many short frames: a second spent on them is better spent
        decode_text=not is_leased,
    )
    if not response.can_prepare(request):
        raise InvalidInput("this path speaks WebSocket; /c/ streams to ordinary requests")
    consumer = ConnectionConsumer(WebSocketEncoding(), request)
    await join_stream(broker, queue, consumer, parameters)
    try:
        await response.prepare(request)
        try:
            await begin_stream(broker, queue, consumer, parameters)
            if is_leased:
                await _settle_until_end(response, consumer, Settler(broker, queue, consumer))
            else:
                await _read_until_end(response, consumer, _echo(response))
        except RestMQError as error:
            await response.close(code=WSCloseCode.TRY_AGAIN_LATER, message=str(error).encode())
    finally:
        await leave_stream(broker, queue, consumer, parameters)
    return response


async def _settle_until_end(
    response: web.WebSocketResponse, consumer: Consumer, settler: Settler
) -> None:
    try:
        await _read_until_end(response, consumer, _settle_frames(response, settler))
    finally:
        await settler.finish()


async def _read_until_end(
    response: web.WebSocketResponse, consumer: Consumer, read: Coroutine[None, None, None]
) -> None:
    """Read until the client closes, or the stream ends and is closed in order."""
    reading = asyncio.get_running_loop().create_task(read)
    consumer.ended.add_done_callback(lambda _: reading.cancel())
    try:
        await asyncio.wait([reading])
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
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


async def _settle_frames(response: web.WebSocketResponse, settler: Settler) -> None:
    async for message in response:
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            settler.receive(message.data)
        if settler.malformed_frames >= MAX_MALFORMED_FRAMES:
            reason = b"too many frames that settle nothing"
            await response.close(code=WSCloseCode.POLICY_VIOLATION, message=reason)
            return
        if settler.is_full:
            await settler.wait_for_room()
