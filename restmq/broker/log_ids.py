"""The ids of a log's entries: bytes that sort in the order of the entries.

A log counts its entries or tells their time, by its ``IdKind``:

    NUMBER   1, 2, 3 ... as 8 big-endian bytes; below 2^53, so that every client can hold one
    TIME     a UUID version 1 (RFC 4122), whose 16 bytes are put in another order: the time first
             (100 ns since 1582-10-15, 8 big-endian bytes), then clock sequence and node. So they
             sort by time, and at the same time as the UUIDs themselves do.
"""

import enum
import struct
import uuid

from restmq.errors import InvalidInput

NUMBER_BYTES = 8
TIME_BYTES = 16

MAX_NUMBER = 2**53 - 1

_EPOCH_TICKS = 0x01B21DD213814000
"""Ticks of 100 ns from 1582-10-15, where the times of UUIDs begin, to 1970-01-01."""

_MAX_TICKS = 2**60 - 1
_HEX_DIGITS = 32
_pack_number = struct.Struct(">Q").pack


class IdKind(enum.Enum):
    """How a log names its entries; the value is the length of an id in bytes."""

    NUMBER = NUMBER_BYTES
    TIME = TIME_BYTES


def id_of_number(number: int) -> bytes:
    """Return the id of that number: 0 to 2^53 - 1, where 0 is before the first entry."""
    return _pack_number(number)


def number_of_id(entry_id: bytes) -> int:
    """Return the number that an id of ``NUMBER_BYTES`` stands for."""
    return int.from_bytes(entry_id, "big")


def id_of_hex(text: str) -> bytes:
    """Return the id of a UUID version 1, given as 32 hexadecimal digits of any case.

    Raises ``InvalidInput`` for anything else.
    """
    if len(text) != _HEX_DIGITS or not text.isalnum() or not text.isascii():
        raise InvalidInput("a message id has 32 hexadecimal digits")
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raise InvalidInput("a message id has 32 hexadecimal digits") from None
    if raw[6] >> 4 != 1 or raw[8] >> 6 != 0b10:
        raise InvalidInput("a message id is a UUID of version 1")
    return bytes((raw[6] & 0x0F, raw[7])) + raw[4:6] + raw[:4] + raw[8:]


def hex_of_id(entry_id: bytes) -> str:
    """Return the UUID of an id of ``TIME_BYTES`` as 32 lower-case hexadecimal digits."""
    digits = entry_id.hex()
    # A UUID begins with the lowest part of its time; the first digit is left for the version.
    return f"{digits[8:16]}{digits[4:8]}1{digits[1:4]}{digits[16:]}"


def ticks_of_id(entry_id: bytes) -> int:
    """Return the time of an id of ``TIME_BYTES`` in ticks of 100 ns since 1970, maybe negative."""
    return int.from_bytes(entry_id[:8], "big") - _EPOCH_TICKS


def first_id_at(ticks: int) -> bytes:
    """Return what no id of this time, in ticks of 100 ns since 1970, or later lies before."""
    return _time_bytes(ticks) + bytes(8)


def last_id_at(ticks: int) -> bytes:
    """Return what no id of this time, in ticks of 100 ns since 1970, or earlier lies after."""
    return _time_bytes(ticks) + b"\xff" * 8


def make_suffix() -> bytes:
    """Return a clock sequence and node, the bytes after the time, as no other UUID has them."""
    random = bytearray(uuid.uuid4().bytes[8:])
    # The last 62 of these bits are random; the bit that no network card has says that they are.
    random[2] |= 0x01
    return bytes(random)


def _time_bytes(ticks: int) -> bytes:
    return _pack_number(min(max(ticks + _EPOCH_TICKS, 0), _MAX_TICKS))
