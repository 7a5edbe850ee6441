"""The HTTP server underneath the endpoints: connections, their limits, and their requests.

aiohttp parses requests, and its ``RequestHandler`` is one connection. ``HttpConnection`` keeps all
of that but the loop over the requests, of which it has a leaner one: there, a request is served
in the task of its connection instead of one of its own, and a ``Reply`` is written at once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from restmq.access_log import CLIENT_LEFT, AccessLog, CountingTransport
from restmq.endpoints.peers import TrustedProxies
from restmq.endpoints.router import Pending, Router
from restmq.endpoints.web import Reply, Request, wait_for_reader
from restmq.settings import Settings

LONGEST_LINE_BYTES = 64 * 1024
"""The first line of a request may be so long: a thousand receipts in one path."""

KEEP_ALIVE_SECONDS = 75.0
"""An idle connection is closed after so long."""


class _Begun(NamedTuple):
    """A request that was begun without the connection's task."""

    request: Request
    pending: Pending
    waiter: "asyncio.Future[None]"
    """What the task waits for meanwhile."""


class _Logged(NamedTuple):
    """A request under way of which the access log will tell."""

    request: Request
    peer: str
    began: float


class HttpConnection(RequestHandler):
    """One connection: serves its requests one after the other.

    A malformed request, or one that leaves HTTP for another protocol, is left to aiohttp's own
    loop, and so is whatever follows it on that connection.
    """

    __slots__ = ("_begun", "_counted", "_id", "_logged", "_server", "_tried", "_unread_timer")

    def __init__(self, server: "HttpServer", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # its own way to say: no log
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            max_line_size=LONGEST_LINE_BYTES,
        )
        self._server = server
        self._begun: _Begun | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        """Cuts the client off, unless it reads the reply that was written last."""
        self._id = ""
        self._counted: CountingTransport | None = None
        """The transport, if there is an access log."""
        self._logged: _Logged | None = None
        self._tried: RawRequestMessage | None = None
        """What could not be begun, but was counted against the limit of the client."""

    @property
    def connection_id(self) -> str:
        """Return what the log calls this connection."""
        if not self._id:
            self._id = self._server.access_log.new_connection_id()
        return self._id

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve."""
        if self._server.access_log.is_on:
            self._counted = CountingTransport(cast(asyncio.Transport, transport))
            transport = cast(asyncio.BaseTransport, self._counted)
        super().connection_made(transport)

    def _note_begin(self, request: Request) -> None:
        """Take note of a request, of which the access log will tell when it is over."""
        if self._counted is not None:
            self._counted.begin_reply()
            peer = self._server.peer_address(request)
            self._logged = _Logged(request, peer, time.monotonic())

    def _note_end(self) -> None:
        """Write the line of the request that was noted last."""
        logged, self._logged = self._logged, None
        if logged is None or self._counted is None:
            return
        request = logged.request
        self._server.access_log.note_request(
            self.connection_id,
            logged.peer,
            request.method,
            request.raw_path,
            self._counted.status or CLIENT_LEFT,
            self._counted.sent_bytes,
            time.monotonic() - logged.began,
            None if request.key is None else request.key.id,
        )

    def data_received(self, data: bytes) -> None:
        """Take what has come; a request that is one quick operation begins at once.

        Waking the connection's task for it, and again for the answer, would cost as much as the
        operation. Such a request is answered when its operation is done; all others, and any that
        come before it is answered, are left to the task.
        """
        waiter = self._waiter
        if waiter is None or waiter.done():
            super().data_received(data)
            return
        self._waiter = None  # hidden, so that the task is not woken
        super().data_received(data)
        messages = self._messages
        if len(messages) == 1 and self._begin(waiter):
            return
        self._waiter = waiter
        if messages and not waiter.done():
            waiter.set_result(None)

    def _begin(self, waiter: "asyncio.Future[None]") -> bool:
        """Begin the request that has come; returns whether it could be."""
        message, payload = self._messages[0]
        task = self._task_handler
        if (
            not isinstance(message, RawRequestMessage)
            or message.upgrade
            or message.should_close
            or self._paused
            or task is None
            or not payload.is_eof()
        ):
            return False
        request = self._server.new_request(message, payload, self, task)
        pending = self._server.begin(request)
        if pending is None:
            self._tried = message if request.is_counted else None
            return False
        if self._counted is not None:
            self._note_begin(request)
        self._messages.popleft()
        self._make_room()
        self._begun = _Begun(request, pending, waiter)
        self._current_request = request
        self._request_in_progress = True
        pending.future.add_done_callback(self._finish)
        return True

    def _finish(self, future: "asyncio.Future[Any]") -> None:
        """Answer what was begun, and go on as the task would."""
        assert self._begun is not None
        request, pending, waiter = self._begun
        self._begun = None
        self._current_request = None
        self._request_in_progress = False
        if self._handler_waiter is not None:  # the server is stopping
            self._handler_waiter.set_result(None)
        transport = self.transport
        if transport is None or transport.is_closing():
            pending.abandon()
            self._note_end()
            return
        transport.write(self._server.finish(request, pending).encode(request))
        if self._paused:
            # Nothing else need ever come of a client that does not read: it must not keep all this.
            seconds = request.body_timeout_seconds
            self._unread_timer = self._loop.call_later(seconds, transport.abort)
        if self._logged is not None:
            self._note_end()
        self._waiter = waiter
        if waiter.done():
            return
        if self._close or self._force_close:
            waiter.cancel()
        elif self._messages:
            waiter.set_result(None)
        else:
            self._keepalive = True
            self._watch_idleness()

    def resume_writing(self) -> None:
        """Go on, as the client has read most of what was written."""
        super().resume_writing()
        self._stop_unread_timer()

    def _stop_unread_timer(self) -> None:
        timer, self._unread_timer = self._unread_timer, None
        if timer is not None:
            timer.cancel()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop what nobody waits for any more."""
        super().connection_lost(exc)
        self._stop_unread_timer()
        if self._begun is not None:
            self._begun.pending.future.cancel()

    async def start(self) -> None:
        """Serve requests until either side wants no more; the connection's task runs this."""
        task, messages = self._task_handler, self._messages
        assert task is not None
        while not self._force_close:
            if not messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter  # cancelled when the connection is to be closed
                finally:
                    self._waiter = None
            message, payload = messages[0]
            if not isinstance(message, RawRequestMessage) or message.upgrade:
                await super().start()
                return
            messages.popleft()
            self._make_room()
            request = self._server.new_request(message, payload, self, task)
            if self._tried is not None:
                request.is_counted, self._tried = self._tried is message, None
            try:
                self._keepalive = await self._serve(request)
                if not (payload.is_eof() or self._force_close):
                    await self._discard(payload)
            except ConnectionError:  # the client is gone
                self.force_close()
            except BaseException:
                self.force_close()
                raise
            if not self._keepalive or self._close or self._force_close:
                break
            self._watch_idleness()
            del message, payload, request  # what they hold is not kept while nothing comes
        self._task_handler = None
        if self.transport is not None:
            self.transport.close()

    def _make_room(self) -> None:
        """Let the parser go on, which stops when many requests wait."""
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    async def _serve(self, request: Request) -> bool:
        """Answer one request; returns whether the connection may serve another."""
        self._current_request = request
        self._request_in_progress = True
        if self._counted is not None:
            self._note_begin(request)
        try:
            try:
                response = await self._server.handle(request)
            except web.HTTPException as error:  # aiohttp's own, as for a bad WebSocket handshake
                response = error
            transport = self.transport
            if isinstance(response, Reply) and transport is not None:
                transport.write(response.encode(request))
                if self._paused:
                    await wait_for_reader(request)
            else:
                await response.prepare(request)
                await response.write_eof()
            return bool(response.keep_alive)
        finally:
            if self._logged is not None:
                self._note_end()
            self._current_request = None
            self._request_in_progress = False
            if self._handler_waiter is not None:  # the server is stopping
                self._handler_waiter.set_result(None)
            if request._post is not None:
                request._finish()

    async def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        """Answer one request in aiohttp's own loop."""
        self._note_begin(cast(Request, request))
        try:
            return await super()._handle_request(request, start_time, request_handler)
        finally:
            self._note_end()

    async def _discard(self, payload: StreamReader) -> None:
        """Read what is left of a body, so that the client gets to reading the reply."""
        try:
            async with asyncio.timeout(self._lingering_time):
                while not payload.is_eof():
                    await payload.readany()
        except (TimeoutError, web.RequestPayloadError):
            self._keepalive = False

    def _watch_idleness(self) -> None:
        self._next_keepalive_close_time = close_time = self._loop.time() + KEEP_ALIVE_SECONDS
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(close_time, self._process_keepalive)


