"""Queuey: queues of messages that stay, for many applications, under ``/v1``; ``/__heartbeat__``.

It follows the Queuey specification. A queue can also be followed live, which Queuey could not:
``Accept: text/event-stream`` streams what is there and what comes, ``wait=SECONDS`` waits for
something to read. Both begin at ``since``, or after ``Last-Event-ID`` (``[partition:]id,...``).
"""

import asyncio
import functools
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing
from http import HTTPStatus
from typing import Final, NamedTuple, TypeVar
from uuid import uuid4

from aiohttp import hdrs, web

from restmq.access import Section
from restmq.broker.broker import Broker
from restmq.broker.limits import MAX_WAIT_SECONDS
from restmq.broker.log_entry import EntryKey, Log, Page, Query
from restmq.broker.log_follow import follow_all
from restmq.codecs.sse import encode_event
from restmq.endpoints.log_stream import (
    EncodeOnce,
    LogStreams,
    last_event_id,
    wants_events,
)
from restmq.endpoints.queuey_access import (
    ApplicationKeys,
    Applications,
    check_member,
    check_owner,
    check_reader,
)
from restmq.endpoints.queuey_fields import (
    BadField,
    check_new_name,
    format_resume_point,
    is_batch,
    read_batch,
    read_change,
    read_draft,
    read_flag,
    read_is_descending,
    read_limit,
    read_message,
    read_message_ids,
    read_number,
    read_partitions,
    read_resume_point,
    read_since,
    read_text_body,
    read_ttl,
)
from restmq.endpoints.queuey_queues import Queue, QueueyQueues
from restmq.endpoints.queuey_quick import QuickPosts
from restmq.endpoints.queuey_replies import error_reply, list_reply, ok_reply
from restmq.endpoints.router import Route
from restmq.endpoints.web import (
    Parameters,
    Reply,
    Request,
    encode_json,
    query_parameters,
    read_body,
    read_parameters,
)
from restmq.errors import (
    MethodNotAllowed,
    NotFound,
    RestMQError,
    UnsupportedMediaType,
)

SEGMENT = "v1"
HEARTBEAT = "__heartbeat__"

READ_AT_ONCE = 8
"""Partitions, or messages named by their ids, that are read in one step."""

READ_BYTES = 512 * 1024
"""What is read of one partition in one step; one message may pass it."""

PRODUCER: Final = (Section.PRODUCER,)
CONSUMER: Final = (Section.CONSUMER,)


class Target(NamedTuple):
    """What a request is about, and who sent it."""

    application: str
    shown: Applications
    queue: str | None = None
    messages: str | None = None


Item = TypeVar("Item")
Handle = Callable[[Request, Target], Awaitable[web.StreamResponse]]


