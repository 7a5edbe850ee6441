"""Server-sent events: an event to bytes, and bytes to events.

Both follow the event stream format of the WHATWG HTML standard, section 9.2.
"""

import re
from dataclasses import dataclass
from typing import Final

from restmq.errors import TooLarge

COMMENT_PING: Final = b": ping\n\n"
"""A comment to keep a quiet connection open; readers pass over it."""

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_MAX_RETRY_DIGITS: Final = 15  # thirty thousand years; Python refuses to read very long numbers
_LINE_BREAK: Final = re.compile(rb"\r\n|\r|\n")


def encode_event(
    data: str | bytes,
    *,
    id: str | None = None,  # noqa: A002 - the name that the format gives the field
    event: str | None = None,
    retry_milliseconds: int | None = None,
) -> bytes:
    """Write one event, its ending blank line included.

    ``data`` is UTF-8 if it is bytes. It may hold line breaks of any kind; a reader gets each of
    them as LF. ``id`` sets the reader's last event id (an empty one clears it), ``event`` names
    the type, and ``retry_milliseconds`` tells how long to wait before connecting again.

    Raises ValueError if ``id`` or ``event`` holds a line break, ``id`` a NUL, or
    ``retry_milliseconds`` is negative.
    """
    if isinstance(data, str):
        data = data.encode()
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    if id is None and event is None and retry_milliseconds is None:
        return b"data: %b\n\n" % data
    return b"%bdata: %b\n\n" % (_encode_fields(id, event, retry_milliseconds), data)


def encode_retry(milliseconds: int) -> bytes:
    """Write how long a reader should wait before it connects again, which is no event by itself.

    Raises ValueError if ``milliseconds`` is negative.
    """
    return _encode_fields(None, None, milliseconds) + b"\n"


def _encode_fields(
    event_id: str | None, event: str | None, retry_milliseconds: int | None
) -> bytes:
    fields = b""
    if event_id is not None:
        if "\0" in event_id:
            raise ValueError("an event id cannot hold a NUL")
        fields += b"id: %b\n" % _encode_line(event_id)
    if event is not None:
        fields += b"event: %b\n" % _encode_line(event)
    if retry_milliseconds is not None:
        if retry_milliseconds < 0:
            raise ValueError("retry_milliseconds must be 0 or more")
        fields += b"retry: %d\n" % retry_milliseconds
    return fields


def _encode_line(value: str) -> bytes:
    if "\n" in value or "\r" in value:
        raise ValueError("an event id or type cannot hold a line break")
    return value.encode()


@dataclass(frozen=True, slots=True)
class Event:
    """One event as a reader gets it."""

    data: str
    event: str = "message"  # the type
    id: str = ""  # the last event id when it came: its own, or that of an earlier event


class EventParser:
    """Turns the bytes of one stream into events, however they are cut.

    ``last_event_id`` is the id to resume from; give a new parser that of the old one when
    connecting again. ``retry_milliseconds`` is the waiting time the stream last asked for.

    One line, or the data of one event with the line being read, may take ``max_event_bytes``;
    that also bounds what is buffered. An event that the stream ends in the middle of is lost, as
    the standard has it.
    """

    def __init__(self, last_event_id: str = "", max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.last_event_id = last_event_id
        self.retry_milliseconds: int | None = None
        self._max_event_bytes = max_event_bytes
        self._partial = bytearray()  # of the line that is not complete
        self._at_start = True
        self._after_carriage_return = False  # so that an LF now is part of the same line break
        self._data = bytearray()  # each data line of the event so far, with an LF
        self._event = ""
        self._event_id = last_event_id
        self._too_large = False

    def receive_data(self, data: bytes) -> list[Event]:
        """Take in what arrived and return the events that are now complete.

        Raises TooLarge when the limit is passed, and ever after; if the same call completed
        events before that, it returns those and the next call raises.
        """
        events: list[Event] = []
        if not self._too_large:
            self._receive(data, events)
        if self._too_large and not events:
            raise TooLarge(f"an event of the stream is over {self._max_event_bytes} bytes")
        return events

    def _receive(self, data: bytes, events: list[Event]) -> None:
        if self._after_carriage_return and data:
            data = data.removeprefix(b"\n")
            self._after_carriage_return = False
        if not data:
            return
        self._after_carriage_return = data.endswith(b"\r")
        *line_ends, unfinished = _LINE_BREAK.split(data)
        for line_end in line_ends:
            if not self._keep(line_end):
                return
            line = bytes(self._partial)
            self._partial.clear()
            self._receive_line(line, events)
        self._keep(unfinished)

    def _keep(self, part: bytes) -> bool:
        """Buffer the next part of a line, and return whether there was room for it."""
        if len(self._partial) + len(part) + len(self._data) > self._max_event_bytes:
            self._too_large = True
            self._partial.clear()
            self._data.clear()
            return False
        self._partial += part
        return True

    def _receive_line(self, line: bytes, events: list[Event]) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            self._dispatch(events)
            return
        # A comment is a field whose name is empty, and is passed over like any unknown field.
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data += value
            self._data += b"\n"
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._event_id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
            self.retry_milliseconds = int(value)

    def _dispatch(self, events: list[Event]) -> None:
        # An id counts from the end of its event on, even of one that has no data.
        self.last_event_id = self._event_id
        if self._data:
            text = self._data[:-1].decode("utf-8", "replace")
            events.append(Event(text, self._event or "message", self._event_id))
            self._data.clear()
        self._event = ""
