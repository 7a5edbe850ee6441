"""How messages look on a stream: as comet lines, as server-sent events, as WebSocket frames.

They follow the RestMQ specification, section 6. An encoding is shared by all consumers of its
format, so that a message for a thousand of them is encoded and framed once.
"""

from collections.abc import Sequence

from restmq.broker.consumers import Encoding
from restmq.broker.message import Message
from restmq.codecs.sse import COMMENT_PING, encode_event
from restmq.codecs.websocket import encode_text_frame
from restmq.endpoints.web import encode_json, javascript, message_fields


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class CometEncoding(Encoding):
    """A line of JSON, or a call of a JavaScript function, for each message."""

    def __init__(self, callback: str | None, chunked: bool) -> None:
        self._callback = callback.encode() if callback else None
        self._chunked = chunked

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CometEncoding) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self._callback, self._chunked))

    def encode(self, queue: str, messages: Sequence[Message]) -> bytes:
        """Return lines that end in CRLF, as one chunk if the connection is chunked."""
        texts = (encode_json(message_fields(queue, message)) for message in messages)
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
        data = b"".join(events)
        return _chunk(data) if self._chunked else data

    @property
    def keep_alive(self) -> bytes:
        """Return a comment, which readers pass over."""
        return _chunk(COMMENT_PING) if self._chunked else COMMENT_PING


class WebSocketEncoding(Encoding):
    """One text frame of JSON for each message. Pings come from the connection itself."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WebSocketEncoding)

    def __hash__(self) -> int:
        return hash(WebSocketEncoding)

    def encode(self, queue: str, messages: Sequence[Message]) -> bytes:
        """Return the frames, which follow each other without more ado."""
        return b"".join(
            [encode_text_frame(encode_json(message_fields(queue, m))) for m in messages]
        )
