"""The log engine: ordered, retained sets of entries that are read by position, never consumed.

One engine serves three kinds of users, and has few concepts:

    log         entries in the order of their ids; lies in one slot of a Redis Cluster
    id          8 or 16 bytes, a number or a UUID of version 1 (``log_ids.py``)
    partition   0 to 255: a log may be divided; an id belongs to one partition, and so does a read
    path        where an entry belongs, ``/a/b``: a read may ask for a path, its ancestors, or all
                below it, and gets them in the order of their ids
    position    an id, be there such an entry or not; a read begins there, either way
    cursor      a client's position, kept in the log (``cursors.py``)

How they are used:

    Queuey      a queue is one log of times, with the queue's partitions as its own and the queue's
                metadata as its attributes; so one call stores a batch for several partitions, all
                or nothing, and deleting a queue is one step. A PUT stores under any id.
    RSE         all events of all channels are in one log of numbers, a channel is a path. One place
                gives the numbers and makes the events visible in the same step, whatever the number
                of nodes, so nobody can miss one. The price: in a Redis Cluster, RSE as a whole
                lives on one node. An event with n segments is listed n + 1 times, so that reading a
                path, or all below it, costs the same with one channel as with 100,000.
    rivulet     a channel is one log of numbers with cursors in it.

How it is stored (``lua/log_common.lua`` has the details): a hash of records, and one sorted set in
byte order, since neither 128 bits nor times of UUIDs fit a float score, and a Redis stream takes
nothing older than its newest. The set has sections: all entries, entries by path, and what expires
when. The last are runs of entries that were appended together to expire together, so a batch costs
one member and not one for each. Two keys a log, in Redis's compact form while all is small. With
its places in registry and schedule, a queue with attributes and one message of 100 bytes takes
1,180 bytes (measured with 200,000 of them), and one of 10 bytes 830.

Ids are given inside the script, so whatever the nodes' clocks say: numbers follow the last one, and
times are Redis's own or, if that has stepped back, follow the last one as well. What expires is
invisible from that moment, and leaves Redis by itself soon after.

Everything is bounded: pages by count and bytes, calls by the entries that they clear or discard.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter

from restmq.broker.commit import Committer
from restmq.broker.keys import log_keys
from restmq.broker.log_entry import (
    MAX_PAGE_BYTES,
    AheadOfClock,
    Appended,
    Entry,
    EntryKey,
    Log,
    LogInfo,
    NewEntry,
    Page,
    Query,
    check_keys,
    check_partition,
    check_query,
    check_ttl,
    other_attributes,
    pack_entry,
)
from restmq.broker.log_expiry import MAX_CLEARED, LogExpiry
from restmq.broker.log_groups import AppendGroup, ReadGroup
from restmq.broker.log_ids import MAX_NUMBER, IdKind, number_of_id
from restmq.broker.log_listing import LogListing, Registration
from restmq.broker.log_scripts import AHEAD, LogScripts, append_words
from restmq.broker.schedule import Schedule
from restmq.broker.scripts import Argument, Reply, command
from restmq.errors import InvalidInput

MAX_ENTRIES = 10_000
"""Entries that one operation may append."""


_partition_and_ttl = attrgetter("partition", "ttl_seconds")


class Logs:
    """All logs, as one node sees them.

    Every method may raise ``Unavailable``, and ``InvalidInput`` for what cannot be stored or asked.
    """

    def __init__(self, committer: Committer, scripts: LogScripts, schedule: Schedule) -> None:
        self._committer = committer
        self._scripts = scripts
        self._loop = asyncio.get_running_loop()
        self._listing = LogListing(committer)
        self._expiry = LogExpiry(committer, scripts, schedule)

    def append(
        self, log: Log, entry: NewEntry, *, expected: bytes | None = None
    ) -> asyncio.Future[Appended]:
        """Append one entry; the future gives its id. See ``append_all``."""
        value, ttl_seconds, partition, source, path = entry
        check_ttl(ttl_seconds)
        check_partition(partition)
        packed = pack_entry(value, source, path)
        group = self._group(log, expected, (ttl_seconds,), len(packed))
        future: asyncio.Future[Appended] = self._loop.create_future()
        group.append(append_words(partition, ttl_seconds, (packed,)), future)
        return future

    def append_all(
        self, log: Log, entries: Sequence[NewEntry], *, expected: bytes | None = None
    ) -> asyncio.Future[list[Appended]]:
        """Append up to 10,000 entries, all or none; the future gives their ids, in their order.

        All appends to one log that arrive in one round trip are one call. ``expected``: the log
        must have these attributes, else nothing is stored and the future raises ``NotFound`` if it
        has none, and ``OtherAttributes``, which tells them, if it has others. Without, the log
        comes into being if need be.
        """
        if len(entries) > MAX_ENTRIES:
            raise InvalidInput(f"at most {MAX_ENTRIES} entries can be appended at once")
        words: list[Argument] = []
        size_bytes, ttls = 0, set[float | None]()
        for (partition, ttl_seconds), run in groupby(entries, _partition_and_ttl):
            check_ttl(ttl_seconds)
            check_partition(partition)
            packed = [pack_entry(value, source, path) for value, _, _, source, path in run]
            words += append_words(partition, ttl_seconds, packed)
            size_bytes += sum(map(len, packed))
            ttls.add(ttl_seconds)
        future: asyncio.Future[list[Appended]] = self._loop.create_future()
        if not entries:
            future.set_result([])
            return future
        group = self._group(log, expected, ttls, size_bytes)
        group.append_all(words, len(entries), future)
        return future

    def _group(
        self, log: Log, expected: bytes | None, ttls: Iterable[float | None], size_bytes: int
    ) -> AppendGroup:
        """Return the call that takes what is appended now, after what must go before it."""
        for ttl_seconds in ttls:
            self._expiry.note(log, ttl_seconds)
        group = self._committer.group(
            (log.key, expected),
            AppendGroup,
            size_bytes,
            self._scripts,
            log,
            expected,
            self.register,
        )
        if expected is None and group.registration is None and not self._listing.is_known(log):
            group.registration = self.register(log)
        return group

    async def put(
        self,
        log: Log,
        keys: Sequence[EntryKey],
        value: bytes,
        *,
        ttl_seconds: float | None = None,
        source: bytes = b"",
        path: bytes = b"",
        expected: bytes | None = None,
        max_ahead_seconds: float | None = None,
    ) -> None:
        """Store one value under each of the keys, in place of what is there, or as a new entry.

        Its time to live counts from now. ``expected``: as in ``append_all``. In a log of times,
        ``max_ahead_seconds`` is how far an id may lie beyond Redis's clock and the last id given:
        what is appended before that time comes would lie before it, where nobody who follows the
        log looks again. Raises ``AheadOfClock`` beyond that, and then nothing is stored.
        """
        check_ttl(ttl_seconds)
        check_keys(log, keys)
        packed = pack_entry(value, source, path)
        if not keys:
            return
        self._expiry.note(log, ttl_seconds)
        call = self._scripts.put(
            log, _unique(keys), packed, ttl_seconds, expected, max_ahead_seconds
        )
        operations = [self._committer.submit(call)]
        if expected is None:
            operations.append(self.register(log))
        other = (await asyncio.gather(*operations))[0]
        if other == AHEAD:
            raise AheadOfClock(f"an id may be at most {max_ahead_seconds:g} s ahead of the clock")
        if other is not None:
            raise other_attributes(log, other)
        if expected is None:
            await self.register(log)  # a deletion may have come between

    async def read(self, log: Log, query: Query) -> Page:
        """Read one page. It is not complete as long as there may be more to read at once."""
        page = await self.read_once(log, query)
        if page.is_complete or len(page.entries) == query.limit:
            return page
        entries, size_bytes = page.entries, _size(page.entries)
        # A call looks at so many entries; those that are left out or have expired may be more.
        while not page.is_complete and len(entries) < query.limit and size_bytes < query.max_bytes:
            query_rest = query._replace(
                start=page.position,
                inclusive=False,
                limit=query.limit - len(entries),
                max_bytes=query.max_bytes - size_bytes,
            )
            page = await self.read_once(log, query_rest)
            entries = entries + page.entries
            size_bytes += _size(page.entries)
        return page._replace(entries=entries)

    def read_once(self, log: Log, query: Query) -> asyncio.Future[Page]:
        """Read with one call: the page may be incomplete though it holds less than it may."""
        check_query(log, query)
        group = self._committer.group((log.key, query), ReadGroup, 0, self._scripts, log, query)
        future: asyncio.Future[Page] = self._loop.create_future()
        group.append(future)
        return future

    async def get(self, log: Log, keys: Sequence[EntryKey]) -> list[Entry | None]:
        """Read up to 1,000 entries by their keys, in the order asked for; None: not there."""
        check_keys(log, keys)
        found: list[Entry | None] = []
        while len(found) < len(keys):
            rest = keys[len(found) :]
            records = await self._committer.submit(self._scripts.get(log, rest, MAX_PAGE_BYTES))
            found += [
                None if record is None else Entry(key.partition, key.id, record)
                for key, record in zip(rest, records, strict=False)
            ]
        return found

    async def remove(self, log: Log, keys: Sequence[EntryKey]) -> int:
        """Remove up to 1,000 entries by their keys; returns how many there were."""
        check_keys(log, keys)
        if not keys:
            return 0
        removed: int = await self._committer.submit(self._scripts.remove(log, _unique(keys)))
        return removed

    async def discard(self, log: Log, through: bytes | None, partition: int = 0) -> int:
        """Remove the oldest entries of a partition, up to and including an id (None: all).

        Returns how many went. It takes as many steps as it needs; others work in between.
        """
        check_partition(partition)
        discarded, has_more = 0, True
        while has_more:
            call = self._scripts.discard(log, partition, through, MAX_CLEARED)
            count, has_more = await self._committer.submit(call)
            discarded += count
        return discarded

    async def count(self, log: Log, partitions: Sequence[int] = (0,)) -> list[int]:
        """Count the entries of each of the partitions, expired ones not among them."""
        for partition in partitions:
            check_partition(partition)

        def ask() -> Awaitable[Reply]:
            return self._committer.submit(self._scripts.count(log, partitions, MAX_CLEARED))

        return list(await _until_cleared(ask))

    async def id_at_offset(self, log: Log, offset: int, partition: int = 0) -> bytes | None:
        """Return the id of the entry at an offset from the oldest (0), or the newest (-1)."""
        check_partition(partition)

        def ask() -> Awaitable[Reply]:
            call = self._scripts.locate(log, partition, offset, MAX_CLEARED)
            return self._committer.submit(call)

        return (await _until_cleared(ask))[0] or None

    async def last_number(self, log: Log) -> int:
        """Return the last number given in a log that counts, be it still there or not; 0: none."""
        keys = log_keys(log.collection, log.name)
        last = await self._committer.submit(command("HGET", keys.entries, "last"))
        return number_of_id(last[:8]) if last else 0

    async def begin_at(self, log: Log, number: int) -> None:
        """Have a log that counts give no number below this one from now on.

        Raises ``InvalidInput`` for what is no number, or a log that tells the time.
        """
        if log.ids is not IdKind.NUMBER or not 1 <= number <= MAX_NUMBER:
            raise InvalidInput(f"a log that counts can begin with 1 to {MAX_NUMBER}")
        if number > 1:
            await self._committer.submit(self._scripts.begin(log, number - 1))

    async def info(self, log: Log) -> LogInfo | None:
        """Return what the log was given beside its entries; None if it was given nothing."""
        keys = log_keys(log.collection, log.name)
        return _info(await self._committer.submit(command("HGET", keys.entries, "attributes")))

    async def set_attributes(
        self, log: Log, attributes: bytes, expected: bytes | None
    ) -> LogInfo | None:
        """Give the log attributes in place of those expected (None: it has none, and may be new).

        Returns what it has now; None if it had others than expected, and then nothing was changed.
        """
        call = self._scripts.set_attributes(log, attributes, expected)
        if expected is not None:
            return _info(await self._committer.submit(call))
        # Before, so that every log is listed; after, because a deletion may come between.
        _, reply = await asyncio.gather(self.register(log), self._committer.submit(call))
        if reply is not None:
            await self.register(log)
        return _info(reply)

    async def delete(self, log: Log) -> bool:
        """Delete the log with all that is in it; returns whether there was anything.

        A log that counts goes on with its numbers if it comes into being again.
        """
        # In this order: whoever finds the log empty after this lists it again.
        await self._listing.remove(log)
        return bool(await self._committer.submit(self._scripts.delete(log)))

    async def names(
        self, collection: str, start: str = "", *, inclusive: bool = False, limit: int = 1000
    ) -> list[str]:
        """Return up to ``limit`` names of a collection's logs in byte order, from ``start`` on.

        A log that is being made or deleted may be among them already, or still.
        """
        return await self._listing.names(collection, start, inclusive, limit)

    def register(self, log: Log) -> Registration:
        """See to it that the log is listed, and remember that it is; the future ends with that."""
        return self._listing.register(log)


async def _until_cleared(ask: Callable[[], Awaitable[Reply]]) -> Reply:
    """Ask until no expired entries are in the way, and return the answer."""
    has_expired, *answer = await ask()
    while has_expired:
        has_expired, *answer = await ask()
    return answer


def _info(reply: bytes | None) -> LogInfo | None:
    return None if reply is None else LogInfo.of(reply)


def _size(entries: Sequence[Entry]) -> int:
    return sum(len(entry.record) for entry in entries)


def _unique(keys: Sequence[EntryKey]) -> list[EntryKey]:
    return list(dict.fromkeys(keys))
