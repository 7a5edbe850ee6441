"""The load of ``restmq bench``: connections that ask when they are answered, and the clock."""

import asyncio
import base64
import contextlib
import math
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from restmq.errors import RestMQError, Unavailable
from restmq.http_client import ServerAddress, refusal

ANSWER_SECONDS = 60.0
MAX_HEAD_BYTES = 64 * 1024
SLICES = 60
"""Into so many parts the time of a run is divided, to see whether it went evenly."""

_STEPS_PER_DOUBLING = 64  # one step is about 1 %
_SHORTEST_SECONDS = 1e-6
_STEPS = 40 * _STEPS_PER_DOUBLING


class Latencies:
    """How long things took, to about one percent, in a fixed amount of memory."""

    def __init__(self) -> None:
        self._counts = [0] * (_STEPS + 1)
        self.count = 0
        self.longest_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        ratio = max(seconds / _SHORTEST_SECONDS, 1.0)
        self._counts[min(int(math.log2(ratio) * _STEPS_PER_DOUBLING), _STEPS)] += 1
        self.count += 1
        self.longest_seconds = max(self.longest_seconds, seconds)

    def percentile(self, percent: float) -> float:
        """Return the seconds within which so many of them were done; 0 if there were none."""
        wanted = math.ceil(self.count * percent / 100)
        seen = 0
        for step, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted and step < _STEPS:
                return min(_seconds_of(step + 1), self.longest_seconds)
        return self.longest_seconds

    def spread(self, parts: int, lowest_seconds: float, highest_seconds: float) -> list[int]:
        """Count them in ``parts`` of a logarithmic scale between two times."""
        found = [0] * parts
        width = math.log(highest_seconds / lowest_seconds) / parts
        for step, count in enumerate(self._counts):
            if count:
                place = int(math.log(_seconds_of(step) / lowest_seconds) / width)
                found[max(0, min(place, parts - 1))] += count
        return found


def _seconds_of(step: int) -> float:
    return float(_SHORTEST_SECONDS * 2 ** (step / _STEPS_PER_DOUBLING))


class Connection(asyncio.Protocol):
    """One keep-alive connection: a request, its answer, the next request."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._body_end: int | None = None
        self._body_start = 0
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; returns status and body. Raises Unavailable when it is lost."""
        if self._transport is None or self._transport.is_closing():
            raise Unavailable("the server closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits."""
        self._fail(Unavailable(f"the connection was lost: {error or 'the server closed it'}"))

    def data_received(self, data: bytes) -> None:
        """Take in a part of an answer."""
        received = self._received
        received += data
        if self._body_end is None:
            head_end = received.find(b"\r\n\r\n")
            if head_end < 0:
                if len(received) > MAX_HEAD_BYTES:
                    self._fail(RestMQError("what answers there does not speak HTTP"))
                return
            self._body_start = head_end + 4
            length = _content_length(bytes(received[: head_end + 2]))
            if length is None:
                self._fail(RestMQError("the answers there have no length, perhaps of a proxy"))
                return
            self._body_end = self._body_start + length
        if len(received) < self._body_end:
            return
        status = int(received[9:12]) if received[9:12].isdigit() else 0
        body = bytes(received[self._body_start : self._body_end])
        del received[: self._body_end]
        self._body_end = None
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result((status, body))

    def _fail(self, error: RestMQError) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)
        self.close()


def _content_length(head: bytes) -> int | None:
    """Read the length of a body; None if the answer does not say it."""
    if head[9:12] in (b"204", b"304"):
        return 0
    start = head.lower().find(b"\r\ncontent-length:")
    if start < 0:
        return None
    text = head[start + 17 : head.index(b"\r\n", start + 17)].strip()
    return int(text) if text.isdigit() else None


class Target:
    """The server that is measured: makes requests for it, and connections to it."""

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        host = f"[{address.host}]" if ":" in address.host else address.host
        self._common = f"Host: {host}:{address.port}\r\n"
        if address.credentials is not None:
            token = base64.b64encode(address.credentials.encode("utf-8", "surrogateescape"))
            self._common += f"Authorization: Basic {token.decode('ascii')}\r\n"

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: str = ""
    ) -> bytes:
        """Spell a request; ``headers`` are whole lines, each with its end."""
        if body is not None:
            headers += f"Content-Length: {len(body)}\r\n"
        head = f"{method} {self.address.base_path}{path} HTTP/1.1\r\n{self._common}{headers}\r\n"
        return head.encode("latin-1") + (body or b"")

    async def connect(self, factory: Callable[[], "AnyProtocol"]) -> "AnyProtocol":
        """Open a connection; raises Unavailable."""
        address = self.address
        tls = ssl.create_default_context() if address.scheme == "https" else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                _, protocol = await loop.create_connection(
                    factory, address.host, address.port, ssl=tls
                )
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"cannot reach {address.url}: {error}") from error
        return protocol

    @contextlib.asynccontextmanager
    async def connections(self, count: int) -> AsyncIterator[list[Connection]]:
        """Open so many connections, and close them afterwards."""
        opened: list[Connection] = []
        try:
            for _ in range(count):
                connection = await self.connect(Connection)
                assert isinstance(connection, Connection)
                opened.append(connection)
            yield opened
        finally:
            for each in opened:
                each.close()


AnyProtocol = asyncio.Protocol


def check_status(status: int, body: bytes) -> None:
    """Raise RestMQError with the server's words for a status that is not 2xx."""
    if not 200 <= status < 300:
        kind = "application/json" if body.startswith(b"{") else "text/plain"
        raise refusal(status, "refused", kind, body)


@dataclass
class Result:
    """What came of one work."""

    name: str
    what: str
    """What was counted."""
    count: int = 0
    elapsed_seconds: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)
    slices: list[int] = field(default_factory=lambda: [0] * SLICES)
    """How many were done in each part of the time."""

    @property
    def rate(self) -> float:
        """So many a second."""
        return self.count / self.elapsed_seconds if self.elapsed_seconds else 0.0


class Work(Protocol):
    """One kind of load."""

    @property
    def name(self) -> str:
        """How the command line calls it."""

    async def measure(self, meter: "Meter") -> None:
        """Do it until the meter says that the time is up, and count what was done."""


class Meter:
    """Counts what is done, and says when the time is up."""

    def __init__(self, result: Result, seconds: float) -> None:
        self.result = result
        self._seconds = seconds
        self._start = time.perf_counter()

    def restart(self) -> None:
        """Begin now: what came before was preparation."""
        self._start = time.perf_counter()

    @property
    def share(self) -> float:
        """How much of the time has passed, from 0 to 1."""
        return min((time.perf_counter() - self._start) / self._seconds, 1.0)

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.perf_counter() - self._start >= self._seconds

    def add(self, count: int, started_at: float) -> None:
        """Count what was begun at ``started_at`` (of ``time.perf_counter``) and is done now."""
        self.result.latencies.add(time.perf_counter() - started_at)
        self.count(count)

    def count(self, count: int) -> None:
        """Count what has no time of its own."""
        result = self.result
        result.count += count
        elapsed = time.perf_counter() - self._start
        result.elapsed_seconds = elapsed
        result.slices[min(int(SLICES * elapsed / self._seconds), SLICES - 1)] += count
