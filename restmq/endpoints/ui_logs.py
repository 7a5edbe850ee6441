"""The dashboard's pages of logs: channels with cursors, Queuey's queues, and RSE's events.

They show no more than the protocols themselves would: whoever may look at queues may read channels.
A queue of Queuey that is not public belongs to its application, so here it is only counted; and the
events of RSE are shown in its test mode alone, in which it asks for no token either.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from restmq.api_keys import Resource
from restmq.broker.broker import Broker
from restmq.broker.log_entry import Entry, Log, Page, Query, make_log
from restmq.broker.log_ids import MAX_NUMBER, IdKind, id_of_number, number_of_id
from restmq.endpoints.key_needs import CONSUME
from restmq.endpoints.ui_pages import Pages
from restmq.endpoints.ui_text import Shown, show_bytes, show_number, show_time
from restmq.endpoints.ui_values import ShownValue, show_value
from restmq.endpoints.web import Parameters, Reply, Request, query_parameters
from restmq.errors import InvalidInput, NotFound
from restmq.settings import Settings

CHANNELS = "channels"
"""The collection of rivulet's channels."""

QUEUEY = "queuey:"
"""What the collections of Queuey's applications begin with."""

EVENTS = make_log("rse", "events", IdKind.NUMBER)
"""All events of RSE."""

PAGE_LOGS = 50
PAGE_ENTRIES = 25
PAGE_SUBSCRIBERS = 100
PAGE_BYTES = 1024 * 1024


class QueueyAttributes(msgspec.Struct, array_like=True, frozen=True):
    """What Queuey keeps of a queue, as far as it matters here."""

    partitions: int = 1
    type: str = "user"


class LogRow(NamedTuple):
    """A log in a list."""

    name: str
    messages: Shown
    last: Shown
    """When something was written last; in a channel, the last number."""
    partitions: int = 1


class EntryRow(NamedTuple):
    """An entry of a log."""

    id: str
    published: Shown
    expires: Shown | None
    value: ShownValue
    size: Shown
    source: str
    path: str


class Subscriber(NamedTuple):
    """A client with a cursor in a channel."""

    name: str
    position: Shown
    behind: Shown
    """Messages that it has yet to read."""


_decode_attributes = msgspec.msgpack.Decoder(QueueyAttributes).decode


