"""The dashboard at ``/ui``: pages for people about queues, logs, nodes and Redis.

Pages are made here and need no script; with it, one stream of server-sent events a page keeps the
figures moving. Whoever may consume may look, whoever may publish may change, as with the API, and
only forms of this server's own pages are taken.

    GET  /ui/                  all queues; ``search``, ``order``, ``after``
    GET  /ui/queue?name=Q      one queue; ``view``; POST does what ``action`` says
    GET  /ui/confirm?name=Q    asks whether ``action`` is meant
    GET  /ui/value?name=Q      a message's value as a file; ``number``
    GET  /ui/logs, channel, application, events-of-rse, nodes, redis
    GET  /ui/events            the figures of a page as they change
    GET  /ui/static/FILE       what pages load
"""

from collections.abc import AsyncGenerator, Callable
from typing import cast
from urllib.parse import unquote

from aiohttp import web

from restmq.access import Section
from restmq.api_keys import EVERYTHING
from restmq.broker.broker import Broker
from restmq.broker.keys import check_queue_name
from restmq.broker.log_entry import Page
from restmq.endpoints.key_needs import VIEW, check_key
from restmq.endpoints.log_stream import Encode, LogStreams
from restmq.endpoints.router import Route
from restmq.endpoints.ui_listing import (
    BY_NAME,
    LARGEST,
    ONE,
    PAGE_ROWS,
    View,
    figures_of,
    figures_of_all,
    list_queues,
    policy_of,
    read_view,
    row_key,
    version_of,
)
from restmq.endpoints.ui_logs import LogPages
from restmq.endpoints.ui_pages import SEGMENT, Pages, address
from restmq.endpoints.ui_queue import QueuePages
from restmq.endpoints.ui_sampler import Sampler
from restmq.endpoints.ui_system import SystemPages
from restmq.endpoints.web import Parameters, Reply, Request, query_parameters
from restmq.errors import AccessDenied, CredentialsRequired, NotFound
from restmq.settings import Settings

CheckAccess = Callable[[Request, Section], None]


