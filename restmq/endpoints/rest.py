"""The classic REST routes: ``/``, ``/q``, ``/p``, ``/stats``, ``/control`` and ``/j``.

They follow the RestMQ specification, sections 3 and 4.
"""

import html
from collections.abc import Callable
from urllib.parse import quote

import msgspec
from aiohttp import web

from restmq.access import Section
from restmq.broker.broker import MAX_TTL_SECONDS, PAGE, Broker, Policy, QueueStats
from restmq.broker.keys import check_queue_name, message_key
from restmq.broker.message import Message
from restmq.endpoints.router import Route
from restmq.endpoints.web import (
    HTML,
    Parameters,
    Reply,
    Request,
    client_is_gone,
    encode_json,
    json_reply,
    message_fields,
    query_parameters,
    read_parameters,
    text_reply,
)
from restmq.errors import InvalidInput, NotFound

CRLF = b"\r\n"
MAX_COUNT = 1000
"""Messages that one request may list."""

JOB_PAGE_KEYS = 10

EntryMaker = Callable[[QueueStats], dict[str, object]]

CONSUMER = (Section.CONSUMER,)
PRODUCER = (Section.PRODUCER,)


class RestEndpoint:
    """Queues as REST resources."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        return [
            Route("GET", "", CONSUMER, self.get_root, changes=True),
            Route("POST", "", PRODUCER, self.post_root, changes=True),
            Route("GET", "q", CONSUMER, self.get_queue, changes=True),
            Route("POST", "q", PRODUCER, self.post_queue, changes=True, named=True),
            Route("DELETE", "q", PRODUCER, self.delete_queue, changes=True, named=True),
            Route("GET", "p", CONSUMER, self.get_policy, changes=False, named=True),
            Route("POST", "p", PRODUCER, self.post_policy, changes=True, named=True),
            Route("GET", "stats", CONSUMER, self.get_stats, changes=False),
            Route("GET", "control", CONSUMER, self.get_control, changes=False),
            Route("POST", "control", PRODUCER, self.post_control, changes=True, named=True),
            Route("GET", "j", CONSUMER, self.get_jobs, changes=False, named=True),
        ]

    async def get_root(self, request: Request, rest: str) -> web.StreamResponse:
        """``GET /``: the index page, or with ``queue`` a pop that answers 404 when empty."""
        _no_rest(rest)
        parameters = query_parameters(request)
        queue = parameters.text(b"queue")
        if queue is None:
            return Reply(status=302, headers=[("Location", "/static/index.html")])
        reply = await self._pop(request, check_queue_name(queue), parameters)
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
        return await self._add(request, check_queue_name(queue), parameters, body)

    async def get_queue(self, request: Request, queue: str) -> web.StreamResponse:
        """``GET /q/Q``: a pop, 204 when empty; ``?peek=n`` only looks; ``GET /q`` lists all."""
        parameters = query_parameters(request)
        if not queue:
            return await self._list(parameters)
        check_queue_name(queue)
        count = parameters.integer(b"peek", 1, MAX_COUNT) if parameters else None
        if count is not None:
            return await self._peek(queue, count, parameters)
        return await self._pop(request, queue, parameters) or Reply(status=204)

    async def post_queue(self, request: Request, queue: str) -> web.StreamResponse:
        """``POST /q/Q``: an add; the body is a form, or else the value itself."""
        parameters, body = await read_parameters(request)
        return await self._add(request, queue, parameters, body)

    async def delete_queue(self, request: Request, queue: str) -> web.StreamResponse:
        """``DELETE /q/Q``: ends the queue's streams and empties it."""
        callback = query_parameters(request).callback()
        held_messages = await self._broker.purge(queue)
        return json_reply({"queue": queue, "status": int(held_messages)}, callback, end=CRLF)

    async def _add(
        self, request: Request, queue: str, parameters: Parameters, body: bytes | None
    ) -> Reply:
        callback = parameters.callback()
        ttl_seconds = parameters.integer(b"ttl", 1, MAX_TTL_SECONDS)
        value = parameters.raw(b"msg") or parameters.raw(b"value")
        content_type = None
        if value is None:
            if body is None:
                raise InvalidInput("value or msg is missing (or send the value as a raw body)")
            value, content_type = body, request.headers.get("Content-Type")
            if content_type is not None and not content_type.isascii():
                raise InvalidInput("the Content-Type must be ASCII")
        number = await self._broker.add(
            queue, value, ttl_seconds=ttl_seconds, content_type=content_type
        )
        return text_reply(message_key(queue, number), callback)

    async def _pop(self, request: Request, queue: str, parameters: Parameters) -> Reply | None:
        callback = parameters.callback() if parameters else None
        messages = await self._broker.pop(queue)
        if not messages:
            return None
        if client_is_gone(request):
            self._broker.give_back(queue, messages)
        return json_reply(_counted(queue, messages[0], 0), callback, end=CRLF)

    async def _peek(self, queue: str, count: int, parameters: Parameters) -> Reply:
        callback = parameters.callback()
        messages = await self._broker.peek(queue, count)
        if not messages:
            return Reply(status=204)
        listed = [message_fields(queue, message) for message in messages]
        return json_reply(listed, callback, end=CRLF)

    async def _list(self, parameters: Parameters) -> Reply:
        """``GET /q``: links to the queues, a page at a time."""
        after = parameters.text(b"after") or ""
        limit = parameters.integer(b"limit", 1, PAGE) or PAGE
        names = await self._broker.list_queues(after, limit)
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
        """``GET /stats/Q``: one queue; ``GET /stats``: all, or a page of them."""
        parameters = query_parameters(request)
        callback = parameters.callback()
        if queue:
            stats = await self._broker.stats(check_queue_name(queue))
            return json_reply(self._one(stats), callback)
        return await self._all(parameters, callback, _stats_entry)

    def _one(self, stats: QueueStats) -> dict[str, object]:
        return {
            "redis": self._broker.description,
            "queue": stats.name,
            "len": stats.length,
            "status": int(stats.started),
            "policy": stats.policy or "",
            "consumers": stats.consumers,
        }

    async def _all(self, parameters: Parameters, callback: str | None, entry: EntryMaker) -> Reply:
        after = parameters.text(b"after") or ""
        limit = parameters.integer(b"limit", 1, PAGE)
        entries: list[bytes] = []
        while True:
            page = await self._broker.list_stats(after, limit or PAGE)
            # Encoded page by page, so that a million queues are never held as objects.
            entries += [encode_json(s.name) + b":" + encode_json(entry(s)) for s in page]
            if limit is not None or len(page) < PAGE:
                break
            after = page[-1].name
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
            return await self._all(parameters, callback, _control_entry)
        stats = await self._broker.stats(check_queue_name(queue))
        body = {
            "redis": self._broker.description,
            "queue": queue,
            "status": _control_entry(stats),
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
            f"<p>Objects: {stats.length}</p><p>Jobs: {stats.length}</p><ul>{keys}</ul>",
        )


def _counted(queue: str, message: Message, count: int) -> dict[str, object]:
    fields = message_fields(queue, message)
    fields["count"] = count
    return fields


def _stats_entry(stats: QueueStats) -> dict[str, object]:
    return {
        "name": stats.name,
        "len": stats.length,
        "status": int(stats.started),
        "policy": stats.policy or "",
    }


def _control_entry(stats: QueueStats) -> dict[str, object]:
    return {"queue": stats.name, "status": int(stats.started)}


def _no_rest(rest: str) -> None:
    if rest:
        raise NotFound("there is nothing at this path; see /static/help.html")


def _page(title: str, content: str) -> Reply:
    page = (
        f"<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>{html.escape(title)}"
        f"</title></head><body><h1>{html.escape(title)}</h1>{content}</body></html>\n"
    )
    return Reply(page.encode(), content_type=HTML)
