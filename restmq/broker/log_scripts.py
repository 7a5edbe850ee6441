"""The Lua scripts of logs: each is called here, its arguments bound by name.

Every script of a log receives the keys of that one log, which share a hash tag.
"""

from collections.abc import Sequence

from restmq.broker.keys import log_channel
from restmq.broker.log_entry import EntryKey, Log, Query
from restmq.broker.log_ids import IdKind
from restmq.broker.scripts import Argument, Call, Script, load_script

_SHARED = ("log_common",)
_READING = (*_SHARED, "log_reading")

AHEAD = 1
"""What ``log_put.lua`` replies when an id lies too far in the future."""

_BYTES = [bytes((value,)) for value in range(256)]


class LogScripts:
    """All scripts for logs."""

    def __init__(self) -> None:
        self.clock_seconds: float | None = None
        """Set by tests: the time that scripts believe in, instead of Redis's own clock."""
        self._append = load_script("log_append", *_SHARED)
        self._put = load_script("log_put", *_SHARED)
        self._read = load_script("log_read", *_READING)
        self._get = load_script("log_get", *_SHARED)
        self._remove = load_script("log_remove", *_SHARED)
        self._discard = load_script("log_discard", *_SHARED)
        self._count = load_script("log_count", *_SHARED)
        self._locate = load_script("log_locate", *_SHARED)
        self._attributes = load_script("log_attributes", *_SHARED)
        self._delete = load_script("log_delete", *_SHARED)
        self._visit = load_script("log_visit", *_SHARED)
        self._begin = load_script("log_begin", *_SHARED)
        self._cursor_set = load_script("log_cursor_set", *_SHARED)
        self._cursor_read = load_script("log_cursor_read", *_READING)
        self._cursor_remove = load_script("log_cursor_remove", *_SHARED)

    def all(self) -> list[Script]:
        """Return every script, for loading them into Redis."""
        return [value for value in vars(self).values() if isinstance(value, Script)]

    def _call(self, script: Script, log: Log, *own: Argument) -> Call:
        clock = "" if self.clock_seconds is None else repr(self.clock_seconds)
        channel = log_channel(log.collection, log.name)
        return Call(script, (*log.head, clock, channel, log.ids.value, *own))

    def append(
        self, log: Log, entries: Sequence[Argument], suffix: bytes, expected: bytes | None
    ) -> Call:
        """Append entries, as the words of ``append_words``.

        ``suffix``: the second half of the ids, in a log of times. ``expected``: the attributes
        that the log must have, if any.
        """
        own = suffix if log.ids is IdKind.TIME else b""
        return self._call(self._append, log, *_expected(expected), own, *entries)

    def put(
        self,
        log: Log,
        keys: Sequence[EntryKey],
        packed: bytes,
        ttl_seconds: float | None,
        expected: bytes | None,
        max_ahead_seconds: float | None = None,
    ) -> Call:
        """Store one packed entry under each of the keys; ``expected`` as for ``append``.

        The reply is ``AHEAD`` if an id is further ahead of the clock than it may be.
        """
        limits = _seconds(ttl_seconds), _seconds(max_ahead_seconds)
        return self._call(self._put, log, *_expected(expected), *limits, packed, *_fields(keys))

    def read(self, log: Log, query: Query) -> Call:
        """Read what the query asks for."""
        return self._call(
            self._read,
            log,
            query.scope.value,
            _BYTES[query.partition],
            query.path,
            query.start or b"",
            _flag(query.inclusive),
            _flag(query.newest_first),
            query.limit,
            query.max_bytes,
            query.without_source,
        )

    def get(self, log: Log, keys: Sequence[EntryKey], max_bytes: int) -> Call:
        """Read entries by their keys."""
        return self._call(self._get, log, max_bytes, *_fields(keys))

    def remove(self, log: Log, keys: Sequence[EntryKey]) -> Call:
        """Remove entries by their keys, each given once."""
        return self._call(self._remove, log, *_fields(keys))

    def discard(self, log: Log, partition: int, through: bytes | None, max_count: int) -> Call:
        """Remove the oldest entries of a partition, up to that id (None: all)."""
        return self._call(self._discard, log, _BYTES[partition], through or b"", max_count)

    def count(self, log: Log, partitions: Sequence[int], max_cleared: int) -> Call:
        """Count the entries of each of the partitions."""
        return self._call(
            self._count, log, max_cleared, *[_BYTES[partition] for partition in partitions]
        )

    def locate(self, log: Log, partition: int, offset: int, max_cleared: int) -> Call:
        """Find an entry by its offset from the oldest, or if that is negative from the newest."""
        return self._call(self._locate, log, max_cleared, _BYTES[partition], offset)

    def set_attributes(self, log: Log, attributes: bytes, expected: bytes | None) -> Call:
        """Replace the attributes that the caller knows; None: it knows that there are none."""
        return self._call(self._attributes, log, *_expected(expected), attributes)

    def delete(self, log: Log) -> Call:
        """Delete the log, and the cursors in it."""
        return self._call(self._delete, log)

    def visit(self, log: Log, max_cleared: int) -> Call:
        """Clear what has expired."""
        return self._call(self._visit, log, max_cleared)

    def begin(self, log: Log, last_number: int) -> Call:
        """Have a log of numbers go on after one, unless it has come further already."""
        return self._call(self._begin, log, last_number)

    def set_cursor(self, log: Log, client: str, start: str | int) -> Call:
        """Give a client a cursor, or move it: where a word says, or to a number."""
        return self._call(self._cursor_set, log, client, start)

    def read_cursor(
        self, log: Log, client: str, count: int, max_bytes: int, kept_count: int
    ) -> Call:
        """Read beyond a client's cursor, and move it there."""
        return self._call(self._cursor_read, log, client, count, max_bytes, kept_count)

    def remove_cursor(self, log: Log, client: str, max_discarded: int) -> Call:
        """Take a client's cursor away, and what nobody is left to read."""
        return self._call(self._cursor_remove, log, client, max_discarded)


def append_words(
    partition: int, ttl_seconds: float | None, packed: Sequence[bytes]
) -> list[Argument]:
    """Return the words by which ``log_append.lua`` is told of entries that share all but these."""
    return [_seconds(ttl_seconds), _BYTES[partition], len(packed), *packed]


def _seconds(value: float | None) -> Argument:
    return "" if value is None else value


def _flag(value: bool) -> str:
    return "1" if value else ""


def _expected(attributes: bytes | None) -> tuple[str, bytes]:
    return _flag(attributes is not None), attributes or b""


def _fields(keys: Sequence[EntryKey]) -> list[bytes]:
    return [_BYTES[key.partition] + key.id for key in keys]
