"""Plain HTTP clients over sockets for the rows of logs: one that keeps to a rate, one that hurries.

Like ``raw_http.py`` they know just enough HTTP/1.1 for requests of our own choosing.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle, islice

from benchmarks.harness import HOST, BenchmarkError

READ_BYTES = 256 * 1024
TIMEOUT_SECONDS = 60
EMPTY = b"HTTP/1.1 204"
STATUS_LINE_START = b"HTTP/1.1 "
CREATED = b"HTTP/1.1 201"
DONE = b"HTTP/1.1 200"
END_OF_HEAD = b"\r\n\r\n"


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection((HOST, port), timeout=TIMEOUT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def latencies_at_rate(
    port: int, requests: Sequence[bytes], per_second: int, seconds: float
) -> list[float]:
    """Sends requests at a steady rate; returns how long each took, in seconds, all answered 204.

    Each request has a connection of its own and comes round again. The time counts from when a
    request was due, so one that has to wait for the client is no better than one that has to wait
    for the server. The client never sleeps, as that would be less exact than what it measures.
    """
    count = int(per_second * seconds)
    latencies: list[float] = []
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        free: deque[tuple[socket.socket, bytes]] = deque()
        for request in requests:
            connection = stack.enter_context(_connect(port))
            selector.register(connection, selectors.EVENT_READ, request)
            free.append((connection, request))
        due_times: dict[socket.socket, float] = {}
        sent, start = 0, time.perf_counter()
        while len(latencies) < count:
            now = time.perf_counter()
            while sent < count and free and now >= (due := start + sent / per_second):
                connection, request = free.popleft()
                connection.sendall(request)
                due_times[connection] = due
                sent += 1
            for key, _ in selector.select(0):
                connection = key.fileobj  # type: ignore[assignment]
                data = connection.recv(READ_BYTES)
                if not (data.startswith(EMPTY) and data.endswith(END_OF_HEAD)):
                    raise BenchmarkError(f"a poll for nothing was answered {data[:300]!r}")
                latencies.append(time.perf_counter() - due_times.pop(connection))
                free.append((connection, key.data))
            if now - start > seconds + TIMEOUT_SECONDS:
                raise BenchmarkError(f"only {len(latencies)} of {count} polls were answered")
    return latencies


def create_all(
    ports: Sequence[int],
    sequences: Sequence[Iterator[bytes]],
    depth: int = 16,
    seconds: float = 3600,
    status: bytes = CREATED,
) -> int:
    """Sends each sequence of requests over a connection of its own; returns how many there were.

    The connections go to the ports in turn. Up to ``depth`` requests are under way on each. Raises
    BenchmarkError when any answer has another status, or all of it takes longer than ``seconds``.
    """
    deadline = time.monotonic() + seconds
    sent = answered = 0
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        tails: dict[socket.socket, bytes] = {}

        def send(connection: socket.socket, requests: Iterator[bytes], count: int) -> int:
            batch = list(islice(requests, count))
            connection.sendall(b"".join(batch))
            return len(batch)

        for port, requests in zip(cycle(ports), sequences, strict=False):
            connection = stack.enter_context(_connect(port))
            selector.register(connection, selectors.EVENT_READ, requests)
            tails[connection] = b""
            sent += send(connection, requests, depth)
        while answered < sent:
            events = selector.select(TIMEOUT_SECONDS)
            if not events or time.monotonic() > deadline:
                raise BenchmarkError(f"the server answered only {answered} requests in time")
            for key, _ in events:
                connection = key.fileobj  # type: ignore[assignment]
                data = connection.recv(READ_BYTES)
                if not data:
                    raise BenchmarkError("the server closed a connection")
                data = tails[connection] + data
                # A status line that is split comes again, whole, with the next piece.
                whole = max(len(data) - len(status) + 1, 0)
                count = data.count(STATUS_LINE_START, 0, whole + len(STATUS_LINE_START) - 1)
                if data.count(status) != count:
                    raise BenchmarkError(f"a request failed: {data[:300]!r}")
                tails[connection] = data[whole:]
                answered += count
                sent += send(connection, key.data, count)
    return answered