class UiEndpoint:
    """The dashboard's pages."""

    def __init__(
        self,
        broker: Broker,
        streams: LogStreams,
        settings: Settings,
        check_access: CheckAccess,
    ) -> None:
        self._broker = broker
        self._streams = streams
        self._check_access = check_access
        self._pages = Pages()
        self._sampler = Sampler(broker)
        self._queues = QueuePages(broker, self._pages, self._sampler)
        self._logs = LogPages(broker, self._pages, settings)
        self._system = SystemPages(broker, self._pages)

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        consumer, producer = (Section.CONSUMER,), (Section.PRODUCER,)
        refuse = self._pages.refuse
        return [
            Route("GET", SEGMENT, consumer, self.get, changes=False, refuse=refuse),
            Route("POST", SEGMENT, producer, self.post, changes=True, refuse=refuse),
        ]

    async def get(self, request: Request, rest: str) -> web.StreamResponse:
        """``GET /ui/...``: a page, a file of one, or its stream."""
        parameters = query_parameters(request)
        if rest.startswith("static/"):
            return self._pages.file(rest.removeprefix("static/"), parameters.text(b"v"))
        match rest:
            case "queue":
                queue, may_change = _queue_name(parameters), self._may_change(request)
                return await self._queues.show(request, queue, may_change=may_change)
            case "confirm":
                action = parameters.text(b"action")
                return await self._queues.ask(request, _queue_name(parameters), action)
            case "value":
                return await self._queues.value(request, _queue_name(parameters))
            case "events" if parameters.text(b"kind") == ONE:
                queue = _queue_name(parameters)
                check_key(request, VIEW, queue)
                return await self._stream(request, View(ONE, queue))
            case _:
                return await self._get_whole(request, rest, parameters)

    async def _get_whole(
        self, request: Request, rest: str, parameters: Parameters
    ) -> web.StreamResponse:
        """Show what is about all queues, or all of something else."""
        if request.key is not None:
            request.key.check(VIEW, EVERYTHING)
        match rest:
            case "":
                return await self._show_queues(request, parameters)
            case "nodes":
                return await self._system.show_nodes(request)
            case "redis":
                return await self._system.show_redis(request)
            case "events":
                return await self._stream(request, _view_of_stream(parameters))
            case _:
                return await self._show_logs(request, rest, parameters)

    async def _show_logs(self, request: Request, rest: str, parameters: Parameters) -> Reply:
        match rest:
            case "logs":
                return await self._logs.show_all(request)
            case "channel":
                return await self._logs.show_channel(request, parameters.text(b"name"))
            case "events-of-rse":
                return await self._logs.show_events(request)
            case "application":
                application, name = parameters.text(b"application"), parameters.text(b"name")
                if name is not None:
                    return await self._logs.show_queuey(request, application, name)
                return await self._logs.show_application(request, application)
            case _:
                raise NotFound("the dashboard has no such page")

    async def post(self, request: Request, rest: str) -> web.StreamResponse:
        """``POST /ui/queue``: what the form's ``action`` says."""
        if rest != "queue":
            raise NotFound("the dashboard takes forms for queues only")

        def may_look() -> None:
            self._check_access(request, Section.CONSUMER)

        return await self._queues.act(request, _queue_name(query_parameters(request)), may_look)

    async def _show_queues(self, request: Request, parameters: Parameters) -> Reply:
        overview = await self._broker.census.overview()
        # The largest are known once queues were counted, which takes a while with many of them.
        has_many = overview.totals.queues > PAGE_ROWS and overview.largest
        view = read_view(parameters, LARGEST if has_many else BY_NAME)
        listed = await list_queues(self._broker, overview, view)
        rows = [
            {
                "stats": stats,
                "key": row_key(stats.name),
                "figures": figures_of(stats),
                "policy": policy_of(stats),
                "history": self._sampler.history(stats.name),
            }
            for stats in listed.queues
        ]
        values = {
            "page": "queues",
            "overview": overview,
            "figures": figures_of_all(overview.totals, overview.is_complete),
            "history": self._sampler.history(),
            "rows": rows,
            "view": view,
            "next_after": listed.next_after,
            "list_version": version_of(stats.name for stats in listed.queues),
            "events": address("events", kind=view.kind, name=view.text, after=view.after),
        }
        return self._pages.render(request, "queues.html", values)

    async def _stream(self, request: Request, view: View) -> web.StreamResponse:
        """``GET /ui/events``: the figures of one page for as long as it is open."""
        if request.method == "HEAD":
            return Reply(content_type="text/event-stream")
        async with self._sampler.watch(view) as watcher:
            # These pages are bytes already, and so go through as they are.
            pages = cast(AsyncGenerator[Page], watcher.events())
            encode = cast(Encode, _as_it_is)
            return await self._streams.stream(request, pages, encode)

    def _may_change(self, request: Request) -> bool:
        """Return whether forms make sense: not for an address that may look and no more."""
        try:
            self._check_access(request, Section.PRODUCER)
        except CredentialsRequired:
            return True  # the browser asks for them
        except AccessDenied:
            return False
        return True


def _as_it_is(event: bytes) -> bytes:
    return event


def _view_of_stream(parameters: Parameters) -> View:
    """Read which page of the list a stream is for, from the address that the page gave it."""
    text, after = parameters.text(b"name") or "", parameters.text(b"after") or ""
    order = "" if text else parameters.text(b"kind") or ""
    asked = {b"search": text, b"after": after, b"order": order}
    return read_view(Parameters({name: each.encode() for name, each in asked.items()}))


def _queue_name(parameters: Parameters) -> str:
    """Read the queue's name: ``name``, or ``encoded``, as forms send it.

    What they send is percent-encoded once more, because browsers change line breaks in fields.
    """
    name = parameters.text(b"name")
    if name is None:
        name = unquote(parameters.text(b"encoded") or "")
    return check_queue_name(name)
