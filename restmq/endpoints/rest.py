"""The REST routes of whole queues: ``/``, ``/q``, ``/p``, ``/stats``, ``/control`` and ``/j``.

They follow the RestMQ specification, sections 3 and 4, and that of delivery, sections 1 and 2.
"""

import html
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import quote

import msgspec
from aiohttp import web

from restmq.access import Section
from restmq.broker.broker import PAGE, Broker, Policy, QueueStats
from restmq.broker.groups import Added
from restmq.broker.keys import check_queue_name, message_key, message_keys
from restmq.broker.message import Message
from restmq.broker.publishing import PublishOptions
from restmq.endpoints.delivery import (
    TAKE_ONE,
    TakeOptions,
    is_batch,
    list_fields,
    read_batch,
    read_publish_options,
    read_take_options,
    take_options,
    value_reply,
    wants_value_alone,
)
from restmq.endpoints.key_needs import PUBLISH, check_key, take_permission
from restmq.endpoints.rest_figures import (
    classic_entry,
    control_entry,
    figures,
    full_entry,
    list_visible,
)
from restmq.endpoints.router import Pending, Route
from restmq.endpoints.web import (
    HTML,
    JSON,
    Parameters,
    Reply,
    Request,
    client_is_gone,
    encode_json,
    is_at_hand,
    json_reply,
    message_fields,
    query_parameters,
    read_at_hand,
    read_parameters,
    text_reply,
    wants,
)
from restmq.errors import InvalidInput, NotFound, RestMQError

CRLF = b"\r\n"
JOB_PAGE_KEYS = 10

EntryMaker = Callable[[QueueStats], dict[str, object]]
TellStomp = Callable[[Parameters, str | None], Awaitable[dict[str, object]]]

_DUPLICATE = (("X-RestMQ-Duplicate", "true"),)

CONSUMER = (Section.CONSUMER,)
PRODUCER = (Section.PRODUCER,)


