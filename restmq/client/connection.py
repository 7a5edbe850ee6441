"""HTTP to one server: requests that are repeated where that is safe, streams, and WebSockets."""

import asyncio
import base64
import io
import logging
import random
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Literal
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from restmq import __version__
from restmq.client.errors import ConnectionLost, NoAnswer, TlsRefused
from restmq.errors import (
    InvalidInput,
    NotFound,
    RateLimited,
    RestMQError,
    StoreUnavailable,
    Unavailable,
)
from restmq.http_client import Answer, one_line, parse_address, refusal

CONNECT_TIMEOUT_SECONDS: Final = 10.0
SILENT_SECONDS: Final = 60.0
"""A stream that brings nothing for so long, not even a ping, is lost."""

MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
PART_BYTES: Final = 64 * 1024
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0

Query = Mapping[str, object]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

logger = logging.getLogger("restmq.client")


class Pauses:
    """How long to wait before the next attempt: ever longer, and not the same for everybody."""

    def __init__(self) -> None:
        self._seconds = FIRST_PAUSE_SECONDS

    def reset(self) -> None:
        """Begin again with a short one, since the last attempt succeeded."""
        self._seconds = FIRST_PAUSE_SECONDS

    def next_seconds(self) -> float:
        """Return the next pause: a random part of a span that doubles, up to the longest."""
        span, self._seconds = self._seconds, min(2 * self._seconds, LONGEST_PAUSE_SECONDS)
        return span * random.uniform(0.5, 1)  # noqa: S311 - no secret

    async def sleep(self, at_least_seconds: float = 0) -> None:
        """Wait for the next pause, or for so long if that is longer."""
        await asyncio.sleep(max(self.next_seconds(), at_least_seconds))


