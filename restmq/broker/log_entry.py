"""What logs hold and what is asked of them: logs by name, entries, queries and pages.

Record format, as it lies in Redis (``lua/log_common.lua`` writes the first two fields, and reads
all but the value)::

    bytes 0-7    published: seconds since the epoch on Redis's clock, big-endian double; what is
                 appended is never published before what was appended earlier
    bytes 8-15   expires: the same, 0 for never
    byte 16      length of the source, then the source
    2 bytes      length of the path, big-endian, then the path
    then         the value, byte for byte

To change the format, give the keys of logs new names: old records stay readable for as long as
their logs are not empty.
"""

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

from restmq.broker.keys import log_keys
from restmq.broker.log_ids import MAX_NUMBER, IdKind, hex_of_id, number_of_id
from restmq.errors import Conflict, InvalidInput, NotFound, RestMQError

MAX_NAME_BYTES = 1024
MAX_SOURCE_BYTES = 255
MAX_PATH_BYTES = 1024
MAX_PATH_SEGMENTS = 32
"""An entry is listed under each ancestor of its path, and a read may look at each of them."""

MAX_PARTITION = 255
MAX_KEYS = 1000
"""Entries that one operation may name."""

MAX_TTL_SECONDS = 10 * 366 * 86400
MAX_PAGE_ENTRIES = 10_000
MAX_PAGE_BYTES = 8 * 1024 * 1024

_TIMES = struct.Struct(">dd")
_DOUBLE = struct.Struct(">d")
_SOURCE_AT = _TIMES.size
_NOTHING_BESIDE = bytes(3)
"""No source and no path."""


class Log:
    """Which log; ``make_log`` checks the names. Logs of a collection can be listed."""

    __slots__ = ("collection", "head", "ids", "key", "name")

    def __init__(self, collection: str, name: str, ids: IdKind) -> None:
        self.collection = collection
        self.name = name
        self.ids = ids
        self.key = f"{ids.name}/{collection}/{name}"
        """What tells it from all others; the schedule knows it by this."""
        keys = log_keys(collection, name)
        self.head = (len(keys), *keys)
        """How every call of a script of this log begins."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Log) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"<Log {self.key}>"


class EntryKey(NamedTuple):
    """Which entry of a log."""

    partition: int
    """0 to 255; the ids of different partitions have nothing to do with each other."""
    id: bytes


class NewEntry(NamedTuple):
    """What is to be appended."""

    value: bytes
    ttl_seconds: float | None = None
    """After so long it is gone; None: it stays."""
    partition: int = 0
    source: bytes = b""
    """Who published it, at most 255 bytes: a read can leave out what one source published."""
    path: bytes = b""
    """Where it belongs, such as ``/a/b``: reads can ask for a path, and what is above or below."""


class Appended(NamedTuple):
    """What became of a new entry."""

    id: bytes
    published: float
    """Seconds since the epoch, on Redis's clock."""


class Entry:
    """An entry as it came out of a log."""

    __slots__ = ("id", "partition", "record")

    def __init__(self, partition: int, entry_id: bytes, record: bytes) -> None:
        self.partition = partition
        self.id = entry_id
        self.record = record

    @property
    def number(self) -> int:
        """The id as a number, in a log that counts."""
        return number_of_id(self.id)

    @property
    def hex(self) -> str:
        """The id as a UUID's 32 digits, in a log that tells the time."""
        return hex_of_id(self.id)

    @property
    def published(self) -> float:
        """When it was stored, in seconds since the epoch on Redis's clock."""
        published: float = _TIMES.unpack_from(self.record)[0]
        return published

    @property
    def expires(self) -> float:
        """When its time is over, in seconds since the epoch on Redis's clock; 0 for never."""
        expires: float = _TIMES.unpack_from(self.record)[1]
        return expires

    @property
    def source(self) -> bytes:
        """Who published it."""
        return self.record[_SOURCE_AT + 1 : self._path_at]

    @property
    def path(self) -> bytes:
        """Where it belongs."""
        return self.record[self._path_at + 2 : self._value_at]

    @property
    def value(self) -> bytes:
        """The value, byte for byte."""
        record = self.record  # the two properties below in one, as everyone who reads asks for it
        at = _SOURCE_AT + 1 + record[_SOURCE_AT]
        return record[at + 2 + (record[at] << 8) + record[at + 1] :]

    @property
    def _path_at(self) -> int:
        return _SOURCE_AT + 1 + self.record[_SOURCE_AT]

    @property
    def _value_at(self) -> int:
        at = self._path_at
        return at + 2 + (self.record[at] << 8) + self.record[at + 1]

    def __repr__(self) -> str:
        return f"<Entry {self.partition}:{self.id.hex()}, {len(self.record)} bytes>"


class Scope(enum.Enum):
    """Which entries of a partition a query is about; the values are those of ``log_read.lua``."""

    PARTITION = "partition"
    EXACT = "exact"
    """Those of one path."""
    PARENTS = "parents"
    """Those of one path and of its ancestors."""
    SUBTREE = "subtree"
    """Those of one path and of all below it."""


class Query(NamedTuple):
    """What to read. Equal queries of one round trip are asked once."""

    limit: int
    """1 to 10,000 entries."""
    start: bytes | None = None
    """The id where reading begins, be there such an entry or not; None: the end of the log."""
    inclusive: bool = False
    """Whether an entry with that very id is read."""
    newest_first: bool = False
    scope: Scope = Scope.PARTITION
    path: bytes = b""
    partition: int = 0
    without_source: bytes = b""
    """Whose entries are left out; they do not count."""
    max_bytes: int = MAX_PAGE_BYTES
    """A page ends when it holds so much; one entry may pass it."""


