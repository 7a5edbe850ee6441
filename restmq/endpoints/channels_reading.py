"""How channels are read: at a cursor, which moves, or from a position that the reader keeps."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from restmq.broker.cursors import KEPT_COUNT, Cursors
from restmq.broker.limits import MAX_WAIT_SECONDS
from restmq.broker.log import Logs
from restmq.broker.log_entry import MAX_PAGE_ENTRIES, Entry, Log, Query
from restmq.broker.log_follow import LogWatcher, follow_all, read_waiting
from restmq.broker.log_ids import MAX_NUMBER, id_of_number, number_of_id
from restmq.endpoints.channels_messages import (
    COLLECTION,
    ChannelEvents,
    encode_events,
    envelopes,
    log_of,
)
from restmq.endpoints.log_stream import OPENED, EncodeOnce, LogStreams, last_event_id
from restmq.endpoints.web import Parameters, Reply, Request, json_reply, whole_number

DEFAULT_LIMIT: Final = 512
"""Messages of one channel that one read returns, if it does not say."""

MAX_KEPT_COUNT: Final = 1_000_000_000

Found = dict[str, list[Entry]]
"""What was read, by channel."""


class ChannelReading:
    """Reads channels for those who may."""

    def __init__(
        self, logs: Logs, cursors: Cursors, watcher: LogWatcher, streams: LogStreams
    ) -> None:
        self._logs = logs
        self._cursors = cursors
        self._watcher = watcher
        self._streams = streams
        self._encode_page = EncodeOnce(encode_events)

    async def read(self, log: Log, parameters: Parameters) -> Reply:
        """Read messages after a position, and with ``wait`` wait for them; no cursor moves."""
        limit = parameters.integer(b"limit", 1, MAX_PAGE_ENTRIES) or DEFAULT_LIMIT
        wait_seconds = parameters.integer(b"wait", 0, MAX_WAIT_SECONDS)
        after = parameters.integer(b"after", 0, MAX_NUMBER)
        if after is None and wait_seconds is None:
            after = 0
        if after != 0:  # who waits wants what is new; and nothing is beyond the end
            last = await self._logs.last_number(log)
            after = last if after is None else min(after, last)
        query = Query(limit, start=id_of_number(after))
        reading = read_waiting(self._logs, self._watcher, log, query, wait_seconds or 0)
        page = await self._streams.hold(reading)
        entries = [] if page is None else page.entries
        position = entries[-1].number if entries else after
        return json_reply({"channel": log.name, "messages": envelopes(entries), "after": position})

    async def stream(
        self, request: Request, log: Log, parameters: Parameters
    ) -> web.StreamResponse:
        """Stream messages as events, whose ids are theirs: from ``Last-Event-ID``, else ``after``,
        else only what is new. What is kept no more when its turn comes is announced as a gap.
        """
        after = parameters.integer(b"after", 0, MAX_NUMBER)
        resumed = last_event_id(request, parameters)
        # Asked in any case: if the store is out of reach, the client learns it by the status.
        last = await self._logs.last_number(log)
        if resumed is not None:
            after = whole_number("Last-Event-ID", resumed, 0, MAX_NUMBER)
        start = last if after is None else min(after, last)
        events = ChannelEvents(log.name, start, self._encode_page)
        opened = OPENED
        if after is not None:
            first_id = await self._logs.id_at_offset(log, 0)
            opened += events.skip_to(last + 1 if first_id is None else number_of_id(first_id))
        queries = [Query(MAX_PAGE_ENTRIES, start=id_of_number(events.position))]
        pages = follow_all(self._logs, self._watcher, log, queries)
        return await self._streams.stream(request, pages, events, opened=opened)

    async def read_at_cursors(self, client: str, parameters: Parameters) -> Reply:
        """Read what is new for a client in each of its channels, once."""
        limit = parameters.integer(b"limit", 1, MAX_PAGE_ENTRIES) or DEFAULT_LIMIT
        kept_count = parameters.integer(b"bufsize", 0, MAX_KEPT_COUNT)
        wait_seconds = parameters.integer(b"wait", 0, MAX_WAIT_SECONDS) or 0
        if kept_count is None:
            kept_count = KEPT_COUNT

        def read() -> Awaitable[Found]:
            return self._cursors.read_all(COLLECTION, client, limit, kept_count=kept_count)

        found = await read()
        if not found and wait_seconds:
            found = await self._read_waiting(client, read, wait_seconds)
        return json_reply({name: envelopes(entries) for name, entries in found.items()})

    async def _read_waiting(
        self, client: str, read: Callable[[], Awaitable[Found]], wait_seconds: int
    ) -> Found:
        """Read as soon as there is something in the channels that the client has by now."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        channels = await self._cursors.of_client(COLLECTION, client)
        with self._watcher.watch_all([log_of(channel) for channel in channels]) as watch:
            while True:
                found = await read()
                # Only the waiting is dropped when the node stops: what was read counts as read.
                if found or not await self._streams.hold(watch.wait(deadline - loop.time())):
                    return found
