"""What the HTTP endpoints share: reading parameters and bodies, writing short replies.

``Reply`` writes head and body in one piece. A request that only stores or takes a message costs
little beyond HTTP itself, so the general response object, with its header dictionary and its
separate serialisation, would be a third of the whole.
"""

import asyncio
import functools
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import StreamWriter
from aiohttp.web_protocol import RequestHandler

from restmq import __version__
from restmq.broker.keys import message_key
from restmq.broker.message import Message
from restmq.errors import InvalidInput, RestMQError, TooLarge, Unavailable

FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
MAX_FORM_FIELDS = 1000


class Request(web.BaseRequest):
    """A request, with what the front door knows about it."""

    ATTRS = web.BaseRequest.ATTRS | {"body_timeout_seconds", "cors"}

    cors: Sequence[tuple[str, str]] = ()
    """Header lines of the answer that let a page of an allowed origin read it."""

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


JSON = "application/json"
JAVASCRIPT = "application/javascript; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"

_CALLBACK = re.compile(r"[A-Za-z_$][A-Za-z0-9_$.]{0,127}")
_SERVER = f"RestMQ/{__version__}"
_THREAD_BYTES = 256 * 1024
"""Forms longer than this are taken apart in a thread."""

encode_json = msgspec.json.Encoder().encode


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


class Parameters:
    """The classic parameters: query and form merged, the last one wins, blank counts as missing.

    Values are bytes, percent-decoded and otherwise verbatim (specification of RestMQ, section 3).
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[bytes, bytes]) -> None:
        self._values = values

    def __bool__(self) -> bool:
        return bool(self._values)

    def raw(self, name: bytes) -> bytes | None:
        """Return the value, or None if it is missing or blank."""
        return self._values.get(name) or None

    def text(self, name: bytes) -> str | None:
        """Return the value as text; raises InvalidInput if it is not UTF-8."""
        value = self._values.get(name)
        if not value:
            return None
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidInput(f"{name.decode()} must be valid UTF-8") from None

    def integer(self, name: bytes, minimum: int, maximum: int) -> int | None:
        """Return the value as a whole number; raises InvalidInput if it is not in the range."""
        text = self.text(name)
        if text is None:
            return None
        return whole_number(name.decode(), text, minimum, maximum)

    def callback(self) -> str | None:
        """Return the JSONP function's name; raises InvalidInput if it could do harm."""
        name = self.text(b"callback")
        if name is not None and not _CALLBACK.fullmatch(name):
            raise InvalidInput("callback must be a JavaScript name of at most 128 characters")
        return name


def whole_number(name: str, text: str, minimum: int, maximum: int) -> int:
    """Read a whole number of plain digits; raises InvalidInput, naming ``name``, if it is none."""
    if text.isascii() and text.isdigit() and len(text) <= 18:
        number = int(text)
        if minimum <= number <= maximum:
            return number
    raise InvalidInput(f"{name} must be a whole number from {minimum} to {maximum}")


_NO_PARAMETERS = Parameters({})


def _parse_urlencoded(text: bytes) -> dict[bytes, bytes]:
    values = {}
    if text.count(b"&") >= MAX_FORM_FIELDS:
        raise InvalidInput(f"a form may have at most {MAX_FORM_FIELDS} fields")
    for pair in text.split(b"&"):
        name, _, value = pair.partition(b"=")
        values[_unquote(name)] = _unquote(value)
    return values


def _unquote(text: bytes) -> bytes:
    if b"+" in text:
        text = text.replace(b"+", b" ")
    return unquote_to_bytes(text) if b"%" in text else text


def query_parameters(request: Request) -> Parameters:
    """Return the parameters of the query string alone."""
    query = request.raw_path.partition("?")[2]
    if not query:
        return _NO_PARAMETERS
    return Parameters(_parse_urlencoded(query.encode("utf-8", "surrogateescape")))


async def read_body(request: Request) -> bytes:
    """Return the whole body.

    Raises TooLarge over ``max_body_bytes``, InvalidInput if the client takes too long to send it.
    """
    content, limit = request.content, request.client_max_size
    if content.is_eof():  # it came along with the headers, as short ones do
        body = content.read_nowait(-1)
        if len(body) > limit:
            raise _too_large(limit)
        return body
    length = request.content_length
    if length is not None and length > limit:
        raise _too_large(limit)
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async with asyncio.timeout(request.body_timeout_seconds):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(limit) from None
    except TimeoutError:
        raise InvalidInput("the request body did not arrive in time") from None
    except web.RequestPayloadError as error:
        raise InvalidInput(f"the request body cannot be read: {error}") from None


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over {limit} bytes (max_body_bytes)")


