"""One HTTP request and one short reply, without what the general objects cost.

``Reply`` writes head and body in one piece. A request that only stores or takes a message costs
little beyond HTTP itself, so the general response object, with its header dictionary and its
separate serialisation, would be a third of the whole.
"""

import asyncio
import functools
import time
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import StreamWriter
from aiohttp.web_protocol import RequestHandler

from restmq import __version__
from restmq.api_keys import ApiKey

MAX_FORM_FIELDS = 1000

JSON = "application/json"
JAVASCRIPT = "application/javascript; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"

_SERVER = f"RestMQ/{__version__}"


class Request(web.BaseRequest):
    """A request, with what the front door knows about it."""

    ATTRS = web.BaseRequest.ATTRS | {"body_timeout_seconds", "cors", "is_counted", "key"}

    cors: Sequence[tuple[str, str]] = ()
    """Header lines of the answer that let a page of an allowed origin read it."""

    key: ApiKey | None = None
    """The API key that let it in, and that limits what it may do; None for no such limit."""

    is_counted = False
    """Whether it was counted against the limit of its client's address."""

    def __init__(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        task: "asyncio.Task[None]",
        *,
        max_body_bytes: int,
        body_timeout_seconds: float,
    ) -> None:
        self.body_timeout_seconds = body_timeout_seconds
        """How long the client may take to send the body, or to read the reply."""
        self._protocol = protocol
        self._loop = protocol._loop
        if message.path[:1] != "/":  # the absolute form, which proxies use
            writer = self._payload_writer
            super().__init__(
                message, payload, protocol, writer, task, self._loop, client_max_size=max_body_bytes
            )
            return
        # What the general constructor does for this form, but for what hardly anybody asks for:
        # that is made when it is asked for, since making it costs more than taking a message.
        self._message = message
        self._payload = payload
        self._headers = message.headers
        self._method = message.method
        self._version = message.version
        self._rel_url = message.url
        self._cache = {}
        self._task = task
        self._client_max_size = max_body_bytes

    _client_max_fields = MAX_FORM_FIELDS
    _state: Any = functools.cached_property(lambda self: {})
    _payload_writer: Any = functools.cached_property(
        lambda self: StreamWriter(self._protocol, self._loop)
    )
    _transport_sslcontext = functools.cached_property(lambda self: self._protocol.ssl_context)
    _transport_peername = functools.cached_property(lambda self: self._protocol.peername)
    _transport_sockname = functools.cached_property(lambda self: self._protocol.sockname)


@functools.lru_cache(maxsize=2)
def _date_line(seconds: int) -> bytes:
    return f"Date: {formatdate(seconds, usegmt=True)}\r\n".encode()


@functools.lru_cache(maxsize=1024)
def _head_start(status: int, content_type: str, length: int) -> bytes:
    """Return the lines that most replies of one kind have in common."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Server: {_SERVER}"]
    if status != HTTPStatus.NO_CONTENT:
        lines += [f"Content-Type: {content_type}", f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n").encode()


def _header_lines(headers: Iterable[tuple[str, str]]) -> bytes:
    text = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return text.encode("utf-8", "surrogateescape")


class Reply(web.StreamResponse):
    """A whole reply of known length, written in one piece.

    ``headers`` are further header lines; their values must hold no line breaks.
    """

    def __init__(
        self,
        body: bytes = b"",
        *,
        status: int = 200,
        content_type: str = TEXT,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        # The general constructor would make a header dictionary and more, all unused here.
        self._reply_body = body
        self._status = status
        self._reply_type = content_type
        self._reply_headers = headers
        self._keep_alive = True

    def encode(self, request: Request) -> bytes:
        """Return the reply as it goes over the wire."""
        body = self._reply_body
        start = _head_start(self._status, self._reply_type, len(body))
        date = _date_line(int(time.time()))
        if (
            self._reply_headers
            or request.cors
            or not request.keep_alive
            or request.version != HttpVersion11
        ):
            date += self._further_lines(request)
        if request.method == "HEAD":
            body = b""
        return b"".join((start, date, b"\r\n", body))

    def _further_lines(self, request: Request) -> bytes:
        """Return the header lines that most replies do not have."""
        lines = b""
        if not (request.keep_alive and request.version == HttpVersion11):
            self._keep_alive = request.keep_alive
            lines = b"Connection: %b\r\n" % (b"keep-alive" if request.keep_alive else b"close")
        return lines + _header_lines((*self._reply_headers, *request.cors))

    async def prepare(self, request: Request) -> None:  # type: ignore[override]
        """Write the reply; raises ConnectionError if the client is gone, or does not read it."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(self.encode(request))
        if request.protocol.writing_paused:
            await wait_for_reader(request)

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: all was written at once."""


async def wait_for_reader(request: Request) -> None:
    """Wait until the client has read most of what was written to it, or is cut off.

    As nothing else of this connection is served meanwhile, replies do not pile up for a client
    that sends requests and reads nothing. Raises ConnectionError if the connection is lost.
    """
    try:
        async with asyncio.timeout(request.body_timeout_seconds):
            await request.protocol._drain_helper()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
