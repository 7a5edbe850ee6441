"""A plain HTTP client over sockets, for filling queues fast and for holding idle connections.

It knows just enough HTTP/1.1 for servers and requests of our own choosing: responses are counted
by their status lines, which none of the bodies that the benchmarks send contains.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any
from urllib.request import urlopen

from benchmarks.harness import HOST, BenchmarkError, Request

STATUS_LINE_START = b"HTTP/1.1 "
SUCCESS = b"HTTP/1.1 200"
READ_BYTES = 256 * 1024
TIMEOUT_SECONDS = 60


def get_json(port: int, path: str) -> Any:
    """The JSON that a GET answers."""
    with urlopen(f"http://{HOST}:{port}{path}", timeout=TIMEOUT_SECONDS) as response:
        return json.load(response)


class _Pipeline:
    """One keep-alive connection with several requests under way."""

    def __init__(self, port: int, requests: Iterator[bytes]) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=TIMEOUT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.requests = requests
        self.tail = b""

    def send(self, count: int) -> int:
        """Sends up to ``count`` more requests; returns how many there were."""
        batch = list(islice(self.requests, count))
        if batch:
            self.socket.sendall(b"".join(batch))
        return len(batch)

    def receive(self) -> int:
        """Reads what has come; returns how many responses began in it."""
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise BenchmarkError("the server closed a connection before it had answered")
        data = self.tail + data
        # A status line that is split comes again, whole, with the next piece.
        whole = max(len(data) - len(SUCCESS) + 1, 0)
        count = data.count(STATUS_LINE_START, 0, whole + len(STATUS_LINE_START) - 1)
        if data.count(SUCCESS) != count:
            raise BenchmarkError(f"a request failed: {data[:300]!r}")
        self.tail = data[whole:]
        return count


def send_all(
    port: int, sequences: Iterable[Iterable[bytes]], depth: int = 16, seconds: float = 600
) -> int:
    """Sends each sequence of requests over a connection of its own; returns the number answered.

    Up to ``depth`` requests are under way on one connection, answered in order. Raises
    BenchmarkError when any answer is not 200, or all of it takes longer than ``seconds``.
    """
    deadline = time.monotonic() + seconds
    sent = answered = 0
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for sequence in sequences:
            pipeline = _Pipeline(port, iter(sequence))
            stack.enter_context(pipeline.socket)
            selector.register(pipeline.socket, selectors.EVENT_READ, pipeline)
            sent += pipeline.send(depth)
        while answered < sent:
            events = selector.select(TIMEOUT_SECONDS)
            if not events or time.monotonic() > deadline:
                raise BenchmarkError(f"the server answered only {answered} requests in time")
            for key, _ in events:
                count = key.data.receive()
                answered += count
                sent += key.data.send(count)
    return answered


def send_repeatedly(port: int, request: Request, count: int, connections: int) -> None:
    """Sends one request ``count`` times, as fast as the server takes it."""
    encoded = request.encode(f"{HOST}:{port}")
    share, rest = divmod(count, connections)
    send_all(port, ([encoded] * (share + (i < rest)) for i in range(connections)))


def _read_headers(connection: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(READ_BYTES)
        if not piece:
            raise BenchmarkError(f"a stream ended before it began: {data[:300]!r}")
        data += piece
    if not data.startswith(SUCCESS):
        raise BenchmarkError(f"a stream was refused: {data[:300]!r}")


@contextmanager
def idle_streams(port: int, request: Request, count: int) -> Iterator[None]:
    """Holds ``count`` connections on which the server has begun a stream."""
    encoded = request.encode(f"{HOST}:{port}")
    with ExitStack() as stack:
        for _ in range(count):
            connection = socket.create_connection((HOST, port), timeout=TIMEOUT_SECONDS)
            stack.enter_context(connection)
            connection.sendall(encoded)
            _read_headers(connection)
        yield