class QueueyEndpoint:
    """Queuey's queues over HTTP.

    ``application_keys``: each ``APPLICATION=KEY``; an application without one does not exist.
    ``check_access`` asks acl.conf about what a route's own sections do not cover: live streams.
    """

    def __init__(
        self,
        broker: Broker,
        streams: LogStreams,
        application_keys: Iterable[str],
        check_access: Callable[[Request, Section], None],
    ) -> None:
        self._logs = broker.logs
        self._watcher = broker.log_watcher
        self._streams = streams
        self._keys = ApplicationKeys(application_keys)
        self._check_access = check_access
        self._queues = QueueyQueues(broker.logs)
        self._quick_posts = QuickPosts(self._keys, self._queues)
        self._encode_shared = EncodeOnce(lambda page: _events(page, {}))

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        get, post = self._answering(self._get), self._answering(self._post)
        put, delete = self._answering(self._put), self._answering(self._delete)
        begin = self._quick_posts.begin
        rows = [
            Route("GET", HEARTBEAT, (), self.get_heartbeat, changes=False),
            Route("GET", SEGMENT, CONSUMER, get, changes=False),
            Route("POST", SEGMENT, PRODUCER, post, changes=True, begin=begin),
            Route("PUT", SEGMENT, PRODUCER, put, changes=True),
            Route("DELETE", SEGMENT, PRODUCER, delete, changes=True),
        ]
        return [row._replace(refuse=_refuse) for row in rows]

    async def get_heartbeat(self, request: Request, rest: str) -> web.StreamResponse:
        """``GET /__heartbeat__``: the server is there."""
        if rest.strip("/"):
            raise NotFound("There is nothing at this path.")
        return ok_reply()

    def _answering(self, handle: Handle) -> Callable[[Request, str], Awaitable[web.StreamResponse]]:
        """Make a handler that finds its target."""

        async def answer(request: Request, rest: str) -> web.StreamResponse:
            return await handle(request, self._find_target(request, rest))

        return answer

    def _find_target(self, request: Request, rest: str) -> Target:
        """Take the path apart, in which any slash may be doubled; raises if nothing is there."""
        application, *names = [part for part in rest.split("/") if part] or [""]
        if application not in self._keys or len(names) > 2:
            raise NotFound("There is nothing at this path.")
        shown = self._keys.applications_of(request.headers.get(hdrs.AUTHORIZATION))
        return Target(application, shown, *names)

    # Queues

    async def _get(self, request: Request, target: Target) -> web.StreamResponse:
        if target.queue is None:
            return await self._list_queues(request, target)
        log = self._queues.log_of(target.application, target.queue)
        if target.messages is not None:
            return await self._get_messages(request, target, log)
        return await self._read_queue(request, target, log)

    async def _list_queues(self, request: Request, target: Target) -> web.StreamResponse:
        check_owner(target.application, target.shown)
        parameters = query_parameters(request)
        limit = parameters.text(b"limit")
        counted = read_flag(parameters.text(b"include_count"))
        queues = self._queues.listed(
            target.application,
            parameters.text(b"offset") or "",
            None if limit is None else read_number("limit", limit, 1, None),
            details=counted or read_flag(parameters.text(b"details")),
            counted=counted,
        )
        return await list_reply(request, "queues", queues)

    async def _post(self, request: Request, target: Target) -> web.StreamResponse:
        if target.messages is not None:
            raise MethodNotAllowed("DELETE, GET, HEAD, PUT")
        if target.queue is None:
            return await self._create_queue(request, target)
        return await self._post_messages(request, target, target.queue)

    async def _create_queue(self, request: Request, target: Target) -> Reply:
        check_owner(target.application, target.shown)
        parameters = await _read_form(request)
        name = check_new_name(parameters.text(b"queue_name") or uuid4().hex)
        log = self._queues.log_of(target.application, name)
        settings = (await self._queues.create(log, read_change(parameters))).settings
        return ok_reply(
            HTTPStatus.CREATED,
            queue_name=name,
            partitions=settings.partitions,
            type=settings.type,
            consistency=settings.consistency,
            principles=settings.principles,
        )

    async def _put(self, request: Request, target: Target) -> web.StreamResponse:
        if target.queue is None:
            raise MethodNotAllowed("GET, HEAD, POST")
        log = self._queues.log_of(target.application, target.queue)
        queue = await self._queues.find(log)
        check_owner(target.application, target.shown)
        if target.messages is not None:
            return await self._put_messages(request, queue, target.messages)
        change = read_change(await _read_form(request))
        queue = await self._queues.update(log, change)
        return ok_reply(
            queue_name=queue.log.name,
            partitions=queue.settings.partitions,
            created=queue.created,
            principles=queue.settings.principle_list,
            type=queue.settings.type,
            consistency=queue.settings.consistency,
        )

    async def _delete(self, request: Request, target: Target) -> Reply:
        if target.queue is None:
            raise MethodNotAllowed("GET, HEAD, POST")
        log = self._queues.log_of(target.application, target.queue)
        queue = await self._queues.find(log)
        if target.messages is None:
            check_owner(target.application, target.shown)
            await self._queues.delete(log)
            return ok_reply()
        check_member(queue.settings, target.application, target.shown)
        await self._logs.remove(log, _within(queue, read_message_ids(target.messages)))
        return ok_reply()

    # Messages

    async def _post_messages(self, request: Request, target: Target, name: str) -> Reply:
        if target.application not in target.shown:
            await self._queues.find(self._queues.log_of(target.application, name))
            check_owner(target.application, target.shown)
        body = await read_body(request)
        batch = is_batch(request.headers)
        try:
            drafts = read_batch(body) if batch else [read_draft(body, request.headers)]
        except BadField:  # unless the queue is missing, which is the greater mistake
            await self._queues.find(self._queues.log_of(target.application, name))
            raise
        posted = await self._queues.post(target.application, name, drafts, is_batch=batch)
        return ok_reply(HTTPStatus.CREATED, messages=posted)

    async def _put_messages(self, request: Request, queue: Queue, messages: str) -> Reply:
        keys = read_message_ids(messages)
        body = read_text_body(await read_body(request))
        await self._queues.put(queue, keys, body, read_ttl(request.headers))
        return ok_reply()

    async def _get_messages(self, request: Request, target: Target, log: Log) -> web.StreamResponse:
        queue = await self._readable(target, log)
        keys = _within(queue, read_message_ids(target.messages or ""))

        async def parts() -> AsyncIterator[Sequence[object]]:
            for some in _batched(keys, READ_AT_ONCE):
                found = await self._logs.get(log, some)
                yield [read_message(entry) for entry in found if entry is not None]

        return await list_reply(request, "messages", parts())

    async def _readable(self, target: Target, log: Log) -> Queue:
        """Find a queue that the client may read."""
        queue = await self._queues.find(log)
        check_reader(queue.settings, target.application, target.shown)
        return queue

    async def _read_queue(self, request: Request, target: Target, log: Log) -> web.StreamResponse:
        is_stream = wants_events(request)
        parameters = query_parameters(request)
        wait = parameters.text(b"wait")
        if is_stream or wait is not None:
            self._check_access(request, Section.COMET)
        queue = await self._readable(target, log)
        queries = _queries(request, parameters)
        if is_stream:
            return await self._stream(request, target, log, queries)
        if wait is not None:
            wait_seconds = read_number("wait", wait, 0, MAX_WAIT_SECONDS)
            await self._streams.hold(self._wait_for_any(target, log, queries, wait_seconds))
            queue = await self._readable(target, log)
        existing = [each for each in queries if each.partition <= queue.settings.partitions]
        return await list_reply(request, "messages", self._read(log, existing))

    async def _read(self, log: Log, queries: Sequence[Query]) -> AsyncIterator[Sequence[object]]:
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
        self, target: Target, log: Log, queries: Sequence[Query], wait_seconds: int
    ) -> None:
        """Wait until there is something to read, or until the time is over.

        Raises when the queue is gone, or the client may not read it any more.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_seconds
        probes = [query._replace(limit=1) for query in queries]
        with self._watcher.watch(log) as watch:
            while True:
                pages = await asyncio.gather(*(self._logs.read(log, probe) for probe in probes))
                if any(page.entries for page in pages):
                    return
                await self._readable(target, log)
                if not await watch.wait(deadline - clock()):
                    return

    async def _stream(
        self, request: Request, target: Target, log: Log, queries: Sequence[Query]
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
        return await self._streams.stream(request, self._follow(target, log, queries), encode)

    async def _follow(
        self, target: Target, log: Log, queries: Sequence[Query]
    ) -> AsyncGenerator[Page]:
        """Yield what is there and what comes, for as long as the client may read it."""

        async def may_read() -> bool:
            try:
                await self._readable(target, log)
            except RestMQError:  # whoever comes back is told why
                return False
            return True

        pages = follow_all(self._logs, self._watcher, log, queries, may_read)
        async with aclosing(pages):
            async for page in pages:
                if not await may_read():
                    return
                yield page


def _refuse(request: Request, error: RestMQError) -> Reply:
    return error_reply(error)


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


def _within(queue: Queue, keys: Iterable[EntryKey]) -> list[EntryKey]:
    """Return the keys that are in a partition of the queue."""
    return [key for key in keys if 1 <= key.partition <= queue.settings.partitions]


def _batched(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]


async def _read_form(request: Request) -> Parameters:
    parameters, body = await read_parameters(request)
    if body:
        raise UnsupportedMediaType("Settings are sent as application/x-www-form-urlencoded.")
    return parameters
