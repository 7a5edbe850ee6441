"""RSE, Really Simple Events: small JSON events that clients poll, channel by channel.

It follows the RSE specification. ``/rse/a/b`` is the channel ``/a/b``; on a port of its own
(``rse_mount.py``) the channel is the whole path. Beyond the specification, a reader may wait:
``Accept: text/event-stream`` keeps the answer open and sends what comes, ``wait=SECONDS`` holds an
empty answer back for so long.
"""

from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from restmq.access import Section
from restmq.broker.limits import MAX_WAIT_SECONDS
from restmq.broker.log import Logs
from restmq.broker.log_entry import Appended
from restmq.broker.log_follow import LogWatcher
from restmq.broker.log_ids import number_of_id
from restmq.endpoints.log_stream import LogStreams, wants_events
from restmq.endpoints.router import Pending, Route
from restmq.endpoints.rse_events import (
    EVENTS,
    EventRules,
    callback_of,
    check_channel,
    event_of,
    reading_of,
    user_agent_of,
)
from restmq.endpoints.rse_health import is_verbose, make_report
from restmq.endpoints.rse_live import LiveReading
from restmq.endpoints.rse_mount import SEGMENT
from restmq.endpoints.rse_polls import Polls
from restmq.endpoints.rse_reader import Reader
from restmq.endpoints.rse_replies import (
    CHANNEL_METHODS,
    HEALTH_METHODS,
    JSON,
    poll_reply,
    refuse,
    stored_reply,
)
from restmq.endpoints.rse_tokens import Tokens, TokenStore
from restmq.endpoints.web import (
    Parameters,
    Reply,
    Request,
    encode_json,
    query_parameters,
    read_body,
)
from restmq.errors import InvalidInput, MethodNotAllowed, NotFound
from restmq.settings import Settings

HEALTH = "/health"
EVERYTHING = "/all"
"""In test mode, what answers with all events of all channels."""

CheckAccess = Callable[[Request, Section], None]
IsEncrypted = Callable[[Request], bool]

_NOT_FOUND = "an unnamed channel is unsafe; name one in the path"


class RseBroker(Protocol):
    """What RSE needs of the broker."""

    logs: Logs
    log_watcher: LogWatcher
    on_reconnect: list[Callable[[], None]]

    async def ping(self) -> None:
        """Return if Redis answers."""