async def read_parameters(request: Request) -> tuple[Parameters, bytes | None]:
    """Return the parameters of query and form, and the body if it is not a form.

    A body of any kind but ``application/x-www-form-urlencoded`` and ``multipart/form-data`` is
    not parsed; an empty one counts as none.
    """
    kind = request.content_type
    if kind == "application/x-www-form-urlencoded":
        body = await read_body(request)
        if len(body) > _THREAD_BYTES:
            values = await asyncio.to_thread(_parse_urlencoded, body)
        else:
            values = _parse_urlencoded(body)
        if "?" in request.raw_path:
            query = request.raw_path.partition("?")[2].encode("utf-8", "surrogateescape")
            values = {**_parse_urlencoded(query), **values}
        return Parameters(values), None
    if kind == "multipart/form-data":
        return Parameters(await _read_multipart(request)), None
    return query_parameters(request), await read_body(request) or None


async def _read_multipart(request: Request) -> dict[bytes, bytes]:
    query = request.raw_path.partition("?")[2].encode("utf-8", "surrogateescape")
    values = _parse_urlencoded(query) if query else {}
    try:
        async with asyncio.timeout(request.body_timeout_seconds):
            form = await request.post()
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(request.client_max_size) from None
    except TimeoutError:
        raise InvalidInput("the request body did not arrive in time") from None
    except (ValueError, AssertionError, RuntimeError, web.RequestPayloadError) as error:
        raise InvalidInput(f"the multipart body cannot be read: {error}") from None
    for name, value in form.items():
        if isinstance(value, web.FileField):
            with value.file as file:
                content = file.read()
        elif isinstance(value, str):
            content = value.encode("utf-8", "surrogateescape")
        else:
            content = bytes(value)
        values[name.encode("utf-8", "surrogateescape")] = content
    return values


def client_is_gone(request: Request) -> bool:
    """Return whether nobody is left to read the reply."""
    transport = request.transport
    return transport is None or transport.is_closing()


def message_fields(queue: str, message: Message) -> dict[str, object]:
    """Return a message as JSON carries it; a value that is not UTF-8 goes as base64."""
    fields: dict[str, object] = {"key": message_key(queue, message.number)}
    value = message.value
    try:
        fields["value"] = value.decode()
    except UnicodeDecodeError:
        fields["value"] = value  # msgspec writes bytes as base64
        fields["encoding"] = "base64"
    return fields


def javascript(json_text: bytes) -> bytes:
    """Make JSON safe to stand in a script: two characters end a line there but not in JSON."""
    return json_text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")


def json_reply(
    value: object, callback: str | None = None, *, end: bytes = b"", status: int = 200
) -> Reply:
    """Reply with JSON, or with JSONP if a callback is named; ``end`` closes the plain form."""
    text = encode_json(value)
    if callback is None:
        return Reply(text + end, status=status, content_type=JSON)
    return _jsonp(text, callback)


def text_reply(text: str, callback: str | None = None) -> Reply:
    """Reply with a line of text, or with JSONP that passes it as a string."""
    if callback is None:
        return Reply(f"{text}\r\n".encode())
    return _jsonp(encode_json(text), callback)


def _jsonp(json_text: bytes, callback: str) -> Reply:
    body = b"%b(%b);\r\n" % (callback.encode(), javascript(json_text))
    headers = [("X-Content-Type-Options", "nosniff")]
    return Reply(body, content_type=JAVASCRIPT, headers=headers)


HTTP_STATUS: Mapping[str, int] = {
    "invalid-input": 400,
    "unsupported-media-type": 415,
    "too-large": 413,
    "not-found": 404,
    "conflict": 409,
    "stale-receipt": 409,
    "queue-full": 507,
    "method-not-allowed": 405,
    "access-denied": 401,
    "credentials-required": 401,
    "foreign-origin": 403,
    "unavailable": 503,
    "store-unavailable": 503,
    "overloaded": 503,
}
"""The one table from an error's code word to its HTTP status; what is not in it is 500."""


def error_reply(error: RestMQError, headers: Iterable[tuple[str, str]] = ()) -> Reply:
    """Reply with an error in one line of JSON, for programs and for people."""
    body = {"error": error.code, "message": str(error)}
    lines = list(headers)
    if isinstance(error, Unavailable):
        lines.append(("Retry-After", str(error.retry_after_seconds)))
    return Reply(
        encode_json(body) + b"\r\n",
        status=HTTP_STATUS.get(error.code, 500),
        content_type=JSON,
        headers=lines,
    )
