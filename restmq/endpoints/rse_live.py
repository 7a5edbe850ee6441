"""What RSE has beyond polls: waiting, live streams, and in test mode the list of all events."""

from collections.abc import AsyncGenerator

from aiohttp import web

from restmq.broker.log import Logs
from restmq.broker.log_entry import Page, Query
from restmq.broker.log_follow import LogWatcher, follow_all, read_waiting
from restmq.broker.log_ids import id_of_number
from restmq.endpoints.log_stream import EncodeOnce, LogStreams, last_event_id
from restmq.endpoints.long_reply import send_in_parts
from restmq.endpoints.rse_events import (
    EVENTS,
    Reading,
    encode_list,
    encode_stream,
    integer_of,
    parse_integer,
)
from restmq.endpoints.rse_reader import Reader
from restmq.endpoints.rse_replies import JSON
from restmq.endpoints.web import Parameters, Reply, Request
from restmq.errors import InvalidInput

LIST_EVENTS = 1000
LIST_BYTES = 512 * 1024
"""What one part of the list of all events holds at the most; one event may pass it."""

_LAST_ID = 2**64 - 1


class LiveReading:
    """Reads that take longer than a poll."""

    def __init__(
        self, logs: Logs, watcher: LogWatcher, streams: LogStreams, reader: Reader
    ) -> None:
        self._logs = logs
        self._watcher = watcher
        self._streams = streams
        self._reader = reader
        self._encode = EncodeOnce(encode_stream)

    async def wait(self, reading: Reading, wait_seconds: int) -> None:
        """Wait until there is something to answer, or the time is over."""
        query = reading.query._replace(limit=1, without_source=reading.without_source)
        waiting = read_waiting(self._logs, self._watcher, EVENTS, query, wait_seconds)
        await self._streams.hold(waiting)

    async def stream(
        self, request: Request, reading: Reading, parameters: Parameters
    ) -> web.StreamResponse:
        """Send the events after the last known id, and then what comes, for ever."""
        if reading.newest_first:
            raise InvalidInput("a stream begins with the oldest event; leave out sort")
        query = reading.query
        position = last_event_id(request, parameters)
        if position is not None:
            number = parse_integer("Last-Event-ID", position.encode("utf-8", "surrogateescape"))
            query = query._replace(start=id_of_number(min(max(number, 0), _LAST_ID)))
        await self._logs.read(EVENTS, query._replace(limit=1))  # what may fail, fails here

        def encode(page: Page) -> bytes:
            return self._encode(self._reader.without(page, reading.without_source))

        pages = follow_all(self._logs, self._watcher, EVENTS, [query])
        return await self._streams.stream(request, pages, encode)

    async def list_all(self, request: Request, parameters: Parameters) -> web.StreamResponse:
        """``GET /all`` in test mode: every event of every channel, as a bare array."""
        newest_first = integer_of(parameters, b"sort", 1) == -1
        query = Query(limit=LIST_EVENTS, newest_first=newest_first, max_bytes=LIST_BYTES)
        page = await self._logs.read(EVENTS, query)
        if page.is_complete:
            return Reply(b"[%b]" % encode_list(page), content_type=JSON)
        return await send_in_parts(request, self._list(query, page), JSON)

    async def _list(self, query: Query, page: Page) -> AsyncGenerator[bytes]:
        opening = b"["
        while True:
            if page.entries:
                yield opening + encode_list(page)
                opening = b","
            if page.is_complete:
                break
            page = await self._logs.read(EVENTS, query._replace(start=page.position))
        yield b"]" if opening == b"," else b"[]"