class RseEndpoint:
    """Channels of events.

    ``check_access`` is asked for what a GET may do beyond reading: publish, or follow what comes.
    ``is_encrypted`` tells whether a client came over HTTPS, here or to a proxy that is trusted.
    """

    def __init__(
        self,
        broker: RseBroker,
        streams: LogStreams,
        settings: Settings,
        check_access: CheckAccess,
        is_encrypted: IsEncrypted,
        token_store: TokenStore | None = None,
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._check_access = check_access
        self._is_encrypted = is_encrypted
        self._is_test_mode = settings.rse_test_mode
        self._tokens = Tokens(settings.rse_tokens, token_store, is_test_mode=self._is_test_mode)
        max_bytes = min(settings.rse_max_event_bytes, settings.max_body_bytes)
        self._rules = EventRules(settings.rse_event_ttl, max_bytes, self._is_test_mode)
        self._first_event = settings.rse_first_event
        self._has_begun = False
        """Whether ids are known to begin where the settings say."""
        self._look_again()
        broker.on_reconnect.append(self._look_again)
        reader = Reader(broker.logs)
        self._polls = Polls(broker.logs, reader)
        self._live = LiveReading(broker.logs, broker.log_watcher, streams, reader)

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table.

        Methods that nothing here answers are rows as well, as RSE has its own words for that.
        """
        producer, consumer = (Section.PRODUCER,), (Section.CONSUMER,)
        rows = [
            Route("GET", SEGMENT, consumer, self.handle, changes=True, begin=self.begin_get),
            Route("POST", SEGMENT, producer, self.handle, changes=True, begin=self.begin_post),
            Route("HEAD", SEGMENT, consumer, self.handle, changes=False),
            *(
                Route(method, SEGMENT, producer, self.handle, changes=False)
                for method in ("PUT", "PATCH", "DELETE")
            ),
        ]
        return [row._replace(refuse=refuse) for row in rows]

    async def handle(self, request: Request, rest: str) -> web.StreamResponse:
        """Answer one request; ``rest`` is the channel without its leading slash."""
        method, channel = request.method, f"/{rest}"
        if channel == "/":
            raise NotFound(_NOT_FOUND)
        if channel == HEALTH:
            if method not in ("GET", "HEAD"):
                raise MethodNotAllowed(HEALTH_METHODS)
            return await self._get_health(request)
        if method not in ("GET", "POST"):
            raise MethodNotAllowed(CHANNEL_METHODS)
        await self._tokens.check(request)
        parameters = self._admit(request, channel)
        if method == "POST":
            self._rules.check_size(request.content_length or 0)
            return await self._post(request, channel, parameters, await read_body(request))
        if parameters.raw(b"method") == b"POST":
            self._check_access(request, Section.PRODUCER)
            return await self._post(request, channel, parameters, parameters.raw(b"post-data"))
        if channel == EVERYTHING and self._is_test_mode:
            return await self._live.list_all(request, parameters)
        return await self._get(request, channel, parameters)

    def _admit(self, request: Request, channel: str) -> Parameters:
        """Return the parameters of a request whose token is right; raises if it is not served."""
        if self._settings.rse_https_only and not self._is_encrypted(request):
            raise InvalidInput("this server speaks RSE over HTTPS only")
        check_channel(channel, self._settings.rse_any_channel_name)
        return query_parameters(request)

    # Posting

    def begin_post(self, request: Request, rest: str) -> Pending | None:
        """Begin ``POST /channel`` whose body has come along; ``handle`` serves all others."""
        channel = f"/{rest}"
        if channel in ("/", HEALTH) or not (self._has_begun and self._tokens.is_known(request)):
            return None
        parameters = self._admit(request, channel)
        data = request.content.read_nowait(-1)
        event = event_of(request, channel, parameters, data, self._rules)

        def finish(appended: Appended) -> Reply:
            self._check_number(appended)
            return stored_reply(event.callback)

        return Pending(self._broker.logs.append(EVENTS, event.entry), finish)

    async def _post(
        self, request: Request, channel: str, parameters: Parameters, data: bytes | None
    ) -> Reply:
        event = event_of(request, channel, parameters, data, self._rules)
        if not self._has_begun:
            await self._broker.logs.begin_at(EVENTS, self._first_event)
            self._has_begun = True
        self._check_number(await self._broker.logs.append(EVENTS, event.entry))
        return stored_reply(event.callback)

    def _look_again(self) -> None:
        """Take nothing for granted: Redis may have lost where ids begin, as it may lose all."""
        self._has_begun = self._first_event == 1

    def _check_number(self, appended: Appended) -> None:
        """Have ids begin where they should if this one shows that they do not any more."""
        if self._first_event > 1 and number_of_id(appended.id) < self._first_event:
            self._has_begun = False

    # Reading

    def begin_get(self, request: Request, rest: str) -> Pending | None:
        """Begin ``GET /channel`` if it is a plain poll."""
        channel = f"/{rest}"
        if channel in ("/", HEALTH) or (channel == EVERYTHING and self._is_test_mode):
            return None
        if not self._tokens.is_known(request):
            return None
        parameters = self._admit(request, channel)
        if parameters.raw(b"method") == b"POST" or parameters.raw(b"wait") is not None:
            return None
        reading = reading_of(channel, parameters, user_agent_of(request), self._is_test_mode)
        callback = callback_of(parameters)
        if callback is None and wants_events(request):
            return None

        def finish(events: bytes) -> Reply:
            return poll_reply(channel, events, callback)

        return Pending(self._polls.begin(reading), finish)

    async def _get(
        self, request: Request, channel: str, parameters: Parameters
    ) -> web.StreamResponse:
        """``GET /channel``: a poll, or with the extensions a stream or a long poll."""
        user_agent = user_agent_of(request)
        reading = reading_of(channel, parameters, user_agent, self._is_test_mode)
        callback = callback_of(parameters)
        wait_seconds = parameters.integer(b"wait", 0, MAX_WAIT_SECONDS)
        is_stream = wait_seconds is None and callback is None and wants_events(request)
        if is_stream or wait_seconds:
            self._check_access(request, Section.COMET)
        if is_stream:
            return await self._live.stream(request, reading, parameters)
        events = await self._polls.read(reading)
        if wait_seconds and not events:
            await self._live.wait(reading, wait_seconds)
            events = await self._polls.read(reading)
        return poll_reply(channel, events, callback)

    async def _get_health(self, request: Request) -> web.StreamResponse:
        """``/health``: OK, or a report for those who have a token."""
        parameters = query_parameters(request)
        if not is_verbose(parameters):
            await self._broker.ping()
            return Reply(b"OK\n")
        await self._tokens.check(request)
        report = await make_report(
            self._broker.logs, parameters, self._is_test_mode, self._tokens.can_let_in
        )
        return Reply(encode_json(report), content_type=JSON)
