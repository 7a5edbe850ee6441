"""Clients of a running server: short requests, streams that collect, curl, and bare sockets."""

import asyncio
import contextlib
import json
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp

REQUEST_TIMEOUT_SECONDS = 20
LONGEST_LINE_BYTES = 4 * 1024 * 1024

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
"""The headers that ask for a websocket."""

Message = dict[str, Any]


class Api:
    """The everyday requests to one server."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def add(self, queue: str, value: str) -> str:
        """Publish; returns the key. AssertionError unless the server said 200."""
        url = f"{self.url}/q/{quote(queue, safe='')}"
        async with self.session.post(url, data={"value": value}) as answer:
            text = await answer.text()
            assert answer.status == 200, (answer.status, text)
            return text.removesuffix("\r\n")

    async def pop(self, queue: str) -> Message | None:
        """Take the oldest message; None when there is none."""
        async with self.session.get(f"{self.url}/q/{quote(queue, safe='')}") as answer:
            if answer.status == 204:
                return None
            assert answer.status == 200, (answer.status, await answer.text())
            message: Message = await answer.json()
            return message

    async def drain(self, queue: str) -> list[Message]:
        """Take all messages, the oldest first."""
        messages = []
        while (message := await self.pop(queue)) is not None:
            messages.append(message)
        return messages

    async def get_json(self, path: str) -> Any:
        """Get JSON; AssertionError unless the server said 200."""
        async with self.session.get(self.url + path) as answer:
            assert answer.status == 200, (answer.status, await answer.text())
            return await answer.json()

    async def length(self, queue: str) -> int:
        """Return how many messages wait."""
        length: int = (await self.get_json(f"/stats/{queue}"))["len"]
        return length

    async def consumers(self, queue: str) -> int:
        """Return how many streaming consumers the queue has on all nodes."""
        count: int = (await self.get_json(f"/stats/{queue}"))["consumers"]
        return count

    async def set_policy(self, queue: str, policy: str) -> None:
        """Set ``broadcast`` or ``roundrobin``."""
        async with self.session.post(f"{self.url}/p/{queue}", data={"policy": policy}) as answer:
            assert answer.status == 200

    async def set_status(self, queue: str, status: str) -> None:
        """Set ``start`` or ``stop``."""
        url = f"{self.url}/control/{queue}"
        async with self.session.post(url, data={"status": status}) as answer:
            assert answer.status == 200

    async def delete(self, queue: str) -> Message:
        """Delete the queue; returns the reply."""
        async with self.session.delete(f"{self.url}/q/{queue}") as answer:
            assert answer.status == 200
            reply: Message = await answer.json()
            return reply


@contextlib.asynccontextmanager
async def open_api(url: str) -> AsyncIterator[Api]:
    """Talk to one server over connections that are closed at the end."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        yield Api(session, url)


class Listener:
    """One streaming consumer; ``messages`` is what it has received so far."""

    def __init__(self, on_message: Callable[[], None] | None = None) -> None:
        self.messages: list[Message] = []
        self.error: Exception | None = None
        """What broke the stream; None while it flows, and when it ended in order."""
        self.close_code: int | None = None
        """What the server closed a websocket with."""
        self._on_message = on_message
        self._task: asyncio.Task[None] | None = None

    @property
    def values(self) -> list[str]:
        """The values of the messages received so far."""
        return [message["value"] for message in self.messages]

    @property
    def ended(self) -> bool:
        """Whether the stream is over, in order or not."""
        return self._task is not None and self._task.done()

    async def open(self, session: aiohttp.ClientSession, url: str, kind: str) -> None:
        """Connect; when this returns, the server counts the consumer in."""
        reading = self._read_websocket if kind == "websocket" else self._read_lines
        self._task = asyncio.create_task(reading(await _connect(session, url, kind)))

    async def close(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _keep(self, text: bytes | str) -> None:
        self.messages.append(json.loads(text))
        if self._on_message is not None:
            self._on_message()

    async def _read_lines(self, response: Any) -> None:
        events = response.content_type == "text/event-stream"
        is_message = True
        try:
            async for line in response.content:
                if not events:
                    self._keep(line)
                elif line.startswith(b"event: "):
                    is_message = False  # it says that the stream is open, or has a gap
                elif line == b"\n":
                    is_message = True
                elif line.startswith(b"data: ") and is_message:
                    self._keep(line.removeprefix(b"data: "))
        except aiohttp.ClientError as error:
            self.error = error
        finally:
            response.close()

    async def _read_websocket(self, websocket: Any) -> None:
        try:
            async for frame in websocket:
                self._keep(frame.data)
            self.close_code = websocket.close_code
            self.error = websocket.exception()
        finally:
            await websocket.close()


async def _connect(session: aiohttp.ClientSession, url: str, kind: str) -> Any:
    server, _, queue = url.rpartition("/")
    if kind == "websocket":
        return await session.ws_connect(f"{server}/ws/{queue}", max_msg_size=0)
    headers = {"Accept": "text/event-stream"} if kind == "sse" else {}
    response = await session.get(f"{server}/c/{queue}", headers=headers)
    assert response.status == 200, await response.text()
    return response


@contextlib.asynccontextmanager
async def listening(
    url: str, queue: str, *kinds: str, on_message: Callable[[], None] | None = None
) -> AsyncIterator[list[Listener]]:
    """Connect consumers of the given kinds, in that order: comet, sse or websocket."""
    listeners: list[Listener] = []
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=LONGEST_LINE_BYTES,
    ) as session:
        try:
            for kind in kinds:
                listeners.append(Listener(on_message))
                await listeners[-1].open(session, f"{url}/{queue}", kind)
            yield listeners
        finally:
            await asyncio.gather(*(listener.close() for listener in listeners))


