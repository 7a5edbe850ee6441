"""Cursors: what each client has read of each log, kept beside the log.

For logs that count. A cursor is the number of the last entry that its client was given, so reading
begins after it; reading moves it on in the same step, and it never goes back but by ``set``. A log
with cursors keeps what somebody has yet to read, and discards what everyone has, but for some.

The cursor in the log is what counts. Beside it each client has a list of the logs in which it has,
or had, one; it lies elsewhere in a Redis Cluster, so a name may be there without a cursor. Never
the reverse: whoever gives a cursor lists the name after that, and whoever takes a name away looks
at the cursor after that, so of two who do so at once the later one sees what the other did.
"""

import asyncio
import bisect
import enum
from collections.abc import Iterable, Sequence

from restmq.broker.commit import Committer
from restmq.broker.keys import log_client, log_keys
from restmq.broker.log import Logs
from restmq.broker.log_entry import (
    MAX_PAGE_BYTES,
    MAX_PAGE_ENTRIES,
    MAX_SOURCE_BYTES,
    Entry,
    Log,
    Page,
    check_name,
    make_log,
)
from restmq.broker.log_expiry import MAX_CLEARED
from restmq.broker.log_groups import page_of
from restmq.broker.log_ids import MAX_NUMBER, IdKind, id_of_number
from restmq.broker.log_scripts import LogScripts
from restmq.broker.scripts import Reply, command
from restmq.errors import InvalidInput

MAX_LOGS_OF_CLIENT = 10_000
"""Logs in which one client may have a cursor."""

MAX_CLIENT_BYTES = MAX_SOURCE_BYTES
"""What a client is known by is also the source of what it writes."""

KEPT_COUNT = 4096
"""Entries that are kept though everyone has read them, if the reader says nothing else."""

_LOGS_AT_ONCE = 64
_BYTES_OF_LOG = 512 * 1024
_BYTES_AT_ONCE = 32 * 1024 * 1024
_NAMES_AT_ONCE = 1000
_MAX_INTERRUPTED = 10_000


class Start(enum.Enum):
    """Where a client begins to read; the values are those of ``log_cursor_set.lua``."""

    EARLIEST = "earliest"
    """Before the oldest entry that is still there."""
    CURRENT = "current"
    """Where its cursor is; without one, as LATEST."""
    LATEST = "latest"
    """After the last entry, so that only what comes later is read."""


