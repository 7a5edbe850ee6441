"""A message, and the form in which it is stored.

Record format, as it lies in Redis (``lua/common.lua`` writes and reads the first two fields)::

    bytes 0-7    published: seconds since the epoch on Redis's clock, big-endian double
    bytes 8-15   expires: the same, 0 for never
    byte  16     priority, 0 to 9
    bytes 17-18  length of the attributes, big-endian unsigned
    then         the attributes, a MessagePack map; absent when the length is 0
    then         the value, byte for byte as it was published

To change the format: new attributes go into the map; anything else needs a new key name, since
old records stay readable for as long as their queue is not empty.
"""

import struct
from collections.abc import Sequence

import msgspec

from restmq.errors import InvalidInput

_HEAD = struct.Struct(">ddBH")
_PACKED_HEAD = struct.Struct(">BH")
_HISTORY_HEAD = struct.Struct(">dd")

DEFAULT_PRIORITY = 4
MAX_PRIORITY = 9
MAX_CONTENT_TYPE_CHARACTERS = 1024
MAX_ATTRIBUTES_BYTES = 2**16 - 1
"""What the attributes may take, most of which are the headers."""

_PLAIN = _PACKED_HEAD.pack(DEFAULT_PRIORITY, 0)


class Attributes(msgspec.Struct, omit_defaults=True, frozen=True):
    """What a publisher said about a message beside its value."""

    content_type: str | None = msgspec.field(default=None, name="t")
    """The media type of a raw body; None for the classic forms, whose value is text."""
    headers: dict[str, str] | None = msgspec.field(default=None, name="h")
    """What else the publisher said, for the consumer and not for the broker."""


_DEFAULT_ATTRIBUTES = Attributes()
_encode_attributes = msgspec.msgpack.Encoder().encode
_decode_attributes = msgspec.msgpack.Decoder(Attributes).decode


class Message:
    """A message as it came out of the store."""

    __slots__ = ("number", "record")

    def __init__(self, number: int, record: bytes) -> None:
        self.number = number
        self.record = record

    @property
    def published(self) -> float:
        """When it was stored, in seconds since the epoch on Redis's clock."""
        published: float = _HEAD.unpack_from(self.record)[0]
        return published

    @property
    def expires(self) -> float | None:
        """When its time to live ends, on the same clock; None for never."""
        expires: float = _HEAD.unpack_from(self.record)[1]
        return expires or None

    @property
    def priority(self) -> int:
        """How urgent it is, 0 to 9; higher leaves first."""
        return self.record[16]

    @property
    def value(self) -> bytes:
        """The value, byte for byte as it was published."""
        length: int = _HEAD.unpack_from(self.record)[3]
        return self.record[_HEAD.size + length :]

    @property
    def attributes(self) -> Attributes:
        """What the publisher said beside the value."""
        length: int = _HEAD.unpack_from(self.record)[3]
        if not length:
            return _DEFAULT_ATTRIBUTES
        return _decode_attributes(self.record[_HEAD.size : _HEAD.size + length])

    def __repr__(self) -> str:
        return f"<Message {self.number}, {len(self.record)} bytes>"


class LeasedMessage(Message):
    """A message that was handed out for a time."""

    __slots__ = ("attempt", "is_by_default", "lease_expires", "lease_seconds", "token")

    def __init__(
        self,
        number: int,
        record: bytes,
        attempt: int,
        token: str,
        lease_expires: float,
        lease_seconds: float,
        is_by_default: bool = False,
    ) -> None:
        self.number = number  # as the constructor above does; there are many of these
        self.record = record
        self.attempt = attempt
        """How many times it was delivered, this time included."""
        self.token = token
        """Names this delivery; ``receipts.py`` makes a receipt of it."""
        self.lease_expires = lease_expires
        """When the lease ends, in seconds since the epoch on Redis's clock."""
        self.lease_seconds = lease_seconds
        self.is_by_default = is_by_default
        """Whether that is what the consumer brought, since the queue's settings do not say."""


def pack(
    value: bytes,
    content_type: str | None = None,
    priority: int = DEFAULT_PRIORITY,
    headers: dict[str, str] | None = None,
) -> bytes:
    """Pack what a publisher sent; the store puts the two times in front.

    Raises ``InvalidInput`` for a priority out of range, or a content type or headers that are
    too long.
    """
    if content_type is None and priority == DEFAULT_PRIORITY and not headers:
        return _PLAIN + value
    if not 0 <= priority <= MAX_PRIORITY:
        raise InvalidInput(f"priority must be a whole number from 0 to {MAX_PRIORITY}")
    attributes = b""
    if content_type is not None or headers:
        if content_type is not None and len(content_type) > MAX_CONTENT_TYPE_CHARACTERS:
            raise InvalidInput(
                f"the Content-Type may have at most {MAX_CONTENT_TYPE_CHARACTERS} characters"
            )
        attributes = _encode_attributes(Attributes(content_type, headers or None))
        if len(attributes) > MAX_ATTRIBUTES_BYTES:
            raise InvalidInput(
                f"the headers may have at most {MAX_ATTRIBUTES_BYTES} bytes together"
            )
    return _PACKED_HEAD.pack(priority, len(attributes)) + attributes + value


def messages_from_pairs(pairs: Sequence[int | bytes]) -> list[Message]:
    """Read a reply of scripts: number, record, number, record, and so on."""
    numbers, records = pairs[::2], pairs[1::2]
    return [Message(int(n), bytes(r)) for n, r in zip(numbers, records, strict=True)]


def messages_from_history(entries: Sequence[bytes]) -> list[Message]:
    """Read entries of a history: the number and the time sent as doubles, then the record."""
    size, unpack = _HISTORY_HEAD.size, _HISTORY_HEAD.unpack_from
    return [Message(int(unpack(entry)[0]), entry[size:]) for entry in entries]
