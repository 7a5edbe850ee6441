"""Live logs over HTTP: streams of what is in a log and of what comes, and waiting for a while.

The three protocols that speak of logs share this. A log keeps what a reader has yet to get, so a
stream holds one page at a time: a slow reader has the log read for it slowly, and one that takes
nothing at all is cut off. Whoever was cut off resumes from its position.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, Self, TypeVar

from aiohttp import HttpVersion11, web

from restmq.broker.log_entry import Entry, Page
from restmq.codecs.sse import COMMENT_PING
from restmq.endpoints.web import Parameters, Request, log_fields, wait_for_reader

logger = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream"
OPENED = b"retry: 1000\n\n"
"""Tells a browser to wait for so many milliseconds before it comes back."""

Encode = Callable[[Page], bytes]
Result = TypeVar("Result")


class LogStreams:
    """All live streams of a node's logs, so that they end when it stops.

    ``ping_seconds``: how often a quiet stream carries a comment.
    """

    def __init__(self, ping_seconds: float) -> None:
        self._ping_seconds = ping_seconds
        self._held: set[asyncio.Task[object]] = set()
        self._is_draining = False

    def end_all(self) -> None:
        """End every stream and all waiting, in good order; what comes later ends at once."""
        self._is_draining = True
        for task in self._held:
            task.cancel()

    async def hold(self, coroutine: Coroutine[Any, Any, Result]) -> Result | None:
        """Wait for a result, but not beyond the moment when the node stops: then it is None.

        What is awaited is cancelled then, so it must be something that can be dropped, as reading
        a log or waiting for a ``Watch`` is.
        """
        task = asyncio.get_running_loop().create_task(coroutine)
        if self._is_draining:
            task.cancel()
        self._held.add(task)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        finally:
            self._held.discard(task)
        return None if task.cancelled() else task.result()

    async def stream(
        self,
        request: Request,
        pages: AsyncGenerator[Page],
        encode: Encode,
        *,
        opened: bytes = OPENED,
        content_type: str = EVENT_STREAM,
        ping: bytes = COMMENT_PING,
    ) -> web.StreamResponse:
        """Answer with a stream of pages for as long as the client listens and the node serves.

        ``opened`` goes out first, with the headers, ``ping`` whenever it was quiet for long. A
        client that takes nothing for the time it has for reading a reply is cut off. ``pages`` is
        closed at the end. Do what may fail before: errors after this began can only end it.
        """
        response = _response(request, content_type)
        async with contextlib.aclosing(pages):
            await response.prepare(request)
            request.protocol.keep_alive(False)  # drops the timer that watches idle connections
            with _Connection(request, ping, self._ping_seconds) as connection:
                try:
                    await self.hold(_pump(connection, pages, encode, opened))
                except ConnectionError:
                    raise
                except Exception as error:  # the status is long sent: it can only be cut off
                    path = request.rel_url.raw_path
                    logger.exception("the stream of %s failed", path, extra=log_fields(request))
                    raise ConnectionAbortedError("the stream failed") from error
        return response


async def _pump(
    connection: "_Connection", pages: AsyncIterator[Page], encode: Encode, opened: bytes
) -> None:
    await connection.send(opened)
    async for page in pages:
        await connection.send(encode(page))


class _Connection:
    """The sending end of one stream; a context manager that pings in between."""

    def __init__(self, request: Request, ping: bytes, ping_seconds: float) -> None:
        assert request.transport is not None
        self._request = request
        self._transport = request.transport
        self._is_chunked = request.version >= HttpVersion11
        self._ping = self._frame(ping)
        self._ping_seconds = ping_seconds
        self._timer: asyncio.TimerHandle | None = None
        # Any unsent byte pauses the writer, so that waiting for it means: all is sent.
        self._transport.set_write_buffer_limits(high=0)

    def __enter__(self) -> Self:
        self._schedule_ping()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def send(self, data: bytes) -> None:
        """Write, and wait until it is sent; raises ConnectionError when the client is gone."""
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        if not data:
            return
        self._transport.write(self._frame(data))
        if self._request.protocol.writing_paused:
            await wait_for_reader(self._request)

    def _frame(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data

    def _schedule_ping(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._ping_seconds, self._send_ping)

    def _send_ping(self) -> None:
        """Write a sign of life, unless there is something to read anyway."""
        if not (self._transport.is_closing() or self._transport.get_write_buffer_size()):
            self._transport.write(self._ping)
        self._schedule_ping()


class EncodeOnce:
    """An encoding that streams share: those that read the same page get the same bytes."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._entries: list[Entry] | None = None
        self._data = b""

    def __call__(self, page: Page) -> bytes:
        """Encode the page, unless it was the one before as well."""
        if page.entries is not self._entries:
            self._entries, self._data = page.entries, self._encode(page)
        return self._data


def wants_events(request: Request) -> bool:
    """Whether the client asks for server-sent events (a HEAD cannot)."""
    return request.method != "HEAD" and EVENT_STREAM in request.headers.get("Accept", "").lower()


def asks_to_wait(parameters: Parameters) -> bool:
    """Whether the client asks to be held until there is something (``wait=0`` does not)."""
    return bool((parameters.raw(b"wait") or b"").strip(b"0"))


def last_event_id(request: Request, parameters: Parameters) -> str | None:
    """Return where a stream that broke is to go on: the header's word, or ``last_event_id=``.

    A browser sends the header when it comes back, and cannot when a page opens a stream anew.
    """
    return request.headers.get("Last-Event-ID") or parameters.text(b"last_event_id")


def _response(request: Request, content_type: str) -> web.StreamResponse:
    headers = {
        "Content-Type": content_type,
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
        "X-Content-Type-Options": "nosniff",
    }
    response = web.StreamResponse(headers=headers)
    response.headers.extend(request.cors)
    if request.version >= HttpVersion11:
        response.enable_chunked_encoding()
    return response