class Cursors:
    """The cursors of all clients."""

    def __init__(self, committer: Committer, scripts: LogScripts, logs: Logs) -> None:
        self._committer = committer
        self._scripts = scripts
        self._logs = logs
        self._interrupted: dict[tuple[str, str], str] = {}
        """Of clients whose last reading was cut short: the log after which it goes on."""

    async def set(self, log: Log, client: str, start: Start | int) -> int:
        """Give a client a cursor, or move it; returns the number of the last entry it has read.

        A number says which that is to be, back or ahead; it stops at the last one given. The log
        is listed from then on. Raises ``InvalidInput`` for a bad name or number, and when the
        client has 10,000 others.
        """
        _check(log, client)
        if not isinstance(start, Start) and not 0 <= start <= MAX_NUMBER:
            raise InvalidInput(f"a cursor is a number from 0 to {MAX_NUMBER}")
        word = start.value if isinstance(start, Start) else start
        key = log_client(log.collection, client)
        count, score = await asyncio.gather(
            self._committer.submit(command("ZCARD", key)),
            self._committer.submit(command("ZSCORE", key, log.name)),
        )
        if count >= MAX_LOGS_OF_CLIENT and score is None:
            await self._make_room(log.collection, client)
        # First the lists, so that no cursor is without its entries there.
        _, _, cursor = await asyncio.gather(
            self._committer.submit(command("ZADD", key, 0, log.name)),
            self._logs.register(log),
            self._committer.submit(self._scripts.set_cursor(log, client, word)),
        )
        # Once more: the log may have been deleted, or the cursor removed, in between.
        await asyncio.gather(
            self._committer.submit(command("ZADD", key, 0, log.name)), self._logs.register(log)
        )
        return int(cursor)

    async def _make_room(self, collection: str, client: str) -> None:
        """Take the names of logs that were deleted off a client's list; raises if there are none.

        Costs a look at each of its cursors.
        """
        stale, logs = [], await self._logs_of(collection, client)
        for at in range(0, len(logs), _NAMES_AT_ONCE):
            some = logs[at : at + _NAMES_AT_ONCE]
            places = await self._places(some, client)
            stale += [log for log, place in zip(some, places, strict=True) if place is None]
        if len(logs) - len(stale) >= MAX_LOGS_OF_CLIENT:
            raise InvalidInput(f"a client may have cursors in {MAX_LOGS_OF_CLIENT} logs at most")
        for at in range(0, len(stale), _NAMES_AT_ONCE):
            await self._unlist(stale[at : at + _NAMES_AT_ONCE], client)

    async def _unlist(self, logs: Sequence[Log], client: str) -> None:
        """Take logs of one collection off a client's list, but for those where it has a cursor."""
        key = log_client(logs[0].collection, client)
        await self._committer.submit(command("ZREM", key, *(log.name for log in logs)))
        places = await self._places(logs, client)
        held = [log for log, place in zip(logs, places, strict=True) if place is not None]
        await asyncio.gather(
            *(self._committer.submit(command("ZADD", key, 0, log.name)) for log in held)
        )

    async def _places(self, logs: Iterable[Log], client: str) -> list[bytes | float | None]:
        """Return where the client's cursor is in each of the logs; None: it has none there."""
        calls = [
            command("ZSCORE", log_keys(log.collection, log.name).cursors, client) for log in logs
        ]
        return await asyncio.gather(*(self._committer.submit(call) for call in calls))

    async def read(
        self,
        log: Log,
        client: str,
        count: int,
        *,
        kept_count: int = KEPT_COUNT,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> Page | None:
        """Read up to ``count`` entries beyond a client's cursor and move it there, at most once.

        None if the client has no cursor. What everyone has read is discarded, but for the last
        ``kept_count`` before the cursor that is behind all others. If the reply is lost with the
        connection, or the caller is cancelled, so are these entries for this client.
        """
        _check(log, client)
        reply = await self._submit_read(log, client, count, kept_count, max_bytes)
        return None if reply is None else page_of(0, reply)

    def _submit_read(
        self, log: Log, client: str, count: int, kept_count: int, max_bytes: int
    ) -> asyncio.Future[Reply]:
        if not 1 <= count <= MAX_PAGE_ENTRIES:
            raise InvalidInput(f"between 1 and {MAX_PAGE_ENTRIES} entries can be read at once")
        if kept_count < 0:
            raise InvalidInput("the number of entries that are kept cannot be negative")
        call = self._scripts.read_cursor(log, client, count, max_bytes, kept_count)
        return self._committer.submit(call)

    async def remove(self, log: Log, client: str) -> bool:
        """Take a client's cursor away; returns whether it had one.

        Then all that the others have read is discarded; everything, if there are no others.
        """
        _check(log, client)
        call = self._scripts.remove_cursor(log, client, MAX_CLEARED)
        had_one, has_more, lowest = await self._committer.submit(call)
        if has_more:
            await self._logs.discard(log, id_of_number(lowest))
        await self._unlist([log], client)
        return bool(had_one)

    async def of_client(self, collection: str, client: str) -> dict[str, int]:
        """Return where the client's cursors are, by the name of the log."""
        logs = await self._logs_of(collection, client)
        places = await self._places(logs, client)
        return {
            log.name: int(float(place))
            for log, place in zip(logs, places, strict=True)
            if place is not None
        }

    async def read_all(
        self, collection: str, client: str, count: int, *, kept_count: int = KEPT_COUNT
    ) -> dict[str, list[Entry]]:
        """Read as ``read`` in every log where the client has a cursor; those with nothing are left
        out, and so are some when what was read becomes too much: the next time begins with them.
        """
        found: dict[str, list[Entry]] = {}
        logs = await self._logs_of(collection, client)
        place = (collection, client)
        start = bisect.bisect_right(
            logs, self._interrupted.pop(place, "").encode(), key=lambda log: log.name.encode()
        )
        logs, left_bytes = logs[start:] + logs[:start], _BYTES_AT_ONCE
        for at in range(0, len(logs), _LOGS_AT_ONCE):
            some = logs[at : at + _LOGS_AT_ONCE]
            max_bytes = max(1, min(_BYTES_OF_LOG, left_bytes // len(some)))
            replies = await asyncio.gather(
                *(self._submit_read(log, client, count, kept_count, max_bytes) for log in some)
            )
            for log, reply in zip(some, replies, strict=True):
                page = None if reply is None else page_of(0, reply)
                if page is not None and page.entries:
                    found[log.name] = page.entries
                    left_bytes -= sum(len(entry.record) for entry in page.entries)
            if left_bytes <= 0:
                self._interrupt(place, some[-1].name)
                break
        return found

    def _interrupt(self, place: tuple[str, str], name: str) -> None:
        if len(self._interrupted) >= _MAX_INTERRUPTED:
            self._interrupted.clear()
        self._interrupted[place] = name

    async def of_log(self, log: Log, offset: int = 0, limit: int = 1000) -> list[tuple[str, int]]:
        """Return a page of the clients with a cursor in the log and where it is, lowest first."""
        key = log_keys(log.collection, log.name).cursors
        reply = await self._committer.submit(
            command("ZRANGE", key, offset, offset + limit - 1, "WITHSCORES")
        )
        # Pairs, or one row, by the version of the protocol that the connection speaks.
        is_paired = bool(reply) and isinstance(reply[0], list)
        pairs = reply if is_paired else zip(reply[::2], reply[1::2], strict=True)
        return [(member.decode(), int(float(score))) for member, score in pairs]

    async def count_of_log(self, log: Log) -> int:
        """Count the clients with a cursor in the log."""
        key = log_keys(log.collection, log.name).cursors
        count: int = await self._committer.submit(command("ZCARD", key))
        return count

    async def remove_client(self, collection: str, client: str) -> bool:
        """Take all cursors of a client away; returns whether it had any."""
        logs = await self._logs_of(collection, client)
        return any([await self.remove(log, client) for log in logs])

    async def _logs_of(self, collection: str, client: str) -> list[Log]:
        """Return the logs on the client's list by name, in byte order."""
        check_client(client)
        names = await self._committer.submit(
            command("ZRANGE", log_client(collection, client), 0, -1)
        )
        return [make_log(collection, name.decode(), IdKind.NUMBER) for name in names]


def check_client(client: str) -> str:
    """Return the id of a client; raises ``InvalidInput`` if it cannot be one."""
    length = len(check_name(client, "client").encode())
    if length > MAX_CLIENT_BYTES:
        raise InvalidInput(
            f"a client's id has at most {MAX_CLIENT_BYTES} bytes, and this one has {length}"
        )
    return client


def _check(log: Log, client: str) -> None:
    check_client(client)
    if log.ids is not IdKind.NUMBER:
        raise InvalidInput("only a log that counts has cursors")
