"""Channels that many clients read, each at its own pace: ``/channels`` and ``/cursors``.

They follow the rivulet specification: section 8 for the routes, 3 to 6 for what they mean. What
rivulet only planned is here as well: its own list of management functions, and balanced consumers,
which are processes that read under one client's name and so share what is written. Any channel can
also be followed live, without a cursor: the reader keeps its position itself.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web

from restmq.access import Section
from restmq.broker.broker import Broker
from restmq.broker.cursors import KEPT_COUNT, Start, check_client
from restmq.broker.limits import MAX_WAIT_SECONDS
from restmq.broker.log_entry import (
    MAX_PAGE_ENTRIES,
    Appended,
    Entry,
    Log,
    NewEntry,
    Page,
    Query,
    make_log,
)
from restmq.broker.log_follow import follow_all, read_waiting
from restmq.broker.log_ids import MAX_NUMBER, IdKind, id_of_number, number_of_id
from restmq.codecs.sse import encode_event
from restmq.endpoints.log_stream import (
    OPENED,
    EncodeOnce,
    LogStreams,
    last_event_id,
    wants_events,
)
from restmq.endpoints.router import Pending, Route
from restmq.endpoints.web import (
    JSON,
    Parameters,
    Reply,
    Request,
    encode_json,
    is_at_hand,
    json_reply,
    query_parameters,
    read_body,
    read_parameters,
    whole_number,
)
from restmq.errors import InvalidInput, NotFound, TooLarge

COLLECTION: Final = "channels"
DEFAULT_LIMIT = 512
"""Messages of one channel that one read returns, if it does not say."""

PAGE_NAMES = 1000
"""Channels, or subscribers, that one request lists."""

MAX_KEPT_COUNT = 1_000_000_000

_STARTS: Final = MappingProxyType({start.value: start for start in Start})

CONSUMER = (Section.CONSUMER,)
PRODUCER = (Section.PRODUCER,)


Found = dict[str, list[Entry]]
"""What was read, by channel."""


class NewMessage(msgspec.Struct):
    """The body of a write; any JSON value may be the data, and is kept as it was written."""

    data: msgspec.Raw
    src: str = ""


class ChannelEndpoint:
    """Channels and the cursors of their clients."""

    def __init__(
        self,
        broker: Broker,
        streams: LogStreams,
        check_access: Callable[[Request, Section], None],
    ) -> None:
        self._logs = broker.logs
        self._cursors = broker.cursors
        self._watcher = broker.log_watcher
        self._streams = streams
        self._check_access = check_access
        self._encode_page = EncodeOnce(_events)
        self._decode_message = msgspec.json.Decoder(NewMessage).decode

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        post = self.post_message
        return [
            Route("GET", "channels", CONSUMER, self.get_channels, changes=False),
            Route("POST", "channels", PRODUCER, post, changes=True, begin=self.begin_message),
            Route("DELETE", "channels", PRODUCER, self.delete_channel, changes=True),
            Route("GET", "cursors", CONSUMER, self.get_client, changes=False),
            Route("PUT", "cursors", CONSUMER, self.put_cursor, changes=True),
            Route("DELETE", "cursors", CONSUMER, self.delete_cursor, changes=True),
            Route("POST", "cursors", CONSUMER, self.post_read, changes=True),
        ]

    async def get_channels(self, request: Request, rest: str) -> web.StreamResponse:
        """``GET /channels``, ``/channels/C``, ``/channels/C/messages``: list, show, read."""
        parameters = query_parameters(request)
        match _segments(request):
            case []:
                return await self._list(parameters)
            case [channel] if not (wants_events(request) or parameters.raw(b"wait")):
                return await self._show(_log(channel), parameters)
            case [channel] | [channel, "messages"]:
                if wants_events(request):
                    return await self._stream(request, _log(channel), parameters)
                return await self._read(_log(channel), parameters)
            case _:
                raise _no_such_path()

    async def _list(self, parameters: Parameters) -> Reply:
        limit = parameters.integer(b"limit", 1, PAGE_NAMES) or PAGE_NAMES
        names = await self._logs.names(COLLECTION, parameters.text(b"after") or "", limit=limit)
        return json_reply({"channels": names})

    async def _show(self, log: Log, parameters: Parameters) -> Reply:
        """Tell what is known of a channel; ``limit`` and ``offset`` page its subscribers."""
        limit = parameters.integer(b"limit", 1, PAGE_NAMES) or PAGE_NAMES
        offset = parameters.integer(b"offset", 0, MAX_NUMBER) or 0
        await self._check_listed(log)
        [count], first, last, subscribers, subscriber_count = await asyncio.gather(
            self._logs.count(log),
            self._logs.id_at_offset(log, 0),
            self._logs.last_number(log),
            self._cursors.of_log(log, offset, limit),
            self._cursors.count_of_log(log),
        )
        return json_reply(
            {
                "channel": log.name,
                "count": count,
                "first": None if first is None else number_of_id(first),
                "last": last,
                "subscriber_count": subscriber_count,
                "subscribers": dict(subscribers),
            }
        )

    async def _check_listed(self, log: Log) -> None:
        """Raise NotFound unless the channel was written or subscribed to since it was deleted."""
        listed = await self._logs.names(COLLECTION, log.name, inclusive=True, limit=1)
        if listed != [log.name]:
            raise NotFound(f"there is no channel {log.name!r}")

    async def _read(self, log: Log, parameters: Parameters) -> Reply:
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
        messages = [_envelope(entry) for entry in entries]
        return json_reply({"channel": log.name, "messages": messages, "after": position})

    async def _stream(
        self, request: Request, log: Log, parameters: Parameters
    ) -> web.StreamResponse:
        """Stream messages as events, whose ids are theirs: from ``Last-Event-ID``, else ``after``,
        else only what is new. What is kept no more when its turn comes is announced as a gap.
        """
        self._check_access(request, Section.COMET)
        after = parameters.integer(b"after", 0, MAX_NUMBER)
        resumed = last_event_id(request, parameters)
        # Asked in any case: if the store is out of reach, the client learns it by the status.
        last = await self._logs.last_number(log)
        if resumed is not None:
            after = whole_number("Last-Event-ID", resumed, 0, MAX_NUMBER)
        events = _Events(log.name, last if after is None else min(after, last), self._encode_page)
        opened = OPENED
        if after is not None:
            first_id = await self._logs.id_at_offset(log, 0)
            opened += events.skip_to(last + 1 if first_id is None else number_of_id(first_id))
        queries = [Query(MAX_PAGE_ENTRIES, start=id_of_number(events.position))]
        pages = follow_all(self._logs, self._watcher, log, queries)
        return await self._streams.stream(request, pages, events, opened=opened)

    async def post_message(self, request: Request, rest: str) -> web.StreamResponse:
        """``POST /channels/C``: writes a message, and answers with its envelope."""
        pending = self._write(request, await read_body(request))
        return pending.finish(await pending.future)

    def begin_message(self, request: Request, rest: str) -> Pending | None:
        """Begin ``post_message``, if the body has come along."""
        if not is_at_hand(request):
            return None
        body = request.content.read_nowait(-1)
        if len(body) > request.client_max_size:
            raise TooLarge(f"the body is over {request.client_max_size} bytes (max_body_bytes)")
        return self._write(request, body)

    def _write(self, request: Request, body: bytes) -> Pending:
        match _segments(request):
            case [channel]:
                log = _log(channel)
            case _:
                raise _no_such_path()
        message = self._parse(body)
        value, source = bytes(message.data), message.src

        def finish(appended: Appended) -> Reply:
            number = number_of_id(appended.id)
            envelope = _fields(number, appended.published, source, value)
            return Reply(encode_json(envelope), status=201, content_type=JSON)

        return Pending(self._logs.append(log, NewEntry(value, source=source.encode())), finish)

    def _parse(self, body: bytes) -> NewMessage:
        try:
            body.decode()  # what is kept as it was written is not looked at otherwise
            message = self._decode_message(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            text = f'the body must be {{"data": ANY, "src": "CLIENT"}} in JSON: {error}'
            raise InvalidInput(text) from None
        if message.src:
            check_client(message.src)
        return message

    async def delete_channel(self, request: Request, rest: str) -> web.StreamResponse:
        """``DELETE /channels/C``, or ``/channels/C/messages?before=ID``, which prunes."""
        match _segments(request):
            case [channel]:
                log = _log(channel)
                await self._check_listed(log)
                await self._logs.delete(log)
                return Reply(status=204)
            case [channel, "messages"]:
                return await self._prune(_log(channel), query_parameters(request))
            case _:
                raise _no_such_path()

    async def _prune(self, log: Log, parameters: Parameters) -> Reply:
        before = parameters.integer(b"before", 1, MAX_NUMBER)
        if before is None:
            raise InvalidInput("the parameter before is missing: the id of the first to be kept")
        discarded = await self._logs.discard(log, id_of_number(before - 1)) if before > 1 else 0
        return json_reply({"channel": log.name, "discarded": discarded})

    async def get_client(self, request: Request, rest: str) -> web.StreamResponse:
        """``GET /cursors/K``: where the client's cursors are."""
        match _segments(request):
            case [client]:
                cursors = await self._cursors.of_client(COLLECTION, client)
                return json_reply({"client": client, "subscriptions": cursors})
            case _:
                raise _no_such_path()

    async def put_cursor(self, request: Request, rest: str) -> web.StreamResponse:
        """``PUT /cursors/K/C?policy=``: subscribes a client to a channel, or moves its cursor.

        Instead, ``cursor=ID`` says which message is to count as the last one read, back or ahead.
        """
        match _segments(request):
            case [client, channel]:
                log = _log(channel)
            case _:
                raise _no_such_path()
        parameters, _ = await read_parameters(request)
        cursor = await self._cursors.set(log, client, _start(parameters))
        return json_reply({"channel": channel, "client": client, "cursor": cursor})

    async def delete_cursor(self, request: Request, rest: str) -> web.StreamResponse:
        """``DELETE /cursors/K/C`` ends a subscription, ``DELETE /cursors/K`` all of a client's."""
        match _segments(request):
            case [client, channel]:
                await self._cursors.remove(_log(channel), client)
            case [client]:
                await self._cursors.remove_client(COLLECTION, client)
            case _:
                raise _no_such_path()
        return Reply(status=204)

    async def post_read(self, request: Request, rest: str) -> web.StreamResponse:
        """``POST /cursors/K/read``: what is new for the client in each of its channels, once."""
        match _segments(request):
            case [client, "read"]:
                parameters, _ = await read_parameters(request)
            case _:
                raise _no_such_path()
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
        return json_reply({name: _envelopes(entries) for name, entries in found.items()})

    async def _read_waiting(
        self, client: str, read: Callable[[], Awaitable[Found]], wait_seconds: int
    ) -> Found:
        """Read as soon as there is something in the channels that the client has by now."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        channels = await self._cursors.of_client(COLLECTION, client)
        with self._watcher.watch_all([_log(channel) for channel in channels]) as watch:
            while True:
                found = await read()
                # Only the waiting is dropped when the node stops: what was read counts as read.
                if found or not await self._streams.hold(watch.wait(deadline - loop.time())):
                    return found


def _log(channel: str) -> Log:
    return make_log(COLLECTION, channel, IdKind.NUMBER)


def _segments(request: Request) -> list[str]:
    """Return the decoded segments after the first; names may hold slashes, percent-encoded."""
    path = request.rel_url.raw_path
    segments = path.split("/")[2:]
    if segments and not segments[-1]:
        segments.pop()
    try:
        return [unquote_to_bytes(segment).decode() for segment in segments]
    except UnicodeDecodeError:
        raise InvalidInput("names must be valid UTF-8, percent-encoded") from None


def _start(parameters: Parameters) -> Start | int:
    """Return where a cursor is to be."""
    word = parameters.text(b"policy")
    number = parameters.integer(b"cursor", 0, MAX_NUMBER)
    if number is not None:
        if word:
            raise InvalidInput("give policy or cursor, not both")
        return number
    start = _STARTS.get(word or Start.CURRENT.value)
    if start is None:
        raise InvalidInput("policy must be earliest, current or latest")
    return start


def _no_such_path() -> NotFound:
    return NotFound(
        "use /channels, /channels/CHANNEL, /channels/CHANNEL/messages,"
        " /cursors/CLIENT, /cursors/CLIENT/CHANNEL or /cursors/CLIENT/read"
    )


def _fields(number: int, published: float, source: str, value: bytes) -> dict[str, object]:
    """Return the envelope of a message (section 3); ``ts`` is in microseconds."""
    return {
        "id": number,
        "ts": round(published * 1_000_000),
        "src": source,
        "data": msgspec.Raw(value),
    }


def _envelope(entry: Entry) -> dict[str, object]:
    return _fields(entry.number, entry.published, entry.source.decode(), entry.value)


def _envelopes(entries: Iterable[Entry]) -> list[dict[str, object]]:
    return [_envelope(entry) for entry in entries]


class _Events:
    """The events of one stream, which tell of every message: it is there, or it is gone."""

    def __init__(self, channel: str, position: int, encode: Callable[[Page], bytes]) -> None:
        self._channel = channel
        self._encode = encode
        self.position = position
        """The message that was told of last."""

    def __call__(self, page: Page) -> bytes:
        """Write a page, whose messages follow each other, and before it what is missing."""
        gap = self.skip_to(page.entries[0].number)
        self.position = page.entries[-1].number
        return gap + self._encode(page)

    def skip_to(self, first: int) -> bytes:
        """Return what announces that the messages before ``first`` are kept no more, if any."""
        missing, self.position = self.position + 1, max(self.position, first - 1)
        if missing > self.position:
            return b""
        gone = encode_json({"channel": self._channel, "from": missing, "to": self.position})
        return encode_event(gone, id=str(self.position), event="gap")


def _events(page: Page) -> bytes:
    """Write a page as server-sent events."""
    return b"".join(
        [encode_event(encode_json(_envelope(e)), id=str(e.number)) for e in page.entries]
    )