class LogPages:
    """Shows logs."""

    def __init__(self, broker: Broker, pages: Pages, settings: Settings) -> None:
        self._logs = broker.logs
        self._cursors = broker.cursors
        self._pages = pages
        self._is_rse_open = settings.rse_test_mode
        keys = settings.queuey_application_keys
        self._applications = sorted({pair.partition("=")[0] for pair in keys})

    async def show_all(self, request: Request) -> Reply:
        """Show which logs there are."""
        parameters = query_parameters(request)
        after = parameters.text(b"after") or ""
        names = await self._logs.names(CHANNELS, after, limit=PAGE_LOGS + 1)
        shown = names[:PAGE_LOGS]
        channels = await asyncio.gather(*(self._channel_row(name) for name in shown))
        (events,), last = await asyncio.gather(
            self._logs.count(EVENTS), self._logs.last_number(EVENTS)
        )
        values = {
            "page": "logs",
            "channels": channels,
            "next_after": shown[-1] if len(names) > PAGE_LOGS else None,
            "after": after,
            "applications": self._applications,
            "event_count": show_number(events),
            "last_event": show_number(last),
            "is_rse_open": self._is_rse_open,
        }
        return self._pages.render(request, "logs.html", values)

    async def _channel_row(self, name: str) -> LogRow:
        log = make_log(CHANNELS, name, IdKind.NUMBER)
        (count,), last = await asyncio.gather(self._logs.count(log), self._logs.last_number(log))
        return LogRow(name, show_number(count), show_number(last))

    async def show_channel(self, request: Request, name: str | None) -> Reply:
        """Show a channel: its newest messages, and who has read how far. Raises NotFound."""
        if not name:
            raise InvalidInput("the channel's name is missing")
        _check_key(request, f"/channels/{name}")
        log = make_log(CHANNELS, name, IdKind.NUMBER)
        if await self._logs.names(CHANNELS, name, inclusive=True, limit=1) != [name]:
            raise NotFound("there is no such channel")
        parameters = query_parameters(request)
        (count,), first, last, readers, reader_count = await asyncio.gather(
            self._logs.count(log),
            self._logs.id_at_offset(log, 0),
            self._logs.last_number(log),
            self._cursors.of_log(log, 0, PAGE_SUBSCRIBERS),
            self._cursors.count_of_log(log),
        )
        values: dict[str, object] = {
            "title": "Channel",
            "name": name,
            "facts": [
                ("Messages", show_number(count)),
                ("First", Shown("–" if first is None else f"{number_of_id(first):,}")),
                ("Last", Shown(f"{last:,}")),
                ("Subscribers", show_number(reader_count)),
            ],
            "subscribers": [
                Subscriber(client, Shown(f"{at:,}"), show_number(max(last - at, 0)))
                for client, at in readers
            ],
            "more_subscribers": reader_count - len(readers),
        }
        return await self._show_counted(request, log, parameters, values)

    async def show_events(self, request: Request) -> Reply:
        """Show the newest events of RSE. Raises NotFound unless it is in test mode."""
        if not self._is_rse_open:
            raise NotFound("RSE's events are for those with a token")
        _check_key(request, "/rse/", is_whole=True)
        (count,), last = await asyncio.gather(
            self._logs.count(EVENTS), self._logs.last_number(EVENTS)
        )
        values: dict[str, object] = {
            "title": "Events of RSE",
            "name": "",
            "facts": [("Events", show_number(count)), ("Last", Shown(f"{last:,}"))],
            "subscribers": None,
            "more_subscribers": 0,
        }
        return await self._show_counted(request, EVENTS, query_parameters(request), values)

    async def _show_counted(
        self, request: Request, log: Log, parameters: Parameters, values: dict[str, object]
    ) -> Reply:
        """Show a page of entries of a log of numbers, newest first."""
        before = parameters.integer(b"before", 1, MAX_NUMBER)
        start = None if before is None else id_of_number(before)
        page = await self._logs.read(log, _newest(start))
        rows = [
            _entry_row(str(entry.number), entry, is_event=log is EVENTS) for entry in page.entries
        ]
        older = None if page.is_complete or not page.entries else page.entries[-1].number
        values |= {"page": "logs", "rows": rows, "older": older, "before": before}
        return self._pages.render(request, "log.html", values)

    async def show_application(self, request: Request, application: str | None) -> Reply:
        """Show the public queues of an application of Queuey, and count the others."""
        if application not in self._applications:
            raise NotFound("there is no such application")
        after = query_parameters(request).text(b"after") or ""
        collection = QUEUEY + application
        names = await self._logs.names(collection, after, limit=PAGE_LOGS + 1)
        shown = names[:PAGE_LOGS]
        rows = await asyncio.gather(*(self._queuey_row(collection, name) for name in shown))
        public = [row for row in rows if row is not None]
        values = {
            "page": "logs",
            "application": application,
            "queues": public,
            "private": len(rows) - len(public),
            "after": after,
            "next_after": shown[-1] if len(names) > PAGE_LOGS else None,
        }
        return self._pages.render(request, "application.html", values)

    async def _queuey_row(self, collection: str, name: str) -> LogRow | None:
        """Return a public queue; None for any other."""
        log = make_log(collection, name, IdKind.TIME)
        info = await self._logs.info(log)
        if info is None:
            return None
        attributes = _decode_attributes(info.attributes)
        if attributes.type != "public":
            return None
        partitions = range(1, attributes.partitions + 1)
        counts = await self._logs.count(log, partitions)
        return LogRow(
            name, show_number(sum(counts)), show_time(info.created), attributes.partitions
        )

    async def show_queuey(self, request: Request, application: str | None, name: str) -> Reply:
        """Show the newest messages of a public queue of Queuey. Raises NotFound."""
        _check_key(request, f"/v1/{application}/{name}")
        log = make_log(f"{QUEUEY}{application}", name, IdKind.TIME)
        known = application in self._applications
        info = await self._logs.info(log) if known else None
        attributes = None if info is None else _decode_attributes(info.attributes)
        if info is None or attributes is None or attributes.type != "public":
            raise NotFound("there is no such public queue")
        parameters = query_parameters(request)
        partition = parameters.integer(b"partition", 1, attributes.partitions) or 1
        counts = await self._logs.count(log, range(1, attributes.partitions + 1))
        page = await self._logs.read(log, _newest(None)._replace(partition=partition))
        values = {
            "page": "logs",
            "title": f"Queue of {application}",
            "name": name,
            "application": application,
            "facts": [
                ("Messages", show_number(sum(counts))),
                ("Partitions", Shown(str(attributes.partitions))),
                ("Created", show_time(info.created)),
            ],
            "rows": _rows_of_times(page),
            "partition": partition,
            "counts": counts,
            "older": None,
            "before": None,
            "subscribers": None,
            "more_subscribers": 0,
        }
        return self._pages.render(request, "log.html", values)


def _check_key(request: Request, path: str, *, is_whole: bool = False) -> None:
    """Raise Forbidden if the request came with a key that does not allow to read this."""
    if request.key is not None:
        request.key.check(CONSUME, Resource(path, is_path=True, is_whole=is_whole))


def _newest(before: bytes | None) -> Query:
    return Query(PAGE_ENTRIES, start=before, newest_first=True, max_bytes=PAGE_BYTES)


def _rows_of_times(page: Page) -> Sequence[EntryRow]:
    return [_entry_row(entry.hex, entry) for entry in page.entries]


def _entry_row(name: str, entry: Entry, *, is_event: bool = False) -> EntryRow:
    value = entry.value
    if is_event:  # the sender's User-Agent, a NUL, and the data
        value = value.partition(b"\0")[2]
    return EntryRow(
        name,
        show_time(entry.published),
        show_time(entry.expires) if entry.expires else None,
        show_value(value),
        show_bytes(len(value)),
        entry.source.decode("utf-8", "replace"),
        entry.path.decode("utf-8", "replace"),
    )
