"""RSE, Really Simple Events: small JSON events that clients poll, channel by channel.

It follows the RSE specification. ``/rse/a/b`` is the channel ``/a/b``; on a port of its own
(``rse_mount.py``) the channel is the whole path. Beyond the specification, a reader may wait:
``Accept: text/event-stream`` keeps the answer open and sends what comes, ``wait=SECONDS`` holds an
empty answer back for so long.
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from aiohttp import web

from restmq.access import BASIC_CHALLENGE, Section
from restmq.broker.limits import MAX_WAIT_SECONDS
from restmq.broker.log import Logs
from restmq.broker.log_entry import MAX_PAGE_ENTRIES, Appended, NewEntry, Page, Query
from restmq.broker.log_follow import LogWatcher, follow_all, read_waiting
from restmq.broker.log_ids import id_of_number
from restmq.endpoints.log_stream import (
    EncodeOnce,
    LogStreams,
    last_event_id,
    wants_events,
)
from restmq.endpoints.router import Pending, Route
from restmq.endpoints.rse_events import (
    EVENTS,
    Reading,
    callback_of,
    check_channel,
    check_data,
    encode_channel,
    encode_list,
    encode_stream,
    integer_of,
    pack_event,
    parse_integer,
    reading_of,
    source_of,
    user_agent_of,
)
from restmq.endpoints.rse_health import is_verbose, make_report
from restmq.endpoints.rse_mount import SEGMENT
from restmq.endpoints.rse_polls import Polls
from restmq.endpoints.rse_reader import Reader
from restmq.endpoints.web import (
    HTTP_STATUS,
    Parameters,
    Reply,
    Request,
    encode_json,
    javascript,
    query_parameters,
    read_body,
)
from restmq.errors import (
    AccessDenied,
    CredentialsRequired,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    RestMQError,
    TooLarge,
    Unavailable,
)
from restmq.settings import Settings

JSON = "application/json; charset=utf-8"
JAVASCRIPT = "text/javascript; charset=utf-8"
HEALTH = "/health"
EVERYTHING = "/all"
"""In test mode, what answers with all events of all channels."""

Result = TypeVar("Result")

CheckAccess = Callable[[Request, Section], None]

_NOT_FOUND = "an unnamed channel is unsafe; name one in the path"
_SILENT_STATUSES = (401, 503)


class _Event(NamedTuple):
    """An event that is to be stored, and how its sender is answered."""

    entry: NewEntry
    callback: str | None

    def reply(self) -> Reply:
        """Say that it is stored."""
        return Reply(status=201) if self.callback is None else _jsonp(self.callback, b"{}")


class RseBroker(Protocol):
    """What RSE needs of the broker."""

    logs: Logs
    log_watcher: LogWatcher

    async def ping(self) -> None:
        """Return if Redis answers."""


class RseEndpoint:
    """Channels of events.

    ``check_access`` is asked for what a GET may do beyond reading: publish, or hold a stream open.
    """

    def __init__(
        self,
        broker: RseBroker,
        streams: LogStreams,
        settings: Settings,
        check_access: CheckAccess,
    ) -> None:
        self._broker = broker
        self._streams = streams
        self._settings = settings
        self._check_access = check_access
        self._is_test_mode = settings.rse_test_mode
        self._max_event_bytes = min(settings.rse_max_event_bytes, settings.max_body_bytes)
        # Looking a digest up tells nothing by the time it takes.
        self._tokens = frozenset(map(_digest, settings.rse_tokens))
        self._known_tokens: set[str] = set()
        """Those of them that have come, as they came: not more than there are."""
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(broker.logs)
        self._polls = Polls(broker.logs, self._reader)
        self._encode_stream = EncodeOnce(encode_stream)

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table.

        Methods that nothing here answers are rows as well, as RSE has its own words for that.
        """
        producer, consumer = (Section.PRODUCER,), (Section.CONSUMER,)
        return [
            Route("GET", SEGMENT, consumer, self.handle, changes=True, begin=self.begin_get),
            Route("POST", SEGMENT, producer, self.handle, changes=True, begin=self.begin_post),
            Route("HEAD", SEGMENT, consumer, self.handle, changes=False),
            *(
                Route(method, SEGMENT, producer, self.handle, changes=False)
                for method in ("PUT", "PATCH", "DELETE")
            ),
        ]

    async def handle(self, request: Request, rest: str) -> web.StreamResponse:
        """Answer one request; ``rest`` is the channel without its leading slash."""
        try:
            return await self._answer(request, f"/{rest}")
        except RestMQError as error:
            return _refuse(request, error)

    async def _answer(self, request: Request, channel: str) -> web.StreamResponse:
        method = request.method
        if channel == "/":
            raise NotFound(_NOT_FOUND)
        if channel == HEALTH:
            if method not in ("GET", "HEAD"):
                raise MethodNotAllowed("GET, HEAD")
            return await self._get_health(request)
        if method not in ("GET", "POST"):
            raise MethodNotAllowed("GET, POST")
        parameters = self._admit(request, channel)
        if method == "POST":
            self._check_size(request.content_length or 0)
            event = self._event_of(request, channel, parameters, await read_body(request))
            return await self._store(event)
        if parameters.raw(b"method") == b"POST":
            self._check_access(request, Section.PRODUCER)
            event = self._event_of(request, channel, parameters, parameters.raw(b"post-data"))
            return await self._store(event)
        if channel == EVERYTHING and self._is_test_mode:
            return await self._get_everything(request, parameters)
        return await self._get(request, channel, parameters)

    def _admit(self, request: Request, channel: str) -> Parameters:
        """Return the parameters of a request about a channel; raises if it is not to be served."""
        self._check_token(request)
        if self._settings.rse_https_only and not _is_encrypted(request):
            raise InvalidInput("this server speaks RSE over HTTPS only")
        check_channel(channel, self._settings.rse_any_channel_name)
        return query_parameters(request)

    def _check_token(self, request: Request) -> None:
        token = request.headers.get("X-Auth-Token")
        if not token:
            if not self._is_test_mode:
                raise AccessDenied("a token is needed")
        elif token not in self._known_tokens:
            if _digest(token) not in self._tokens:
                raise AccessDenied("the token is not known")
            self._known_tokens.add(token)

    # Posting

    def begin_post(self, request: Request, rest: str) -> Pending | None:
        """Begin ``POST /channel`` whose body has come along; ``handle`` serves all others."""
        channel = f"/{rest}"
        if channel in ("/", HEALTH):
            return None
        data = request.content.read_nowait(-1)
        # Errors are told here, in RSE's words, as nobody can read the body once more.
        try:
            parameters = self._admit(request, channel)
            event = self._event_of(request, channel, parameters, data)
            stored = self._broker.logs.append(EVENTS, event.entry)
        except RestMQError as error:
            return self._refusal(request, error)

        def finish(outcome: Appended | RestMQError) -> Reply:
            return _refuse(request, outcome) if isinstance(outcome, RestMQError) else event.reply()

        return Pending(self._outcome_of(stored), finish)

    def _refusal(self, request: Request, error: RestMQError) -> Pending:
        future: asyncio.Future[RestMQError] = self._loop.create_future()
        future.set_result(error)
        return Pending(future, lambda error: _refuse(request, error))

    def _outcome_of(self, future: asyncio.Future[Result]) -> asyncio.Future[Result | RestMQError]:
        """Return a future that gives the error where the other raises it, for RSE to tell it."""
        outcome: asyncio.Future[Result | RestMQError] = self._loop.create_future()

        def pass_on(future: asyncio.Future[Result]) -> None:
            error = future.exception()
            if outcome.done():  # cancelled, as the client is gone
                return
            if error is None:
                outcome.set_result(future.result())
            elif isinstance(error, RestMQError):
                outcome.set_result(error)
            else:
                outcome.set_exception(error)

        future.add_done_callback(pass_on)
        return outcome

    def _event_of(
        self, request: Request, channel: str, parameters: Parameters, data: bytes | None
    ) -> "_Event":
        """Make the event that a request posts, in its body or in its query."""
        user_agent = user_agent_of(request)
        callback = callback_of(parameters)
        if data is None:
            raise InvalidInput("Missing query parameter: post-data")
        self._check_size(len(data))
        check_data(data, user_agent)
        entry = NewEntry(
            pack_event(user_agent, data),
            self._settings.rse_event_ttl,
            source=source_of(user_agent, self._is_test_mode),
            path=channel.encode(),
        )
        return _Event(entry, callback)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_event_bytes:
            raise TooLarge(f"an event may have at most {self._max_event_bytes} bytes")

    async def _store(self, event: "_Event") -> web.StreamResponse:
        await self._broker.logs.append(EVENTS, event.entry)
        return event.reply()

    # Reading

    def begin_get(self, request: Request, rest: str) -> Pending | None:
        """Begin ``GET /channel`` if it is a plain poll."""
        channel = f"/{rest}"
        if channel in ("/", HEALTH) or (channel == EVERYTHING and self._is_test_mode):
            return None
        try:
            parameters = self._admit(request, channel)
            if parameters.raw(b"method") == b"POST" or parameters.raw(b"wait") is not None:
                return None
            reading = reading_of(channel, parameters, user_agent_of(request), self._is_test_mode)
            callback = callback_of(parameters)
            if callback is None and wants_events(request):
                return None
            outcome = self._polls.begin(reading)
        except RestMQError as error:
            return self._refusal(request, error)

        def finish(outcome: bytes | RestMQError) -> Reply:
            if isinstance(outcome, RestMQError):
                return _refuse(request, outcome)
            return _answer_poll(channel, outcome, callback)

        return Pending(outcome, finish)

    async def _get(
        self, request: Request, channel: str, parameters: Parameters
    ) -> web.StreamResponse:
        """``GET /channel``: a poll, or with the extensions a stream or a long poll."""
        user_agent = user_agent_of(request)
        reading = reading_of(channel, parameters, user_agent, self._is_test_mode)
        callback = callback_of(parameters)
        wait_seconds = parameters.integer(b"wait", 0, MAX_WAIT_SECONDS)
        if wait_seconds is None and callback is None and wants_events(request):
            return await self._stream(request, reading, parameters)
        events = await self._polls.read(reading)
        if wait_seconds and not events:
            await self._wait(reading, wait_seconds)
            events = await self._polls.read(reading)
        return _answer_poll(channel, events, callback)

    async def _wait(self, reading: Reading, wait_seconds: int) -> None:
        """Wait until there is something to answer, or the time is over."""
        query = reading.query._replace(limit=1, without_source=reading.without_source)
        broker = self._broker
        waiting = read_waiting(broker.logs, broker.log_watcher, EVENTS, query, wait_seconds)
        await self._streams.hold(waiting)

    async def _stream(
        self, request: Request, reading: Reading, parameters: Parameters
    ) -> web.StreamResponse:
        """Send the events after the last known id, and then what comes, for ever."""
        self._check_access(request, Section.COMET)
        if reading.newest_first:
            raise InvalidInput("a stream begins with the oldest event; leave out sort")
        query = reading.query
        position = last_event_id(request, parameters)
        if position is not None:
            number = parse_integer("Last-Event-ID", position.encode("utf-8", "surrogateescape"))
            query = query._replace(start=id_of_number(min(max(number, 0), 2**64 - 1)))
        await self._broker.logs.read(EVENTS, query._replace(limit=1))  # what may fail, fails here

        def encode(page: Page) -> bytes:
            return self._encode_stream(self._reader.without(page, reading.without_source))

        pages = follow_all(self._broker.logs, self._broker.log_watcher, EVENTS, [query])
        return await self._streams.stream(request, pages, encode)

    async def _get_everything(self, request: Request, parameters: Parameters) -> web.StreamResponse:
        """``GET /all`` in test mode: every event of every channel, as a bare array.

        It is sent page by page, as there may be more than one should hold in memory.
        """
        newest_first = integer_of(parameters, b"sort", 1) == -1
        query = Query(limit=MAX_PAGE_ENTRIES, newest_first=newest_first)
        page = await self._broker.logs.read(EVENTS, query)
        if page.is_complete:
            return Reply(b"[%b]" % encode_list(page), content_type=JSON)
        return await self._send_pages(request, query, page)

    async def _send_pages(self, request: Request, query: Query, page: Page) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": JSON})
        response.headers.extend(request.cors)
        await response.prepare(request)
        opening = b"["
        while True:
            if page.entries:
                await response.write(opening + encode_list(page))
                opening = b","
            if page.is_complete:
                break
            page = await self._broker.logs.read(EVENTS, query._replace(start=page.position))
        await response.write(b"]")
        return response

    async def _get_health(self, request: Request) -> web.StreamResponse:
        """``/health``: OK, or a report for those who have a token."""
        parameters = query_parameters(request)
        if not is_verbose(parameters):
            await self._broker.ping()
            return Reply(b"OK\n")
        self._check_token(request)
        report = await make_report(
            self._broker.logs, parameters, self._is_test_mode, bool(self._tokens)
        )
        return Reply(encode_json(report), content_type=JSON)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _is_encrypted(request: Request) -> bool:
    """Return whether the client came over HTTPS, here or, by what that says, to a proxy."""
    return request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"


