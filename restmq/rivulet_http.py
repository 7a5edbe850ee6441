"""The HTTP underneath ``restmq.rivulet``: requests to one server, from any number of threads.

Connections are kept alive. A request takes one that is idle or opens another, so there are never
more than requests at once. Nothing is sent twice: whether a request that got no answer was carried
out is unknown, and only the caller can say whether that matters.
"""

import base64
import builtins
import contextlib
import http.client
import json
import os
import selectors
import threading
import time
from collections.abc import Mapping
from urllib.parse import urlencode

from restmq.http_client import one_line, parse_address

MAX_TEXT_CHARACTERS = 500


class RivuletError(Exception):
    """The root of what rivulet raises."""


class ConnectionError(RivuletError):  # noqa: A001 - rivulet's own name
    """The server does not answer."""


class BackendError(RivuletError):
    """The server could not do it, or cannot be reached; the text says which."""


class TimeoutError(BackendError):  # noqa: A001 - rivulet's own name
    """There was no answer in time. Whether it was done is unknown."""


class ConnectionPool:
    """Requests to one server; for several threads at once.

    ``url``: where the server is, ``http://HOST:PORT``, with ``USER:PASSWORD@`` where it asks for
    that; raises InvalidInput if that is none. ``timeout_seconds``: how long a request may
    take that does not say.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 60.0) -> None:
        self._address = parse_address(url)
        self._timeout_seconds = timeout_seconds
        self._headers = {"Accept": "application/json"}
        if self._address.credentials is not None:
            token = base64.b64encode(self._address.credentials.encode())
            self._headers["Authorization"] = f"Basic {token.decode('ascii')}"
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._process = os.getpid()

    def close(self) -> None:
        """Close the idle connections; a later request opens a new one."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        *,
        timeout_seconds: float | None = None,
        extra_seconds: float = 0,
    ) -> object:
        """Send one request and return what its answer holds as JSON; None if that has no body.

        ``path``: percent-encoded already. ``body``: JSON. ``extra_seconds``: how long the server
        was asked to hold its answer back. Raises BackendError when the server
        refuses or is out of reach, and its TimeoutError when all of it takes too long.
        """
        seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        deadline = time.monotonic() + seconds + extra_seconds
        target = self._address.base_path + path + ("?" + urlencode(query) if query else "")
        url = self._address.url
        try:
            status, reason, content = self._exchange(deadline, method, target, body)
        except builtins.TimeoutError as error:
            raise TimeoutError(f"{url} did not answer within {seconds:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            text = one_line(str(error) or type(error).__name__)
            raise BackendError(f"no answer from {url}: {text}") from error
        if not 200 <= status < 300:
            raise BackendError(f"{_message_of(content)} ({status} {reason})".strip())
        try:
            return json.loads(content) if content else None
        except (ValueError, RecursionError) as error:
            text = f"{url} answered with something that cannot be read as JSON: {error}"
            raise BackendError(one_line(text)) from error

    def _exchange(
        self, deadline: float, method: str, target: str, body: bytes | None
    ) -> tuple[int, str, bytes]:
        """Send one request and read all of its answer: status, reason, and body."""
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = self._take_idle() or self._open(deadline)
        try:
            connection.sock.settimeout(_remaining(deadline))
            # A server that refuses a body closes before all was sent; its answer may be there.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, target, body, headers)
            connection.sock.settimeout(_remaining(deadline))
            with connection.getresponse() as response:
                content = response.read()
        except BaseException:
            # What the connection says next would answer the wrong question.
            connection.close()
            raise
        self._give_back(connection)
        return response.status, response.reason, content

    def _take_idle(self) -> http.client.HTTPConnection | None:
        """Return a connection that the server has not closed meanwhile, if there is one."""
        with self._lock:
            if self._process != os.getpid():
                # A forked child must not speak on its parent's connections.
                self._process = os.getpid()
                for connection in self._idle:
                    connection.close()
                self._idle = []
            while self._idle:
                connection = self._idle.pop()
                if connection.sock is not None and not _has_something(connection):
                    return connection
                connection.close()
        return None

    def _open(self, deadline: float) -> http.client.HTTPConnection:
        address = self._address
        secure = address.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(address.host, address.port, timeout=_remaining(deadline))
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if connection.sock is not None:
                self._idle.append(connection)


def _remaining(deadline: float) -> float:
    """Return how many seconds are left; raises the built-in TimeoutError if none."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise builtins.TimeoutError
    return seconds


def _has_something(connection: http.client.HTTPConnection) -> bool:
    """Whether there is something to read, which between two requests can only be the end."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection.sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def _message_of(content: bytes) -> str:
    """Return what the server says for people."""
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    text = (
        document.get("message")
        if isinstance(document, dict)
        else content.decode("utf-8", "replace")
    )
    return one_line(str(text))[:MAX_TEXT_CHARACTERS]
