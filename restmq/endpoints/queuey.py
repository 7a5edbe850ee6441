"""Queuey: queues of messages that stay, for many applications, under ``/v1``; ``/__heartbeat__``.

It follows the Queuey specification. A queue can also be followed live, which Queuey could not:
``Accept: text/event-stream`` streams what is there and what comes, ``wait=SECONDS`` waits for
something to read. Both begin at ``since``, or after ``Last-Event-ID`` (``[partition:]id,...``).
"""

from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Final, NamedTuple
from uuid import uuid4

from aiohttp import hdrs, web

from restmq.access import Section
from restmq.broker.broker import Broker
from restmq.broker.log_entry import EntryKey, Log
from restmq.endpoints.log_stream import LogStreams, asks_to_wait, wants_events
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
    is_batch,
    read_batch,
    read_change,
    read_draft,
    read_flag,
    read_message_ids,
    read_number,
    read_text_body,
    read_ttl,
)
from restmq.endpoints.queuey_queues import Queue, QueueyQueues
from restmq.endpoints.queuey_quick import QuickPosts
from restmq.endpoints.queuey_reading import QueueyReading
from restmq.endpoints.queuey_replies import error_reply, list_reply, ok_reply
from restmq.endpoints.router import Route
from restmq.endpoints.web import (
    Parameters,
    Reply,
    Request,
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

PRODUCER: Final = (Section.PRODUCER,)
CONSUMER: Final = (Section.CONSUMER,)


class Target(NamedTuple):
    """What a request is about, and who sent it."""

    application: str
    shown: Applications
    queue: str | None = None
    messages: str | None = None


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
        self._reading = QueueyReading(broker.logs, broker.log_watcher, streams)
        self._keys = ApplicationKeys(application_keys)
        self._check_access = check_access
        self._queues = QueueyQueues(broker.logs)
        self._quick_posts = QuickPosts(self._keys, self._queues)

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
        return await self._reading.read_by_id(request, log, keys)

    async def _readable(self, target: Target, log: Log) -> Queue:
        """Find a queue that the client may read."""
        queue = await self._queues.find(log)
        check_reader(queue.settings, target.application, target.shown)
        return queue

    async def _read_queue(self, request: Request, target: Target, log: Log) -> web.StreamResponse:
        parameters = query_parameters(request)
        if wants_events(request) or asks_to_wait(parameters):
            self._check_access(request, Section.COMET)

        async def find() -> Queue:
            return await self._readable(target, log)

        return await self._reading.read(request, parameters, log, find)


def _refuse(request: Request, error: RestMQError) -> Reply:
    return error_reply(error)


def _within(queue: Queue, keys: Iterable[EntryKey]) -> list[EntryKey]:
    """Return the keys that are in a partition of the queue."""
    return [key for key in keys if 1 <= key.partition <= queue.settings.partitions]


async def _read_form(request: Request) -> Parameters:
    parameters, body = await read_parameters(request)
    if body:
        raise UnsupportedMediaType("Settings are sent as application/x-www-form-urlencoded.")
    return parameters
