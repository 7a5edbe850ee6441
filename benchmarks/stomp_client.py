"""The load for STOMP servers: one event loop, which does as little for a frame as can be.

What is sent is the same octets again and again, or one acknowledgement for each message. Frames
that come are counted by the NUL at their end, which no body that the rows send contains; of
messages to be acknowledged only the one header is read that says how.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import resource
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import uvloop

from benchmarks.harness import HOST, BenchmarkError, Load

CONNECTS_AT_ONCE = 100
PATIENCE_SECONDS = 60

_ACKS = {
    "1.2": (re.compile(rb"\nack:([^\n]*)\n"), b"ACK\nid:%b\n\n\0"),
    "1.1": (re.compile(rb"\nmessage-id:([^\n]*)\n"), b"ACK\nmessage-id:%b\nsubscription:0\n\n\0"),
}
"""By version: where a message says how to acknowledge it, and the frame that does so."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Target:
    """Where the load goes, and what a server wants to be told beyond what all are."""

    port: int
    version: str = "1.2"
    connect_headers: Mapping[str, str] = field(default_factory=dict)
    send_headers: Mapping[str, str] = field(default_factory=dict)
    ack: str = "client-individual"

    def connect_frame(self) -> bytes:
        """The frame that opens a connection."""
        headers = {"accept-version": self.version, "heart-beat": "0,0", "host": HOST}
        return frame("CONNECT", {**headers, **self.connect_headers})

    def send_frame(self, destination: str, body: bytes, receipt: bool = True) -> bytes:
        """A SEND, with a receipt."""
        headers = {"destination": destination, "content-length": str(len(body))}
        told = {"receipt": "r"} if receipt else {}
        return frame("SEND", {**headers, **self.send_headers, **told}, body)

    def subscribe_frame(self, destination: str, ack: str, prefetch: int = 1) -> bytes:
        """A SUBSCRIBE, with a receipt."""
        headers = {"id": "0", "destination": destination, "ack": ack, "receipt": "s"}
        return frame("SUBSCRIBE", {**headers, "prefetch-count": str(prefetch)})


