"""How a Queuey queue is read: page by page, waiting for a while, or followed live."""

import asyncio
import functools
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterator,
    Sequence,
)
from contextlib import aclosing
from typing import TypeVar

from aiohttp import web

from restmq.broker.limits import MAX_WAIT_SECONDS
from restmq.broker.log import Logs
from restmq.broker.log_entry import EntryKey, Log, Page, Query
from restmq.broker.log_follow import LogWatcher, follow_all
from restmq.codecs.sse import encode_event
from restmq.endpoints.log_stream import EncodeOnce, LogStreams, last_event_id, wants_events
from restmq.endpoints.queuey_fields import (
    BadField,
    format_resume_point,
    read_is_descending,
    read_limit,
    read_message,
    read_number,
    read_partitions,
    read_resume_point,
    read_since,
)
from restmq.endpoints.queuey_queues import Queue
from restmq.endpoints.queuey_replies import list_reply
from restmq.endpoints.web import Parameters, Request, encode_json
from restmq.errors import RestMQError

READ_AT_ONCE = 8
"""Partitions, or messages named by their ids, that are read in one step."""

READ_BYTES = 512 * 1024
"""What is read of one partition in one step; one message may pass it."""

Item = TypeVar("Item")

Find = Callable[[], Awaitable[Queue]]
"""Finds the queue as it is now; raises when it is gone, or the client may not read it."""


class QueueyReading:
    """Reads messages for those who may."""

    def __init__(self, logs: Logs, watcher: LogWatcher, streams: LogStreams) -> None:
        self._logs = logs
        self._watcher = watcher
        self._streams = streams
        self._encode_shared = EncodeOnce(lambda page: _events(page, {}))

    async def read_by_id(
        self, request: Request, log: Log, keys: Sequence[EntryKey]
    ) -> web.StreamResponse:
        """Answer with the messages of these keys that are there, in the order of the keys."""

        async def parts() -> AsyncGenerator[Sequence[object]]:
            for some in _batched(keys, READ_AT_ONCE):
                found = await self._logs.get(log, some)
                yield [read_message(entry) for entry in found if entry is not None]

        return await list_reply(request, "messages", parts())

    async def read(
        self, request: Request, parameters: Parameters, log: Log, find: Find
    ) -> web.StreamResponse:
        """Answer with what the query asks for, be it a list or a stream."""
        queue = await find()
        queries = _queries(request, parameters)
        if wants_events(request):
            return await self._stream(request, log, queries, find)
        wait = parameters.text(b"wait")
        if wait is not None:
            wait_seconds = read_number("wait", wait, 0, MAX_WAIT_SECONDS)
            await self._streams.hold(self._wait_for_any(log, queries, wait_seconds, find))
            queue = await find()
        existing = [each for each in queries if each.partition <= queue.settings.partitions]
        return await list_reply(request, "messages", self._read(log, existing))

    async def _read(self, log: Log, queries: Sequence[Query]) -> AsyncGenerator[Sequence[object]]:
        """Yield the messages of one query after the other, some at a time."""
        for some in _batched(queries, READ_AT_ONCE):
            pages = await asyncio.gather(*(self._logs.read(log, query) for query in some))
            for query, page in zip(some, pages, strict=True):
                rest, more = query.limit, page
                while True:
                    yield [read_message(entry) for entry in more.entries]
                    rest -= len(more.entries)
                    if more.is_complete or rest <= 0:
                        break
                    query = query._replace(start=more.position, inclusive=False, limit=rest)
                    more = await self._logs.read(log, query)

    async def _wait_for_any(
        self, log: Log, queries: Sequence[Query], wait_seconds: int, find: Find
    ) -> None:
        """Wait until there is something to read, or until the time is over; raises as ``find``."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_seconds
        probes = [query._replace(limit=1) for query in queries]
        with self._watcher.watch(log) as watch:
            while True:
                pages = await asyncio.gather(*(self._logs.read(log, probe) for probe in probes))
                if any(page.entries for page in pages):
                    return
                await find()
                if not await watch.wait(deadline - clock()):
                    return

    async def _stream(
        self, request: Request, log: Log, queries: Sequence[Query], find: Find
    ) -> web.StreamResponse:
        if any(query.newest_first for query in queries):
            raise BadField("order", "A stream is in ascending order")
        if not queries:
            raise BadField("partitions", "A stream needs a partition that a queue can have")
        encode: Callable[[Page], bytes] = self._encode_shared
        if len(queries) > 1:
            resumed = [each for each in queries if each.start is not None and not each.inclusive]
            positions = {each.partition: each.start or b"" for each in resumed}
            encode = functools.partial(_events, positions=positions)
        return await self._streams.stream(request, self._follow(log, queries, find), encode)

    async def _follow(self, log: Log, queries: Sequence[Query], find: Find) -> AsyncGenerator[Page]:
        """Yield what is there and what comes, for as long as the client may read it."""

        async def may_read() -> bool:
            try:
                await find()
            except RestMQError:  # whoever comes back is told why
                return False
            return True

        pages = follow_all(self._logs, self._watcher, log, queries, may_read)
        async with aclosing(pages):
            async for page in pages:
                if not await may_read():
                    return
                yield page


def _queries(request: Request, parameters: Parameters) -> list[Query]:
    """Return what is to be read: one query for each partition that is asked for."""
    is_descending = read_is_descending(parameters.text(b"order"))
    since = read_since(parameters.text(b"since"), is_descending=is_descending)
    resumed = read_resume_point(last_event_id(request, parameters))
    limit = read_limit(parameters.text(b"limit"))
    queries = []
    for partition in read_partitions(parameters.text(b"partitions")):
        position = resumed.get(partition, since)
        queries.append(
            Query(
                limit,
                None if position is None else position.id,
                inclusive=position is not None and position.inclusive,
                newest_first=is_descending,
                partition=partition,
                max_bytes=READ_BYTES,
            )
        )
    return queries


def _events(page: Page, positions: dict[int, bytes]) -> bytes:
    """Encode messages as events; the id of each tells all positions that were reached by then."""
    events = []
    for entry in page.entries:
        positions[entry.partition] = entry.id
        data = encode_json(read_message(entry))
        events.append(encode_event(data, id=format_resume_point(positions)))
    return b"".join(events)


def _batched(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