class RestEndpoint:
    """Queues as REST resources."""

    def __init__(self, broker: Broker, tell_stomp: TellStomp) -> None:
        self._broker = broker
        self._tell_stomp = tell_stomp

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        return [
            Route("GET", "", CONSUMER, self.get_root, changes=True),
            Route("POST", "", PRODUCER, self.post_root, changes=True),
            Route("GET", "q", CONSUMER, self.get_queue, changes=True, begin=self.begin_get),
            Route(
                "POST",
                "q",
                PRODUCER,
                self.post_queue,
                changes=True,
                named=True,
                begin=self.begin_post,
            ),
            Route("DELETE", "q", PRODUCER, self.delete_queue, changes=True, named=True),
            Route("GET", "p", CONSUMER, self.get_policy, changes=False, named=True),
            Route("POST", "p", PRODUCER, self.post_policy, changes=True, named=True),
            Route("GET", "stats", CONSUMER, self.get_stats, changes=False),
            Route("GET", "control", CONSUMER, self.get_control, changes=False),
            Route("POST", "control", PRODUCER, self.post_control, changes=True, named=True),
            Route("GET", "j", CONSUMER, self.get_jobs, changes=False, named=True),
        ]

    async def get_root(self, request: Request, rest: str) -> web.StreamResponse:
        """``GET /``: the index page, or with ``queue`` as ``GET /q/Q``, but 404 when empty."""
        _no_rest(rest)
        parameters = query_parameters(request)
        queue = parameters.text(b"queue")
        if queue is None:
            return Reply(status=302, headers=[("Location", "/static/index.html")])
        check_key(request, take_permission(request), check_queue_name(queue))
        reply = await self._hand_out(request, queue, parameters)
        if reply is None:
            raise NotFound(f"the queue {queue!r} is empty")
        return reply

    async def post_root(self, request: Request, rest: str) -> web.StreamResponse:
        """``POST /``: an add to the queue that the parameter ``queue`` names."""
        _no_rest(rest)
        parameters, body = await read_parameters(request)
        queue = parameters.text(b"queue")
        if queue is None:
            raise InvalidInput("the parameter queue is missing")
        check_key(request, PUBLISH, check_queue_name(queue))
        return await self._add(request, queue, parameters, body)

    async def get_queue(self, request: Request, queue: str) -> web.StreamResponse:
        """``GET /q/Q``: takes, or leases with ``lease``; 204 when empty. ``GET /q`` lists all.

        ``count``: up to so many, as a list. ``wait``: how long to wait for the first.
        ``peek``: only looks at so many.
        """
        parameters = query_parameters(request)
        if not queue:
            return await self._list(request, parameters)
        check_queue_name(queue)
        return await self._hand_out(request, queue, parameters) or Reply(status=204)

    async def post_queue(self, request: Request, queue: str) -> web.StreamResponse:
        """``POST /q/Q``: an add; the body is a form, a batch, or else the value itself."""
        parameters, body = await read_parameters(request)
        return await self._add(request, queue, parameters, body)

    async def delete_queue(self, request: Request, queue: str) -> web.StreamResponse:
        """``DELETE /q/Q``: ends the queue's streams and empties it."""
        callback = query_parameters(request).callback()
        held_messages = await self._broker.purge(queue)
        return json_reply({"queue": queue, "status": int(held_messages)}, callback, end=CRLF)

    def begin_post(self, request: Request, queue: str) -> Pending | None:
        """Begin ``POST /q/Q`` if its body is here and this node knows the queue."""
        broker = self._broker
        if not broker.knows(queue) or not is_at_hand(request):
            return None
        try:
            values, options, finish = _read_add(request, queue, *read_at_hand(request))
            return Pending(broker.begin_publish(queue, values, **options), finish)
        except RestMQError as error:  # the body was read, so nobody else can tell
            return Pending.failed(error)

    async def _add(
        self, request: Request, queue: str, parameters: Parameters, body: bytes | None
    ) -> Reply:
        values, options, finish = _read_add(request, queue, parameters, body)
        return finish(await self._broker.publish(queue, values, **options))

    def begin_get(self, request: Request, queue: str) -> Pending | None:
        """Begin ``GET /q/Q`` if it takes or leases one message without waiting."""
        broker = self._broker
        wanted = take_options(request)
        if not wanted.is_quick or not broker.knows(queue):
            return None

        def finish(messages: Sequence[Message]) -> Reply:
            return _messages_reply(request, queue, messages, wanted) or Reply(status=204)

        if wanted.is_lease:
            leased = broker.begin_lease(queue, wanted.lease_seconds)
            return Pending(leased, finish, lambda found: broker.release_unseen(queue, found))
        taken = broker.begin_pop(queue)
        return Pending(taken, finish, lambda found: broker.give_back(queue, found))

    async def _hand_out(self, request: Request, queue: str, parameters: Parameters) -> Reply | None:
        """Take, lease or peek as the parameters say; None if nothing is there."""
        broker = self._broker
        wanted = read_take_options(parameters) if parameters else TAKE_ONE
        if wanted.peek_count is not None:
            listed = list_fields(queue, await broker.peek(queue, wanted.peek_count))
            return json_reply(listed, wanted.callback, end=CRLF) if listed else None
        count = wanted.count or 1
        messages: Sequence[Message]
        if wanted.is_lease:
            leased = await broker.lease(queue, count, wanted.lease_seconds, wanted.wait_seconds)
            if client_is_gone(request):
                broker.release_unseen(queue, leased)
            messages = leased
        else:
            messages = await broker.pop(queue, count, wanted.wait_seconds)
            if client_is_gone(request):
                broker.give_back(queue, messages)
        return _messages_reply(request, queue, messages, wanted)

    async def _list(self, request: Request, parameters: Parameters) -> Reply:
        """``GET /q``: links to the queues, a page at a time."""
        after = parameters.text(b"after") or ""
        limit = parameters.integer(b"limit", 1, PAGE) or PAGE
        names = await list_visible(self._broker, request, after, limit)
        links = [
            f'<li><a href="/q/{quote(name, safe="")}">{html.escape(name)}</a></li>'
            for name in names
        ]
        more = ""
        if len(names) == limit:
            target = f"/q/?limit={limit}&amp;after={quote(names[-1], safe='')}"
            more = f'<p><a href="{target}">more</a></p>'
        return _page("Queues", f"<ul>{''.join(links)}</ul>{more}")

    async def get_policy(self, request: Request, queue: str) -> web.StreamResponse:
        """``GET /p/Q``: the policy by name; broadcast if it was never set."""
        callback = query_parameters(request).callback()
        policy = (await self._broker.stats(queue)).policy or Policy.BROADCAST
        return json_reply({"queue": queue, "value": policy.name.lower()}, callback, end=CRLF)

    async def post_policy(self, request: Request, queue: str) -> web.StreamResponse:
        """``POST /p/Q``: sets the policy."""
        parameters, _ = await read_parameters(request)
        callback = parameters.callback()
        name = parameters.text(b"policy")
        if name not in ("broadcast", "roundrobin"):
            raise InvalidInput("policy must be broadcast or roundrobin")
        await self._broker.set_policy(queue, Policy[name.upper()])
        return text_reply("OK", callback)

    async def get_stats(self, request: Request, queue: str) -> web.StreamResponse:
        """``GET /stats/Q``: one queue; ``GET /stats``: all, or a page of them.

        The list of all has the classic fields; a page, with ``limit`` or ``after``, tells more.
        With ``stomp=N``: up to N connections over STOMP, of one queue or of all, and topics.
        """
        parameters = query_parameters(request)
        callback = parameters.callback()
        if queue:
            stats = await self._broker.stats(check_queue_name(queue))
            fields = self._one(stats)
            if parameters.names(b"stomp"):
                fields["stomp"] = await self._tell_stomp(parameters, queue)
            return json_reply(fields, callback)
        if parameters.names(b"stomp"):
            return json_reply({"stomp": await self._tell_stomp(parameters, None)}, callback)
        is_page = parameters.names(b"limit") or parameters.names(b"after")
        entry = full_entry if is_page else classic_entry
        return await self._all(request, parameters, callback, entry)

    def _one(self, stats: QueueStats) -> dict[str, object]:
        redis = self._broker.description
        return {"redis": redis, "queue": stats.name, **figures(stats)}

    async def _all(
        self,
        request: Request,
        parameters: Parameters,
        callback: str | None,
        entry: EntryMaker,
    ) -> Reply:
        after = parameters.text(b"after") or ""
        limit = parameters.integer(b"limit", 1, PAGE)
        entries: list[bytes] = []
        while True:
            names = await list_visible(self._broker, request, after, limit or PAGE)
            page = await self._broker.stats_of(names)
            # Encoded page by page, so that a million queues are never held as objects.
            entries += [encode_json(s.name) + b":" + encode_json(entry(s)) for s in page]
            if limit is not None or len(page) < PAGE:
                break
            after = names[-1]
        body = b'{"queues":{%b},"count":%d,"redis":%b}' % (
            b",".join(entries),
            len(entries),
            encode_json(self._broker.description),
        )
        return json_reply(msgspec.Raw(body), callback)

    async def get_control(self, request: Request, queue: str) -> web.StreamResponse:
        """``GET /control/Q``: whether delivery to streams runs; ``GET /control``: for all."""
        parameters = query_parameters(request)
        callback = parameters.callback()
        if not queue:
            return await self._all(request, parameters, callback, control_entry)
        stats = await self._broker.stats(check_queue_name(queue))
        body = {
            "redis": self._broker.description,
            "queue": queue,
            "status": control_entry(stats),
        }
        return json_reply(body, callback)

    async def post_control(self, request: Request, queue: str) -> web.StreamResponse:
        """``POST /control/Q``: ``status=start`` or ``stop``."""
        parameters, _ = await read_parameters(request)
        callback = parameters.callback()
        status = parameters.text(b"status")
        if status is None:
            raise InvalidInput("status must be start or stop")
        if status not in ("start", "stop"):
            return json_reply({"stat": f"invalid status: {status}"}, callback, end=CRLF)
        started = status == "start"
        await self._broker.set_started(queue, started)
        body = {"stat": {"queue": queue, "status": int(started)}}
        return json_reply(body, callback, end=CRLF)

    async def get_jobs(self, request: Request, queue: str) -> web.StreamResponse:
        """``GET /j/Q``: a page about the queue with its newest keys."""
        stats = await self._broker.stats(queue)
        newest = await self._broker.peek(queue, JOB_PAGE_KEYS, newest=True)
        keys = "".join(
            f"<li>{html.escape(message_key(queue, message.number))}</li>" for message in newest
        )
        return _page(
            f"Jobs of {queue}",
            f"<p>Queue: {html.escape(queue)}</p>"
            f"<p>Objects: {stats.length}</p><p>Jobs: {stats.length}</p><ul>{keys}</ul>"
            f'<p><a href="/ui/queue?name={quote(queue, safe="")}">In the dashboard</a></p>',
        )