class HttpServer(web.Server):
    """aiohttp's low-level server, which here also gives up on clients that send no headers."""

    def __init__(
        self, router: Router, settings: Settings, access_log: AccessLog | None = None
    ) -> None:
        super().__init__(
            cast(Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], router.handle),
            request_factory=self._make_any_request,
            handler_cancellation=True,  # a client that left must not consume a message
        )
        self.handle = router.handle
        self.begin = router.begin
        self.finish = router.finish
        self.access_log = access_log or AccessLog(is_on=settings.access_log)
        self.peer_address = TrustedProxies(settings.trusted_proxies).peer_address
        self._max_body_bytes = settings.max_body_bytes
        self._body_timeout_seconds = settings.body_timeout_seconds
        self._header_timeout_seconds = settings.header_timeout_seconds
        self._silent: dict[RequestHandler, tuple[float, asyncio.Transport]] = {}

    def __call__(self) -> HttpConnection:
        """Make the protocol of a new connection."""
        return HttpConnection(self, self._loop)

    def new_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        task: "asyncio.Task[None]",
    ) -> Request:
        """Make the request that was parsed."""
        self._silent.pop(protocol, None)
        return Request(
            message,
            payload,
            protocol,
            task,
            max_body_bytes=self._max_body_bytes,
            body_timeout_seconds=self._body_timeout_seconds,
        )

    def _make_any_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> Request:
        return self.new_request(message, payload, protocol, task)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Give a new connection time to send its first headers."""
        super().connection_made(handler, transport)
        deadline = time.monotonic() + self._header_timeout_seconds
        self._silent[handler] = (deadline, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Forget a connection."""
        self._silent.pop(handler, None)
        super().connection_lost(handler, exc)

    async def close_silent_connections(self) -> None:
        """Close connections whose first headers are late, for ever."""
        while True:
            pause_seconds = self._header_timeout_seconds
            for handler, (deadline, transport) in list(self._silent.items()):
                remaining_seconds = deadline - time.monotonic()
                if remaining_seconds > 0:  # the others came later
                    pause_seconds = remaining_seconds
                    break
                self._silent.pop(handler, None)
                transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
                transport.close()
            await asyncio.sleep(pause_seconds)
