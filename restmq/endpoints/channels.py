"""Channels that many clients read, each at its own pace: ``/channels`` and ``/cursors``.

They follow the rivulet specification: section 8 for the routes, 3 to 6 for what they mean. What
rivulet only planned is here as well: its own list of management functions, and balanced consumers,
which are processes that read under one client's name and so share what is written. Any channel can
also be followed live, without a cursor: the reader keeps its position itself.
"""

import asyncio
from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from aiohttp import web

from restmq.access import Section
from restmq.broker.broker import Broker
from restmq.broker.cursors import Start
from restmq.broker.log_entry import Appended, Log, NewEntry
from restmq.broker.log_ids import MAX_NUMBER, id_of_number, number_of_id
from restmq.endpoints.channels_messages import (
    COLLECTION,
    log_of,
    new_envelope,
    no_such_path,
    parse_message,
    segments_of,
)
from restmq.endpoints.channels_reading import ChannelReading
from restmq.endpoints.log_stream import LogStreams, asks_to_wait, wants_events
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
)
from restmq.errors import InvalidInput, NotFound, TooLarge

PAGE_NAMES = 1000
"""Channels, or subscribers, that one request lists."""

_STARTS: Final = MappingProxyType({start.value: start for start in Start})

CONSUMER = (Section.CONSUMER,)
PRODUCER = (Section.PRODUCER,)


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
        self._reading = ChannelReading(broker.logs, broker.cursors, broker.log_watcher, streams)
        self._check_access = check_access

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
        is_stream = wants_events(request)
        if is_stream or asks_to_wait(parameters):
            self._check_access(request, Section.COMET)
        match segments_of(request):
            case []:
                return await self._list(parameters)
            case [channel] | [channel, "messages"] if is_stream:
                return await self._reading.stream(request, log_of(channel), parameters)
            case [channel] if parameters.raw(b"wait") is None:
                return await self._show(log_of(channel), parameters)
            case [channel] | [channel, "messages"]:
                return await self._reading.read(log_of(channel), parameters)
            case _:
                raise no_such_path()

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
        match segments_of(request):
            case [channel]:
                log = log_of(channel)
            case _:
                raise no_such_path()
        message = parse_message(body)
        value, source = bytes(message.data), message.src

        def finish(appended: Appended) -> Reply:
            number = number_of_id(appended.id)
            written = new_envelope(number, appended.published, source, value)
            return Reply(encode_json(written), status=201, content_type=JSON)

        return Pending(self._logs.append(log, NewEntry(value, source=source.encode())), finish)

    async def delete_channel(self, request: Request, rest: str) -> web.StreamResponse:
        """``DELETE /channels/C``, or ``/channels/C/messages?before=ID``, which prunes."""
        match segments_of(request):
            case [channel]:
                log = log_of(channel)
                await self._check_listed(log)
                await self._logs.delete(log)
                return Reply(status=204)
            case [channel, "messages"]:
                return await self._prune(log_of(channel), query_parameters(request))
            case _:
                raise no_such_path()

    async def _prune(self, log: Log, parameters: Parameters) -> Reply:
        before = parameters.integer(b"before", 1, MAX_NUMBER)
        if before is None:
            raise InvalidInput("the parameter before is missing: the id of the first to be kept")
        discarded = await self._logs.discard(log, id_of_number(before - 1)) if before > 1 else 0
        return json_reply({"channel": log.name, "discarded": discarded})

    async def get_client(self, request: Request, rest: str) -> web.StreamResponse:
        """``GET /cursors/K``: where the client's cursors are."""
        match segments_of(request):
            case [client]:
                cursors = await self._cursors.of_client(COLLECTION, client)
                return json_reply({"client": client, "subscriptions": cursors})
            case _:
                raise no_such_path()

    async def put_cursor(self, request: Request, rest: str) -> web.StreamResponse:
        """``PUT /cursors/K/C?policy=``: subscribes a client to a channel, or moves its cursor.

        Instead, ``cursor=ID`` says which message is to count as the last one read, back or ahead.
        """
        match segments_of(request):
            case [client, channel]:
                log = log_of(channel)
            case _:
                raise no_such_path()
        parameters, _ = await read_parameters(request)
        cursor = await self._cursors.set(log, client, _start(parameters))
        return json_reply({"channel": channel, "client": client, "cursor": cursor})

    async def delete_cursor(self, request: Request, rest: str) -> web.StreamResponse:
        """``DELETE /cursors/K/C`` ends a subscription, ``DELETE /cursors/K`` all of a client's."""
        match segments_of(request):
            case [client, channel]:
                await self._cursors.remove(log_of(channel), client)
            case [client]:
                await self._cursors.remove_client(COLLECTION, client)
            case _:
                raise no_such_path()
        return Reply(status=204)

    async def post_read(self, request: Request, rest: str) -> web.StreamResponse:
        """``POST /cursors/K/read``: what is new for the client in each of its channels, once."""
        match segments_of(request):
            case [client, "read"]:
                parameters, _ = await read_parameters(request)
            case _:
                raise no_such_path()
        if asks_to_wait(parameters):
            self._check_access(request, Section.COMET)
        return await self._reading.read_at_cursors(client, parameters)


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