def _answer_poll(channel: str, events: bytes, callback: str | None) -> Reply:
    if callback is None and not events:
        return Reply(status=204)
    document = encode_channel(channel, events)
    return Reply(document, content_type=JSON) if callback is None else _jsonp(callback, document)


def _jsonp(callback: str, json_text: bytes) -> Reply:
    body = b"%b(%b);" % (callback.encode(), javascript(json_text))
    headers = [("X-Content-Type-Options", "nosniff")]
    return Reply(body, content_type=JAVASCRIPT, headers=headers)


def _refuse(request: Request, error: RestMQError) -> Reply:
    """Reply with an error in RSE's shape: a message alone, and none for 401 and 503."""
    status = HTTP_STATUS.get(error.code, 500)
    message = "" if status in _SILENT_STATUSES else str(error)
    headers: list[tuple[str, str]] = []
    if isinstance(error, MethodNotAllowed):
        message = request.method
        headers = [("Allow", error.allowed)]
    elif isinstance(error, CredentialsRequired):
        headers = [("WWW-Authenticate", BASIC_CHALLENGE)]
    elif isinstance(error, Unavailable):
        headers = [("Retry-After", str(error.retry_after_seconds))]
    body = b'{ "message": %b }' % encode_json(message)
    return Reply(body, status=status, content_type=JSON, headers=headers)