def _read_add(
    request: Request, queue: str, parameters: Parameters, body: bytes | None
) -> tuple[Sequence[bytes], PublishOptions, Callable[[Added], Reply]]:
    """Read what is to be added, what was said about it, and how to reply; raises InvalidInput."""
    value = parameters.sole(b"value")
    if value is not None:  # the form that nearly everybody sends
        return [value], {}, lambda added: _added_reply(request, queue, added)
    callback = parameters.callback()
    options = read_publish_options(parameters)
    value = parameters.raw(b"msg") or parameters.raw(b"value")
    if body is not None and is_batch(request):
        if value is not None:
            raise InvalidInput("a batch goes without the parameters value and msg")
        return read_batch(body), options, lambda added: _batch_reply(queue, added, callback)
    if value is None:
        if body is None:
            raise InvalidInput("value or msg is missing (or send the value as a raw body)")
        value, content_type = body, request.headers.get("Content-Type")
        if content_type is not None and not content_type.isascii():
            raise InvalidInput("the Content-Type must be ASCII")
        options["content_type"] = content_type
    return [value], options, lambda added: _added_reply(request, queue, added, callback)


def _added_reply(request: Request, queue: str, added: Added, callback: str | None = None) -> Reply:
    key = message_key(queue, added.number)
    headers = _DUPLICATE if added.is_duplicate else ()
    if wants(request, JSON):
        return json_reply({"queue": queue, "key": key}, callback, end=CRLF, headers=headers)
    return text_reply(key, callback, headers)


def _batch_reply(queue: str, added: Added, callback: str | None) -> Reply:
    keys = message_keys(queue, range(added.number, added.number + added.total))
    body = {"queue": queue, "count": added.total, "keys": keys}
    headers = _DUPLICATE if added.is_duplicate else ()
    return json_reply(body, callback, end=CRLF, headers=headers)


def _messages_reply(
    request: Request, queue: str, messages: Sequence[Message], wanted: TakeOptions
) -> Reply | None:
    """Reply with what was taken or leased, as the consumer wants it; None if nothing was."""
    if not messages:
        return None
    if wanted.count is not None:
        return json_reply(list_fields(queue, messages, 0), wanted.callback, end=CRLF)
    if wanted.callback is None and wants_value_alone(request):
        return value_reply(queue, messages[0])
    return json_reply(message_fields(queue, messages[0], 0), wanted.callback, end=CRLF)


def _no_rest(rest: str) -> None:
    if rest:
        raise NotFound("there is nothing at this path; see /static/help.html")


def _page(title: str, content: str) -> Reply:
    page = (
        f"<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>{html.escape(title)}"
        f"</title></head><body><h1>{html.escape(title)}</h1>{content}</body></html>\n"
    )
    return Reply(page.encode(), content_type=HTML)
