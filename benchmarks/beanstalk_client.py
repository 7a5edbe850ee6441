"""A small beanstalkd client over raw sockets: many connections, one operation under way on each.

Speaks the few commands of the beanstalkd protocol (its ``doc/protocol.txt``) that the rows need:
``put``, ``reserve-with-timeout``, ``delete`` and ``stats-tube``.
"""

from __future__ import annotations

import resource
import selectors
import socket
import time
from contextlib import ExitStack

from benchmarks.harness import HOST, BenchmarkError, Load

READ_BYTES = 65_536
RESERVE = b"reserve-with-timeout 0\r\n"


def put_command(value: bytes) -> bytes:
    """Puts a job at once, with priority 0 and a minute to run."""
    return b"put 0 0 60 %d\r\n%s\r\n" % (len(value), value)


class _Connection:
    """One connection, which repeats an operation: a put, or a reserve and its delete."""

    def __init__(self, port: int, put: bytes | None) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.put = put
        self.buffer = b""
        self.begun = 0.0

    def begin(self) -> None:
        """Sends the first command of an operation."""
        self.begun = time.perf_counter()
        self.socket.sendall(RESERVE if self.put is None else self.put)

    def receive(self) -> bool:
        """Reads what has come; returns whether it ended the operation."""
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise BenchmarkError("beanstalkd closed a connection")
        self.buffer += data
        line, found, rest = self.buffer.partition(b"\r\n")
        if not found:
            return False
        word, *arguments = line.split()
        if word == b"RESERVED":
            if len(rest) < int(arguments[1]) + 2:
                return False
            self.buffer = b""
            self.socket.sendall(b"delete %s\r\n" % arguments[0])
            return False
        if word not in (b"INSERTED", b"DELETED"):
            raise BenchmarkError(f"beanstalkd answered {line!r}")
        self.buffer = b""
        return True


def run(port: int, connections: int, put: bytes | None, seconds: float = 0, count: int = 0) -> Load:
    """Repeats puts, or takes when ``put`` is None, for a time or until there were ``count``."""
    latencies: list[float] = []
    cpu = _cpu_seconds()
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        start = time.perf_counter()
        for _ in range(connections):
            connection = _Connection(port, put)
            stack.enter_context(connection.socket)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.begin()
        while (time.perf_counter() - start < seconds) or len(latencies) < count:
            for key, _ in selector.select(60):
                if key.data.receive():
                    latencies.append(time.perf_counter() - key.data.begun)
                    key.data.begin()
        elapsed = time.perf_counter() - start
    latencies.sort()
    return Load(
        requests=len(latencies),
        requests_per_second=len(latencies) / elapsed,
        latency_p50_ms=latencies[len(latencies) // 2] * 1e3,
        latency_p99_ms=latencies[len(latencies) * 99 // 100] * 1e3,
        client_cpu_share=(_cpu_seconds() - cpu) / elapsed,
    )


def ready_jobs(port: int) -> int:
    """How many jobs are ready in the default tube."""
    with socket.create_connection((HOST, port), timeout=60) as connection:
        connection.sendall(b"stats-tube default\r\nquit\r\n")
        with connection.makefile("rb") as answer:
            for line in answer:
                if line.startswith(b"current-jobs-ready:"):
                    return int(line.split(b":")[1])
    raise BenchmarkError("beanstalkd told no statistics")


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