@contextlib.asynccontextmanager
async def bare_connection(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a TCP connection that keeps no rules."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.contextmanager
def deaf_consumer(port: int, queue: str) -> Iterator[socket.socket]:
    """Connect a comet consumer that reads nothing, and whose own buffer is as small as can be."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(f"GET /c/{queue} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        yield client


async def read_to_end(reader: asyncio.StreamReader, timeout_seconds: float = 10) -> bytes:
    """Return what comes until the server closes the connection, in order or by a reset."""
    received = bytearray()
    async with asyncio.timeout(timeout_seconds):
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(65536):
                received += data
    return bytes(received)


async def exchange(port: int, request: bytes) -> bytes:
    """Send bytes over a connection of their own, and return what comes until it is closed."""
    async with bare_connection(port) as (reader, writer):
        writer.write(request)
        return await read_to_end(reader)


class CurlAnswer(NamedTuple):
    """What curl printed for one request."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


def _curl_command(*arguments: str) -> tuple[str, ...]:
    program = shutil.which("curl")
    assert program is not None, "these tests need the program curl on the PATH"
    # -q: whatever the user's own .curlrc says does not count here. Headers that are dumped are
    # shown at once, while --include holds them back until the first byte of the body.
    options = ("-q", "--silent", "--show-error", "--noproxy", "*", "--dump-header", "-")
    return (program, *options, *arguments)


def _read_head(lines: list[str]) -> tuple[int, dict[str, str]]:
    pairs = (line.partition(":") for line in lines[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return int(lines[0].split()[1]), headers


async def curl(*arguments: str) -> CurlAnswer:
    """Run curl to its end; AssertionError if it fails."""
    process = await asyncio.create_subprocess_exec(
        *_curl_command("--max-time", str(REQUEST_TIMEOUT_SECONDS), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    head, _, body = output.decode().partition("\r\n\r\n")
    status, headers = _read_head(head.split("\r\n"))
    return CurlAnswer(status, headers, body)


class CurlStream:
    """A curl that reads a stream without end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.headers: dict[str, str] = {}
        self._process = process

    async def read_line(self) -> bytes:
        """Return the next line with its ending; nothing at the end of the stream."""
        assert self._process.stdout is not None
        async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
            return await self._process.stdout.readline()

    async def read_head(self) -> None:
        """Read the headers; AssertionError unless the server said 200."""
        lines = []
        while line := (await self.read_line()).decode().strip():
            lines.append(line)
        status, self.headers = _read_head(lines)
        assert status == 200

    async def exit_status(self) -> int:
        """Wait until curl has ended: 0 if the stream ended in order."""
        async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
            return await self._process.wait()


@contextlib.asynccontextmanager
async def curl_stream(url: str) -> AsyncIterator[CurlStream]:
    """Read a stream with ``curl -N``, which shows each line as it comes."""
    process = await asyncio.create_subprocess_exec(
        *_curl_command("--no-buffer", url), stdout=asyncio.subprocess.PIPE
    )
    try:
        stream = CurlStream(process)
        await stream.read_head()
        yield stream
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
