"""A message, and the form in which it is stored.

Record format, as it lies in Redis (``lua/common.lua`` writes and reads the first two fields)::

    bytes 0-7    published: seconds since the epoch on Redis's clock, big-endian double
    bytes 8-15   expires: the same, 0 for never
    bytes 16-17  length of the attributes, big-endian unsigned
    then         the attributes, a MessagePack map; absent when the length is 0
    then         the value, byte for byte as it was published

To change the format: new attributes go into the map; anything else needs a new key name, since
old records stay readable for as long as their queue is not empty.
"""

import struct
from collections.abc import Sequence

import msgspec

_HEAD = struct.Struct(">ddH")
_ATTRIBUTES_LENGTH = struct.Struct(">H")
_HISTORY_HEAD = struct.Struct(">dd")
_PLAIN = _ATTRIBUTES_LENGTH.pack(0)


class Attributes(msgspec.Struct, omit_defaults=True, frozen=True):
    """What a publisher said about a message beside its value."""

    content_type: str | None = msgspec.field(default=None, name="t")
    """The media type of a raw body; None for the classic forms, whose value is text."""


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
    def value(self) -> bytes:
        """The value, byte for byte as it was published."""
        length: int = _HEAD.unpack_from(self.record)[2]
        return self.record[_HEAD.size + length :]

    @property
    def attributes(self) -> Attributes:
        """What the publisher said beside the value."""
        length: int = _HEAD.unpack_from(self.record)[2]
        if not length:
            return _DEFAULT_ATTRIBUTES
        return _decode_attributes(self.record[_HEAD.size : _HEAD.size + length])

    def __repr__(self) -> str:
        return f"<Message {self.number}, {len(self.record)} bytes>"


def pack(value: bytes, content_type: str | None = None) -> bytes:
    """Pack what a publisher sent; the store puts the two times in front."""
    if content_type is None:
        return _PLAIN + value
    attributes = _encode_attributes(Attributes(content_type=content_type))
    return _ATTRIBUTES_LENGTH.pack(len(attributes)) + attributes + value


def messages_from_pairs(pairs: Sequence[int | bytes]) -> list[Message]:
    """Read a reply of scripts: number, record, number, record, and so on."""
    numbers, records = pairs[::2], pairs[1::2]
    return [Message(int(n), bytes(r)) for n, r in zip(numbers, records, strict=True)]


def messages_from_history(entries: Sequence[bytes]) -> list[Message]:
    """Read entries of a history: the number and the time sent as doubles, then the record."""
    size, unpack = _HISTORY_HEAD.size, _HISTORY_HEAD.unpack_from
    return [Message(int(unpack(entry)[0]), entry[size:]) for entry in entries]