def frame(command: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """One frame whose headers need no escapes."""
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    return f"{command}\n{lines}\n".encode() + body + b"\0"


class _Connection(asyncio.Protocol):
    """One connection, which counts the frames that come after CONNECTED."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._first = b""
        self.is_open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.error: BenchmarkError | None = None
        self.count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connects."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._target.connect_frame())

    def data_received(self, data: bytes) -> None:
        """Passes on what comes after CONNECTED."""
        if b"ERROR\n" in data:
            self._fail(f"the server answered {data[:300]!r}")
        elif self.is_open.done():
            self.received(data)
        else:
            self._first += data
            head, end, rest = self._first.partition(b"\0")
            if end and not head.lstrip().startswith(b"CONNECTED\n"):
                self._fail(f"the server answered {head[:300]!r}")
            elif end:
                self.is_open.set_result(None)
                self.received(rest)

    def received(self, data: bytes) -> None:
        """Counts frames."""
        self.count += data.count(b"\0")

    def connection_lost(self, error: Exception | None) -> None:
        """Takes note that the server, or this side, has closed."""
        self._fail(f"the connection was closed: {error}")

    def _fail(self, text: str) -> None:
        self.error = self.error or BenchmarkError(text)
        if not self.is_open.done():
            self.is_open.set_exception(self.error)


@dataclass
class _Write:
    """Frames that were sent together, and how many of them are not answered yet."""

    begun: float
    left: int


class _Sender(_Connection):
    """Keeps so many SENDs under way, and sends ``left`` in all."""

    def __init__(self, target: Target, send_frame: bytes, left: float) -> None:
        super().__init__(target)
        self.left = left
        self.unanswered = 0
        self.latencies: list[float] = []
        self._send_frame = send_frame
        self._writes: deque[_Write] = deque()

    def send(self, count: float) -> None:
        """Sends so many more at once."""
        frames = int(min(count, self.left))
        if frames:
            self.left -= frames
            self.unanswered += frames
            self._writes.append(_Write(time.perf_counter(), frames))
            self.transport.write(self._send_frame * frames)

    def received(self, data: bytes) -> None:
        """Sends one for each receipt; the latency is taken of the last of those sent together."""
        answered = data.count(b"\0")
        self.count += answered
        self.unanswered -= answered
        while answered and self._writes:
            first = self._writes[0]
            part = min(answered, first.left)
            answered -= part
            first.left -= part
            if not first.left:
                self.latencies.append(time.perf_counter() - first.begun)
                self._writes.popleft()
        self.send(data.count(b"\0"))


class _Consumer(_Connection):
    """Acknowledges every message that comes, until told to leave off."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._pattern, self._ack = _ACKS[target.version]
        self._buffer = b""
        self.has_left_off = False

    def received(self, data: bytes) -> None:
        """Acknowledges what is whole."""
        if self.has_left_off:
            return
        data = self._buffer + data
        end = data.rfind(b"\0") + 1
        self._buffer = data[end:]
        found = self._pattern.findall(data, 0, end)
        if found:
            self.count += len(found)
            self.transport.write(b"".join([self._ack % each for each in found]))


Kind = TypeVar("Kind", bound=_Connection)


@contextlib.asynccontextmanager
async def _opened(
    target: Target, count: int, make: Callable[[], Kind]
) -> AsyncIterator[list[Kind]]:
    """Opens so many connections, some at once."""
    loop = asyncio.get_running_loop()
    opened: list[Kind] = []
    try:
        for first in range(0, count, CONNECTS_AT_ONCE):
            some = min(CONNECTS_AT_ONCE, count - first)
            dialled = (loop.create_connection(make, HOST, target.port) for _ in range(some))
            part = [connection for _, connection in await asyncio.gather(*dialled)]
            opened += part
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.gather(*(connection.is_open for connection in part))
        yield opened
        for connection in opened:
            if connection.error is not None:
                raise connection.error
    finally:
        for connection in opened:
            connection.transport.close()


async def _wait(condition: Callable[[], bool], connections: Sequence[_Connection]) -> None:
    deadline = time.perf_counter() + PATIENCE_SECONDS
    while not condition():
        for connection in connections:
            if connection.error is not None:
                raise connection.error
        if time.perf_counter() > deadline:
            raise BenchmarkError("the server stopped answering")
        await asyncio.sleep(0.002)


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(work)
        except (TimeoutError, OSError) as error:
            raise BenchmarkError(f"the load could not go on: {error!r}") from error


def send(
    target: Target,
    destination: str,
    body: bytes,
    connections: int,
    outstanding: int,
    seconds: float = math.inf,
    count: float = math.inf,
) -> Load:
    """Sends for a time, or so many messages, with receipts, and waits for all of these.

    Each connection has ``outstanding`` under way. What is counted is the receipts in that time.
    """

    async def work() -> Load:
        send_frame = target.send_frame(destination, body)
        share = math.ceil(count / connections) if count < math.inf else math.inf
        make = lambda: _Sender(target, send_frame, share)  # noqa: E731
        async with _opened(target, connections, make) as senders:
            cpu, start = _cpu_seconds(), time.perf_counter()
            for sender in senders:
                sender.send(outstanding)
            if seconds < math.inf:
                await asyncio.sleep(seconds)
            else:
                await _wait(lambda: all(s.count >= share for s in senders), senders)
            elapsed, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
            answered = sum(sender.count for sender in senders)
            latencies = sorted(each for sender in senders for each in sender.latencies)
            for sender in senders:
                sender.left = 0
            await _wait(lambda: not any(s.unanswered for s in senders), senders)
            total = sum(sender.count for sender in senders)
        return Load(total, answered / elapsed, *_percentiles(latencies), cpu / elapsed)

    return _run(work())


def consume(
    target: Target, destination: str, connections: int, prefetch: int, seconds: float
) -> Load:
    """Acknowledges messages one by one for a time; what is counted is acknowledgements sent."""

    async def work() -> Load:
        subscribe = target.subscribe_frame(destination, target.ack, prefetch)
        async with _opened(target, connections, lambda: _Consumer(target)) as consumers:
            cpu, start = _cpu_seconds(), time.perf_counter()
            for consumer in consumers:
                consumer.transport.write(subscribe)
            await asyncio.sleep(seconds)
            elapsed, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
            for consumer in consumers:
                consumer.has_left_off = True
            count = sum(consumer.count for consumer in consumers)
            await asyncio.sleep(0.5)  # what was sent last is still on its way
        return Load(count, count / elapsed, 0.0, 0.0, cpu / elapsed)

    return _run(work())


def fan_out(
    target: Target, destination: str, body: bytes, subscribers: int, messages: int, seconds: float
) -> Load:
    """Sends so many messages at once, waits until every subscriber has all, and begins again."""

    async def work() -> Load:
        burst = target.send_frame(destination, body, receipt=False) * messages
        subscribe = target.subscribe_frame(destination, "auto")
        latencies: list[float] = []
        async with (
            _opened(target, subscribers, lambda: _Connection(target)) as listening,
            _opened(target, 1, lambda: _Connection(target)) as publishing,
        ):
            for each in listening:
                each.transport.write(subscribe)
            await _wait(lambda: all(each.count == 1 for each in listening), listening)
            for each in listening:
                each.count = 0
            cpu, start = _cpu_seconds(), time.perf_counter()
            while time.perf_counter() - start < seconds:
                begun, expected = time.perf_counter(), (len(latencies) + 1) * messages
                publishing[0].transport.write(burst)
                await _wait(lambda: all(e.count >= expected for e in listening), listening)  # noqa: B023
                latencies.append(time.perf_counter() - begun)
            elapsed, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
            if any(each.count != expected for each in listening):
                raise BenchmarkError("a subscriber got more than was sent")
        count = len(latencies) * messages * subscribers
        return Load(count, count / elapsed, *_percentiles(sorted(latencies)), cpu / elapsed)

    return _run(work())


@contextlib.contextmanager
def idle_clients(target: Target, count: int) -> Iterator[None]:
    """Holds so many connected clients, which do nothing."""
    loop = uvloop.new_event_loop()
    opened = _opened(target, count, lambda: _Connection(target))
    try:
        loop.run_until_complete(opened.__aenter__())
        try:
            yield
        finally:
            loop.run_until_complete(opened.__aexit__(None, None, None))
    finally:
        loop.close()


def _percentiles(latencies: Sequence[float]) -> tuple[float, float]:
    if not latencies:
        raise BenchmarkError("nothing was answered")
    middle, late = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
    return middle * 1e3, late * 1e3


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
