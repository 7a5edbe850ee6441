"""The small HTTP access that the everyday commands use: requests, and answers without an end.

It stands on the standard library's ``http.client``, because a command that prints one number
should not wait for an event loop to be imported. Answers of 3xx, 4xx and 5xx become errors of
``restmq.errors``, by their code words and with the server's own words as their text. What does no
I/O here (addresses, paths, values, refusals) serves ``restmq.client`` as well.
"""

import base64
import binascii
import http.client
import json
import select
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self, TypeVar
from urllib.parse import quote, unquote, urlencode, urlsplit

from restmq.errors import AccessDenied, InvalidInput, RateLimited, RestMQError, Unavailable

CONNECT_TIMEOUT_SECONDS = 10.0
ANSWER_TIMEOUT_SECONDS = 60.0
MAX_MESSAGE_CHARACTERS = 500
STREAM_READ_BYTES = 64 * 1024

_DEFAULT_PORTS = {"http": 80, "https": 443}
Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server is and who asks; ``base_path`` has no slash at its end."""

    scheme: str
    host: str
    port: int
    base_path: str = ""
    credentials: str | None = None

    @property
    def url(self) -> str:
        """The address as people write it, without the credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.base_path}"


def parse_address(url: str, credentials: str | None = None) -> ServerAddress:
    """Read ``url`` (http or https); ``credentials`` is ``user:password`` and wins over the URL's.

    Raises InvalidInput when the URL cannot name a RestMQ server.
    """
    if any(character.isspace() or not character.isprintable() for character in url):
        raise InvalidInput("a URL holds no spaces or control characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError as error:  # UnicodeError is one too: a host name that DNS cannot carry
        raise InvalidInput(f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise InvalidInput(f"{url!r} does not name a server; write http://HOST:PORT")
    if parts.query or parts.fragment:
        raise InvalidInput(f"{url!r} has a query or a fragment; write http://HOST:PORT")
    if credentials is not None and ":" not in credentials:
        raise InvalidInput("write USER:PASSWORD, with a colon between them")
    if credentials is None and parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    port = port if port is not None else _DEFAULT_PORTS[parts.scheme]
    base_path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    return ServerAddress(parts.scheme, host, port, base_path, credentials)


def queue_path(route: str, queue: str) -> str:
    """``route`` and the queue's name percent-encoded; a slash stays, as the routes allow it.

    A name from the command line that is not valid in the system's encoding keeps its bytes.
    """
    return route + quote(queue.encode("utf-8", "surrogateescape"), safe="/")


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer of the server, with a status of 2xx."""

    status: int
    body: bytes
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    """With their names in lower case."""

    def json_object(self) -> dict[str, object]:
        """The body as a JSON object. Raises RestMQError when it is anything else."""
        return read_json(self.body, self.url, dict)

    def json_array(self) -> list[dict[str, object]]:
        """The body as a JSON array of objects. Raises RestMQError when it is anything else."""
        items: list[object] = read_json(self.body, self.url, list)
        objects = [item for item in items if isinstance(item, dict)]
        if len(objects) < len(items):
            raise _unexpected(self.url)
        return objects


class Body:
    """The body of an endless answer, as it arrives."""

    def __init__(self, response: http.client.HTTPResponse, sock: socket.socket, url: str) -> None:
        self._response = response
        self._socket = sock
        self._url = url

    def __iter__(self) -> Iterator[bytes]:
        """Yield parts until the server ends it in good order; else raises Unavailable."""
        try:
            while chunk := self._response.read1(STREAM_READ_BYTES):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"lost the stream of {self._url}: {_reason(error)}") from error

    def shut(self) -> None:
        """End it from here, whichever thread reads it; for the reader it is lost."""
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)


class HttpClient:
    """Requests to one server over one keep-alive connection; not for several threads at once.

    Nothing is ever sent twice: when a connection is lost before the answer, the error says so
    and the caller decides, because an add or a take may have happened.
    """

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self._connection: http.client.HTTPConnection | None = None
        self._headers: dict[str, str] = {}
        if address.credentials is not None:
            token = base64.b64encode(address.credentials.encode("utf-8", "surrogateescape"))
            self._headers["Authorization"] = f"Basic {token.decode('ascii')}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        content_type: str | None = None,
        wait_seconds: float = 0,
    ) -> Answer:
        """Ask once and read the whole answer; ``path`` is percent-encoded already.

        ``wait_seconds``: how long the server was asked to hold its answer back. Raises
        Unavailable when the server is out of reach, and the error that fits the status for any
        answer but 2xx.
        """
        target = self.address.base_path + path
        if query:
            target += "?" + urlencode(query, errors="surrogateescape")
        headers = dict(self._headers)
        if content_type is not None:
            headers["Content-Type"] = content_type
        connection = self._ready_connection()
        try:
            connection.sock.settimeout(ANSWER_TIMEOUT_SECONDS + wait_seconds)
            response = _ask(connection, method, target, body, headers)
            content = response.read()
        except BaseException as error:
            # What the connection says next would answer the wrong question.
            self.close()
            if isinstance(error, OSError | http.client.HTTPException):
                raise _lost(self.address, error) from error
            raise
        if not 200 <= response.status < 300:
            raise _refused(response, content)
        told = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, content, self.address.url, told)

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str], query: Mapping[str, object] | None = None
    ) -> Iterator[Body]:
        """Start an endless GET; iterating over the body gives its parts as they arrive.

        It has a connection of its own, waits for as long as the server is there, and finishes
        when the server ends the stream in good order. Raises Unavailable when the connection
        is lost, on entry or later, and on entry like ``request`` for other answers.
        """
        connection = self._open()
        with closing(connection):
            sock = connection.sock
            _probe_when_silent(sock)
            target = self.address.base_path + path + ("?" + urlencode(query) if query else "")
            try:
                response = _ask(connection, "GET", target, None, {**self._headers, **headers})
                content = response.read() if response.status != http.client.OK else b""
            except (OSError, http.client.HTTPException) as error:
                raise _lost(self.address, error) from error
            with response:
                if response.status != http.client.OK:
                    raise _refused(response, content)
                sock.settimeout(None)
                yield Body(response, sock, self.address.url)

    def _ready_connection(self) -> http.client.HTTPConnection:
        """The open connection, or a new one when the server has closed it meanwhile.

        Looking first matters: a server closes what idles, and a message sent into a closed
        connection would leave it unknown whether it was stored.
        """
        connection = self._connection
        if connection is not None and connection.sock is not None:
            if not select.select([connection.sock], [], [], 0)[0]:
                return connection
            self.close()
        self._connection = self._open()
        return self._connection

    def _open(self) -> http.client.HTTPConnection:
        address = self.address
        secure = address.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(address.host, address.port, timeout=CONNECT_TIMEOUT_SECONDS)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise Unavailable(f"cannot reach {address.url}: {_reason(error)}") from error
        connection.sock.settimeout(ANSWER_TIMEOUT_SECONDS)
        return connection


def value_bytes(message: Mapping[str, object]) -> bytes:
    """The value of a message as it was published. Raises RestMQError when it holds none."""
    value = message.get("value")
    if not isinstance(value, str):
        raise RestMQError(f"message {message.get('key')} came without a value")
    if message.get("encoding") != "base64":
        return value.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise RestMQError(f"message {message.get('key')} came in broken base64") from error


def read_json(text: bytes, url: str, kind: type[Kind]) -> Kind:
    """Read what ``url`` answered; raises RestMQError when it is no JSON of this kind."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise RestMQError(f"{url} answered with something that is not JSON") from error
    if isinstance(document, kind):
        return document
    raise _unexpected(url)


def _unexpected(url: str) -> RestMQError:
    return RestMQError(f"{url} answered with JSON that is not what was asked for")


def _ask(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: bytes | None,
    headers: Mapping[str, str],
) -> http.client.HTTPResponse:
    with suppress(BrokenPipeError, ConnectionResetError):
        # A server that refuses a body closes before all of it was sent; its answer may be there.
        connection.request(method, target, body, dict(headers))
    return connection.getresponse()


def _probe_when_silent(sock: socket.socket) -> None:
    """Have the system ask a silent peer whether it lives, so that a dead one is noticed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):  # not every system has all three
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection closed half-way"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection closed without an answer"
    if isinstance(error, http.client.BadStatusLine):
        return "what answers there does not speak HTTP"
    text = error.strerror if isinstance(error, OSError) else None
    return one_line(text or str(error) or type(error).__name__)


def _lost(address: ServerAddress, error: Exception) -> Unavailable:
    text = f"lost {address.url} before its answer, so what it did is unknown: {_reason(error)}"
    return Unavailable(text)


def _refused(response: http.client.HTTPResponse, content: bytes) -> RestMQError:
    content_type = response.headers.get_content_type()
    retry_after = response.headers.get("Retry-After", "")
    return refusal(response.status, response.reason, content_type, content, retry_after)


def refusal(
    status: int, reason: str, content_type: str, content: bytes, retry_after: str = ""
) -> RestMQError:
    """Make an error of an answer that is not 2xx: of the class that its code word names.

    An answer without a known code word, as of a proxy, goes by its status. ``retry_after`` is the
    header; only a number of seconds in it counts.
    """
    words, code = _message_of(content_type, content)
    kind = error_class(code)
    if status in (401, 403) and not issubclass(kind, AccessDenied):
        kind = AccessDenied
    elif status in (502, 503, 504) and not issubclass(kind, Unavailable):
        kind = Unavailable
    elif status == http.client.TOO_MANY_REQUESTS and not issubclass(kind, Unavailable):
        kind = RateLimited
    error = kind(f"{words} ({status} {reason})".strip())
    if isinstance(error, Unavailable) and retry_after.isascii() and retry_after.isdigit():
        error.retry_after_seconds = int(retry_after[:9])
    return error


def error_class(code: str) -> type[RestMQError]:
    """Return the class of errors that has this code word; the root of the tree for others."""
    return _ERRORS.get(code, RestMQError)


def _family(kind: type[RestMQError]) -> Iterator[type[RestMQError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


# What other modules derive is theirs, and one that is not made of its text alone cannot be made
# of what an answer says.
_ERRORS: Final = MappingProxyType(
    {
        kind.code: kind
        for kind in _family(RestMQError)
        if kind.__module__ == RestMQError.__module__ and kind.__init__ is RestMQError.__init__
    }
)


def _message_of(content_type: str, content: bytes) -> tuple[str, str]:
    """The server's message as one printable line, and its code word; empty when there is none."""
    text, code = content.decode("utf-8", "replace"), ""
    if content_type == "application/json":
        try:
            document = json.loads(text)
        except ValueError:
            document = None
        if isinstance(document, dict):
            code = str(document.get("error") or "")
            text = str(document.get("message") or code)
    elif content_type != "text/plain":
        return "", ""
    return one_line(text)[:MAX_MESSAGE_CHARACTERS], code


def one_line(text: str) -> str:
    """``text`` on one line, without control characters, so that no peer drives the terminal."""
    words = " ".join(text.split())
    return "".join(character if character.isprintable() else "?" for character in words)


def decimal(number: float) -> str:
    """A number as parameters carry it: plain digits, to the thousandth, and no exponent."""
    text = f"{number:.3f}"
    return text.rstrip("0").rstrip(".")