class Page(NamedTuple):
    """What a query found."""

    entries: list[Entry]
    position: bytes | None
    """The id up to which everything was looked at: go on after it. None: nothing was there."""
    is_complete: bool
    """Whether there was nothing more at this moment."""
    now: float
    """The time on Redis's clock when it was read, to tell the age of entries."""


class LogInfo(NamedTuple):
    """What a log was given beside its entries."""

    created: float
    """When it was given attributes first, in seconds since the epoch on Redis's clock."""
    attributes: bytes

    @staticmethod
    def of(stored: bytes) -> "LogInfo":
        """Read what is stored: the time as a big-endian double, then the attributes."""
        return LogInfo(_DOUBLE.unpack_from(stored)[0], stored[_DOUBLE.size :])


class OtherAttributes(Conflict):
    """The log has other attributes than the caller expected; nothing was stored."""

    def __init__(self, log: Log, info: LogInfo) -> None:
        super().__init__(f"{log.name!r} has been changed since it was looked at")
        self.info = info
        """What it has."""


class AheadOfClock(InvalidInput):
    """An id lies too far in the future; nothing was stored."""


def other_attributes(log: Log, stored: bytes) -> RestMQError:
    """Make the error for attributes that are not as expected; empty: the log has none."""
    if not stored:
        return NotFound(f"there is no {log.name!r}")
    return OtherAttributes(log, LogInfo.of(stored))


def make_log(collection: str, name: str, ids: IdKind) -> Log:
    """Name a log. Raises ``InvalidInput`` for names that are empty, too long, or not text."""
    if not collection or "/" in collection:
        raise InvalidInput("the collection of a log needs a name without a slash")
    for text in (collection, name):
        check_name(text, "log")
    return Log(collection, name, ids)


def check_name(text: str, what: str) -> str:
    """Return the name of a log or client; raises ``InvalidInput`` if it cannot be one."""
    if not text:
        raise InvalidInput(f"the {what} needs a name")
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"the {what}'s name must be valid UTF-8") from None
    if length > MAX_NAME_BYTES:
        raise InvalidInput(
            f"the {what}'s name has {length} bytes; at most {MAX_NAME_BYTES} are allowed"
        )
    return text


def check_path(path: bytes) -> None:
    """Raise ``InvalidInput`` if nothing can be stored under, or read from, this path."""
    if len(path) > MAX_PATH_BYTES or b"\0" in path:
        raise InvalidInput(f"a path has at most {MAX_PATH_BYTES} bytes, none of them zero")
    if path.count(b"/", 1) >= MAX_PATH_SEGMENTS:
        raise InvalidInput(f"a path has at most {MAX_PATH_SEGMENTS} segments")


def check_ttl(ttl_seconds: float | None) -> None:
    """Raise ``InvalidInput`` if no entry can live for so long."""
    if ttl_seconds is not None and not 0 < ttl_seconds <= MAX_TTL_SECONDS:
        raise InvalidInput(f"ttl must be more than 0 and at most {MAX_TTL_SECONDS} seconds")


def check_partition(partition: int) -> None:
    """Raise ``InvalidInput`` if there can be no such partition."""
    if not 0 <= partition <= MAX_PARTITION:
        raise InvalidInput(f"a partition is a number from 0 to {MAX_PARTITION}")


def check_keys(log: Log, keys: Sequence[EntryKey]) -> None:
    """Raise ``InvalidInput`` if these are too many, or cannot be keys of that log."""
    if len(keys) > MAX_KEYS:
        raise InvalidInput(f"at most {MAX_KEYS} entries can be named at once")
    for key in keys:
        check_partition(key.partition)
        _check_id(log, key.id)
        if log.ids is IdKind.NUMBER and not 1 <= number_of_id(key.id) <= MAX_NUMBER:
            raise InvalidInput(f"a number is between 1 and {MAX_NUMBER}")


def _check_id(log: Log, entry_id: bytes) -> None:
    if len(entry_id) != log.ids.value:
        raise InvalidInput(f"an id of this log has {log.ids.value} bytes")


def check_query(log: Log, query: Query) -> None:
    """Raise ``InvalidInput`` if that cannot be asked of that log."""
    check_partition(query.partition)
    if query.start is not None:
        _check_id(log, query.start)
    if len(query.without_source) > MAX_SOURCE_BYTES:
        raise InvalidInput(f"a source has at most {MAX_SOURCE_BYTES} bytes")
    if not 1 <= query.limit <= MAX_PAGE_ENTRIES:
        raise InvalidInput(f"between 1 and {MAX_PAGE_ENTRIES} entries can be read at once")
    if query.scope is not Scope.PARTITION:
        if not query.path:
            raise InvalidInput("reading by path needs a path")
        check_path(query.path)


def pack_entry(value: bytes, source: bytes = b"", path: bytes = b"") -> bytes:
    """Pack what a publisher sent; the store puts the two times in front.

    Raises ``InvalidInput`` if the source or the path is too long.
    """
    if not source and not path:
        return _NOTHING_BESIDE + value
    if len(source) > MAX_SOURCE_BYTES:
        raise InvalidInput(f"a source has at most {MAX_SOURCE_BYTES} bytes")
    check_path(path)
    return b"%c%b%b%b%b" % (len(source), source, len(path).to_bytes(2, "big"), path, value)


def line_of(path: bytes) -> list[bytes]:
    """Return the ancestors of a path, the farthest first, and the path itself."""
    line, slash = [], path.find(b"/", 1)
    while slash >= 0:
        line.append(path[:slash])
        slash = path.find(b"/", slash + 1)
    return [*line, path]
