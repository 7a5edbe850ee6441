"""How messages look on a stream: as comet lines, as server-sent events, as WebSocket frames.

They follow the RestMQ specification, section 6, and the delivery specification, section 3. An
encoding is shared by all consumers of its format, so that a message for a thousand of them is
encoded and framed once. Beside messages there are two events: that the stream is open, and that
messages are missing.
"""

import secrets
import struct
from collections.abc import Sequence

from restmq.broker.consumers import Encoding
from restmq.broker.message import Message
from restmq.codecs.sse import COMMENT_PING, encode_event, encode_retry
from restmq.codecs.websocket import encode_text_frame
from restmq.endpoints.web import encode_json, javascript, message_fields

RETRY_MILLISECONDS = 1000
RETRY_SPREAD_MILLISECONDS = 2000
"""Readers of events come back after the first, and up to the second later, so not all at once."""


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _opened_fields(queue: str, position: int | None) -> dict[str, object]:
    return {"queue": queue, "position": position}


def _gap_fields(first: int, last: int) -> dict[str, object]:
    return {"from": first, "to": last}


class CometEncoding(Encoding):
    """A line of JSON, or a call of a JavaScript function, for each message and event."""

    def __init__(self, callback: str | None, chunked: bool) -> None:
        self._callback = callback.encode() if callback else None
        self._chunked = chunked

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CometEncoding) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self._callback, self._chunked))

    def encode(self, queue: str, messages: Sequence[Message]) -> bytes:
        """Return lines that end in CRLF, as one chunk if the connection is chunked."""
        return self._lines([encode_json(message_fields(queue, message)) for message in messages])

    def opened(self, queue: str, position: int | None) -> bytes:
        """Return a line whose ``event`` is ``open``."""
        return self._lines([encode_json({"event": "open", **_opened_fields(queue, position)})])

    def gap(self, first: int, last: int) -> bytes:
        """Return a line whose ``event`` is ``gap``."""
        return self._lines([encode_json({"event": "gap", **_gap_fields(first, last)})])

    def _lines(self, texts: Sequence[bytes]) -> bytes:
        if self._callback is None:
            data = b"".join([text + b"\r\n" for text in texts])
        else:
            name = self._callback
            data = b"".join([b"%b(%b);\r\n" % (name, javascript(text)) for text in texts])
        return _chunk(data) if self._chunked else data


class SseEncoding(Encoding):
    """One server-sent event for each message; its id is the message's number."""

    def __init__(self, chunked: bool) -> None:
        self._chunked = chunked

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SseEncoding) and self._chunked == other._chunked

    def __hash__(self) -> int:
        return hash((SseEncoding, self._chunked))

    def encode(self, queue: str, messages: Sequence[Message]) -> bytes:
        """Return the events, as one chunk if the connection is chunked."""
        events = [
            encode_event(encode_json(message_fields(queue, message)), id=str(message.number))
            for message in messages
        ]
        return self._framed(b"".join(events))

    def opened(self, queue: str, position: int | None) -> bytes:
        """Return when to come back, and an event whose id is the position to resume from."""
        wait = RETRY_MILLISECONDS + secrets.randbelow(RETRY_SPREAD_MILLISECONDS)
        event = encode_event(
            encode_json(_opened_fields(queue, position)),
            id=None if position is None else str(position),
            event="open",
        )
        return self._framed(encode_retry(wait) + event)

    def gap(self, first: int, last: int) -> bytes:
        """Return an event without an id: the reader's position is that of what it received."""
        return self._framed(encode_event(encode_json(_gap_fields(first, last)), event="gap"))

    def _framed(self, data: bytes) -> bytes:
        return _chunk(data) if self._chunked else data

    @property
    def keep_alive(self) -> bytes:
        """Return a comment, which readers pass over."""
        return self._framed(COMMENT_PING)


class WebSocketEncoding(Encoding):
    """One text frame of JSON for each message and event. Pings come from the connection itself."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WebSocketEncoding)

    def __hash__(self) -> int:
        return hash(WebSocketEncoding)

    def encode(self, queue: str, messages: Sequence[Message]) -> bytes:
        """Return the frames, which follow each other without more ado."""
        return b"".join(
            [encode_text_frame(encode_json(message_fields(queue, m))) for m in messages]
        )

    def opened(self, queue: str, position: int | None) -> bytes:
        """Return a frame whose ``event`` is ``open``."""
        fields = {"event": "open", **_opened_fields(queue, position)}
        return encode_text_frame(encode_json(fields))

    def gap(self, first: int, last: int) -> bytes:
        """Return a frame whose ``event`` is ``gap``."""
        return encode_text_frame(encode_json({"event": "gap", **_gap_fields(first, last)}))


class PollEncoding(Encoding):
    """Another encoding, with a note of how far the messages of each part go.

    For replies that tell their reader its position; ``read_parts`` takes them apart again.
    """

    _HEAD = struct.Struct(">IQ")

    def __init__(self, inner: Encoding) -> None:
        self._inner = inner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PollEncoding) and self._inner == other._inner

    def __hash__(self) -> int:
        return hash((PollEncoding, self._inner))

    def encode(self, queue: str, messages: Sequence[Message]) -> bytes:
        """Return the messages, with the number of the last of them."""
        return self._part(self._inner.encode(queue, messages), messages[-1].number)

    def gap(self, first: int, last: int) -> bytes:
        """Return the gap, with its last number."""
        return self._part(self._inner.gap(first, last), last)

    def _part(self, data: bytes, position: int) -> bytes:
        return self._HEAD.pack(len(data), position) + data

    def read_parts(self, data: bytes) -> tuple[bytes, int | None]:
        """Return what the inner encoding wrote, and the position at its end; None if empty."""
        at, bodies, position = 0, [], None
        while at < len(data):
            length, position = self._HEAD.unpack_from(data, at)
            at += self._HEAD.size
            bodies.append(data[at : at + length])
            at += length
        return b"".join(bodies), position