class Connection:
    """All that is sent to one server.

    ``url`` as in ``http://HOST:PORT``; ``timeout_seconds``: how long a request may take with all
    its repetitions; ``max_connections``: requests at the same time, beside streams and those that
    wait for a message. Raises InvalidInput for what is no URL, or two kinds of credentials.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str | None,
        password: str | None,
        api_key: str | None,
        ssl_context: ssl.SSLContext | None,
        timeout_seconds: float,
        max_connections: int,
    ) -> None:
        if (user is None) != (password is None):
            raise InvalidInput("user and password go together")
        self.address = parse_address(url, None if user is None else f"{user}:{password}")
        self.timeout_seconds = timeout_seconds
        credentials = self.address.credentials
        self.credentials: tuple[str, str] | None = None
        self._headers = {"User-Agent": f"RestMQ-client/{__version__}"}
        if credentials is not None and api_key is not None:
            raise InvalidInput("give an api_key, or user and password, not both")
        if credentials is not None:
            name, _, secret = credentials.partition(":")
            self.credentials = (name, secret)
            token = base64.b64encode(credentials.encode()).decode("ascii")
            self._headers["Authorization"] = f"Basic {token}"
        elif api_key is not None:
            if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
                raise InvalidInput("an api_key is printable ASCII without spaces")
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._ssl = ssl_context or True
        self._slots = asyncio.Semaphore(max_connections)
        self._opened: aiohttp.ClientSession | None = None
        self._is_closed = False

    async def close(self) -> None:
        """Close all connections; what is asked later raises RestMQError."""
        self._is_closed = True
        session, self._opened = self._opened, None
        if session is not None:
            await session.close()

    async def request(
        self,
        method: Method,
        path: str,
        query: Query | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        is_repeatable: bool = True,
        wait_seconds: float = 0,
        timeout_seconds: float | None = None,
        in_doubt: Callable[[], None] | None = None,
    ) -> Answer:
        """Ask until there is an answer; ``path`` is percent-encoded already.

        What was not carried out for sure is sent again, and with ``is_repeatable`` also what may
        have been; ``in_doubt`` is called before that. ``wait_seconds``: how long the server was
        asked to hold its answer back. Raises Unavailable when ``timeout_seconds`` (the client's
        own if None) have passed, and the error of the server's code word for what it refuses.
        """
        loop, pauses = asyncio.get_running_loop(), Pauses()
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        deadline = loop.time() + seconds + wait_seconds
        while True:
            left_seconds = deadline - loop.time()
            try:
                return await self.attempt(
                    method, path, query, body, headers, left_seconds, is_waiting=wait_seconds > 0
                )
            except Unavailable as error:
                is_done_perhaps = _may_be_done(error)
                if is_done_perhaps and not is_repeatable:
                    raise
                pause_seconds = max(pauses.next_seconds(), retry_after_seconds(error))
                if loop.time() + pause_seconds >= deadline:
                    raise
                if is_done_perhaps and in_doubt is not None:
                    in_doubt()
                logger.debug("%s %s: %s; again in %.2f s", method, path, error, pause_seconds)
            await asyncio.sleep(pause_seconds)

    async def remove(self, path: str) -> None:
        """DELETE what is at ``path``. Raises NotFound, but not when it is this that removed it."""
        is_in_doubt = False

        def doubt() -> None:
            nonlocal is_in_doubt
            is_in_doubt = True

        try:
            await self.request("DELETE", path, in_doubt=doubt)
        except NotFound:
            if not is_in_doubt:
                raise

    async def attempt(
        self,
        method: Method,
        path: str,
        query: Query | None,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        timeout_seconds: float,
        *,
        is_waiting: bool = False,
    ) -> Answer:
        """Ask once; raises as ``request``. ``is_waiting``: it takes no one else's connection."""
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        async with AsyncExitStack() as stack:
            if not is_waiting:
                await self._take_slot(deadline)
                stack.callback(self._slots.release)
            try:
                async with (
                    asyncio.timeout_at(deadline),
                    self._session().request(
                        *(method, self._url(path, query)),
                        data=_sendable(body),
                        headers=headers,
                        allow_redirects=False,
                    ) as response,
                ):
                    content = await _read(response)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise self._lost(error) from error
        if not 200 <= response.status < 300:
            raise _refused(response, content)
        told = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, content, self.address.url, told)

    async def _take_slot(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._slots.acquire()
        except TimeoutError as error:
            text = "all connections were busy for as long as this may take; see max_connections"
            raise NoAnswer(text, was_sent=False) from error

    @asynccontextmanager
    async def stream(
        self, path: str, headers: Mapping[str, str], query: Query | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Start an endless GET; the parts come as they arrive, until the server ends it in order.

        Raises ConnectionLost when it breaks, or is silent for ``SILENT_SECONDS``.
        """
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_SECONDS, sock_read=SILENT_SECONDS
        )
        try:
            async with self._session().get(
                self._url(path, query), headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise _refused(response, await _read(response))
                yield response.content.iter_any()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._lost(error) from error

    async def websocket(
        self, path: str, protocols: tuple[str, ...], max_message_bytes: int
    ) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket, which pings; raises as ``request``, without repeating anything."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                return await self._session().ws_connect(
                    self._url(path, None),
                    protocols=protocols,
                    heartbeat=SILENT_SECONDS / 2,
                    max_msg_size=max_message_bytes,
                )
        except aiohttp.WSServerHandshakeError as error:
            retry_after = error.headers.get("Retry-After", "") if error.headers else ""
            raise refusal(error.status, one_line(error.message), "", b"", retry_after) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._lost(error) from error

    def _session(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise RestMQError("this client is closed")
        if self._opened is None:
            # Who waits for a message must not keep others from settling theirs, so the number of
            # connections is limited here and not by the pool.
            connector = aiohttp.TCPConnector(limit=0, ssl=self._ssl)
            self._opened = aiohttp.ClientSession(
                connector=connector,
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_SECONDS),
                middlewares=(_send_once,),
            )
        return self._opened

    def _url(self, path: str, query: Query | None) -> URL:
        text = f"{self.address.url}{path}"
        return URL(f"{text}?{urlencode(query)}" if query else text, encoded=True)

    def _lost(self, error: Exception) -> RestMQError:
        url = self.address.url
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return TlsRefused(f"no TLS with {url}: {one_line(str(error))}")
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            reason = one_line(str(error)) or "no connection in time"
            return ConnectionLost(f"cannot reach {url}: {reason}", was_sent=False)
        if isinstance(error, TimeoutError):
            return NoAnswer(f"{url} did not answer in time", was_sent=True)
        reason = one_line(str(error)) or type(error).__name__
        return ConnectionLost(f"lost {url} before its answer: {reason}", was_sent=True)


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating a GET or DELETE by itself, as it does after such errors.

    A take would lose a message without a word, and an ack whose answer is lost be stale for it.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # nothing was sent, which is worth knowing
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error) or "it hung up") from error


def _sendable(body: bytes | None) -> bytes | io.BytesIO | None:
    """Return a body as aiohttp likes it: a long one in parts, so that the loop is not held up."""
    return io.BytesIO(body) if body is not None and len(body) > PART_BYTES else body


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise RestMQError(f"the server answers with more than {MAX_ANSWER_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _refused(response: aiohttp.ClientResponse, content: bytes) -> RestMQError:
    retry_after = response.headers.get("Retry-After", "")
    error = refusal(
        *(response.status, response.reason or "", response.content_type, content, retry_after)
    )
    if response.status in (502, 504):  # a proxy has lost the server
        return ConnectionLost(str(error), was_sent=True)
    return error


def _may_be_done(error: Unavailable) -> bool:
    """Whether the request may have been carried out; with other refusals it was not."""
    if isinstance(error, ConnectionLost):
        return error.was_sent
    return isinstance(error, StoreUnavailable)


def retry_after_seconds(error: Unavailable) -> float:
    """Return how long to wait at least, as the server told; who is early is only refused again.

    What is told for other reasons than asking too much is a guess, so it counts up to a limit.
    """
    if isinstance(error, ConnectionLost):
        return 0
    if isinstance(error, RateLimited):
        return error.retry_after_seconds
    return min(error.retry_after_seconds, LONGEST_PAUSE_SECONDS)
