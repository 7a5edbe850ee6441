"""A channel's messages as its clients write and read them: envelopes, events, and paths.

The envelope is that of the rivulet specification, section 3. Nothing here talks to a store.
"""

from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from restmq.broker.cursors import check_client
from restmq.broker.log_entry import Entry, Log, Page, make_log
from restmq.broker.log_ids import IdKind
from restmq.codecs.sse import encode_event
from restmq.endpoints.web import Request, encode_json
from restmq.errors import InvalidInput, NotFound

COLLECTION: Final = "channels"


class NewMessage(msgspec.Struct):
    """The body of a write; any JSON value may be the data, and is kept as it was written."""

    data: msgspec.Raw
    src: str = ""


_decode_message = msgspec.json.Decoder(NewMessage).decode


def log_of(channel: str) -> Log:
    """Return the log of a channel; raises InvalidInput for what cannot be a name."""
    return make_log(COLLECTION, channel, IdKind.NUMBER)


def segments_of(request: Request) -> list[str]:
    """Return the decoded segments after the first; names may hold slashes, percent-encoded."""
    path = request.rel_url.raw_path
    segments = path.split("/")[2:]
    if segments and not segments[-1]:
        segments.pop()
    try:
        return [unquote_to_bytes(segment).decode() for segment in segments]
    except UnicodeDecodeError:
        raise InvalidInput("names must be valid UTF-8, percent-encoded") from None


def no_such_path() -> NotFound:
    """Make the error that says which paths there are."""
    return NotFound(
        "use /channels, /channels/CHANNEL, /channels/CHANNEL/messages,"
        " /cursors/CLIENT, /cursors/CLIENT/CHANNEL or /cursors/CLIENT/read"
    )


def parse_message(body: bytes) -> NewMessage:
    """Read the body of a write; raises InvalidInput."""
    try:
        body.decode()  # what is kept as it was written is not looked at otherwise
        message = _decode_message(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = f'the body must be {{"data": ANY, "src": "CLIENT"}} in JSON: {error}'
        raise InvalidInput(text) from None
    if message.src:
        check_client(message.src)
    return message


def new_envelope(number: int, published: float, source: str, value: bytes) -> dict[str, object]:
    """Return the envelope of a message; ``ts`` is in microseconds."""
    return {
        "id": number,
        "ts": round(published * 1_000_000),
        "src": source,
        "data": msgspec.Raw(value),
    }


def envelope(entry: Entry) -> dict[str, object]:
    """Return the envelope of a message that was read."""
    return new_envelope(entry.number, entry.published, entry.source.decode(), entry.value)


def envelopes(entries: Iterable[Entry]) -> list[dict[str, object]]:
    """Return the envelopes of messages that were read."""
    return [envelope(entry) for entry in entries]


def encode_events(page: Page) -> bytes:
    """Write a page as server-sent events, whose ids are those of the messages."""
    return b"".join(
        [encode_event(encode_json(envelope(e)), id=str(e.number)) for e in page.entries]
    )


class ChannelEvents:
    """The events of one stream, which tell of every message: it is there, or it is gone."""

    def __init__(self, channel: str, position: int, encode: Callable[[Page], bytes]) -> None:
        self._channel = channel
        self._encode = encode
        self.position = position
        """The message that was told of last."""

    def __call__(self, page: Page) -> bytes:
        """Write a page, whose messages follow each other, and before it what is missing."""
        gap = self.skip_to(page.entries[0].number)
        self.position = page.entries[-1].number
        return gap + self._encode(page)

    def skip_to(self, first: int) -> bytes:
        """Return what announces that the messages before ``first`` are kept no more, if any."""
        missing, self.position = self.position + 1, max(self.position, first - 1)
        if missing > self.position:
            return b""
        gone = encode_json({"channel": self._channel, "from": missing, "to": self.position})
        return encode_event(gone, id=str(self.position), event="gap")
