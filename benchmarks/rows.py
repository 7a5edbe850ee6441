"""The rows of the benchmark: what is measured, of which servers, and what is aimed at.

A row is a class with a ``measure`` that is given one freshly started server and answers numbers
by name. Those listed in ``metrics`` are reported; the rest is kept in the JSON for who looks
closer. A new row is a new class in ``ROWS``; a new server is a new class in its ``contenders``.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar

import redis

from benchmarks import raw_http
from benchmarks.harness import (
    HOST,
    Bench,
    BenchmarkError,
    Load,
    Request,
    compile_fanout_client,
    find_wrk,
    run_fanout_client,
    run_wrk,
)
from benchmarks.rivals import Beanstalkd, Nchan, Webdis
from benchmarks.servers import FORM, VALUE, Bare, HttpServer, RestMQ, Server, rewrites_log

WARMUP_SECONDS = 1
WARMUP_CONNECTIONS = 200
SETTLE_SECONDS = 0.5
SETTLE_LIMIT_SECONDS = 60
FILL_MARGIN = 1.3
TAKE_COMMAND = '{{"cmd":"take","queue":"{queue}"}}'


@dataclass(frozen=True)
class Metric:
    """One reported number of a row; the bounds apply to RestMQ.

    With a ``reference`` they bound the ratio to that server's median, else the median itself.
    """

    name: str
    title: str
    unit: str = ""
    reference: str | None = None
    at_least: float | None = None
    at_most: float | None = None


class Row(ABC):
    """One comparison."""

    name: ClassVar[str]
    title: ClassVar[str]
    contenders: ClassVar[tuple[type[Server], ...]]
    metrics: ClassVar[tuple[Metric, ...]]

    @abstractmethod
    def check(self, bench: Bench) -> None:
        """Raises BenchmarkError when a tool that the whole row needs is not installed."""

    @abstractmethod
    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Measures one server once."""


class Enqueue(Row):
    """How fast single messages are added."""

    name = "enqueue"
    title = "Enqueue: one message of 100 bytes a request"
    contenders = (RestMQ, Bare, Webdis, Nchan, Beanstalkd)
    metrics = (
        Metric("requests_per_second", "messages a second", "/s", reference="bare", at_least=0.80),
        Metric("latency_p50_ms", "latency, median", "ms"),
        Metric("latency_p99_ms", "latency, 99th percentile", "ms"),
    )

    def check(self, bench: Bench) -> None:
        """Needs wrk."""
        find_wrk()

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Adds for a time, then checks that what was answered is there."""
        server.enqueue("queue", WARMUP_SECONDS)
        before = server.length("queue")
        load = server.enqueue("queue", bench.seconds)
        _check_moved(bench, server, load, before, server.length("queue"))
        return asdict(load)


class Dequeue(Row):
    """How fast single messages are taken from a queue that never runs empty."""

    name = "dequeue"
    title = "Dequeue: one message of 100 bytes a request"
    contenders = (RestMQ, Bare, Webdis, Beanstalkd)
    metrics = Enqueue.metrics

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}  # by server, from the rounds so far

    def check(self, bench: Bench) -> None:
        """Needs wrk."""
        find_wrk()

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Fills the queue, takes for a time, and checks that messages were left."""
        rate = self._rates.get(server.name, server.most_dequeues_per_second)
        seconds = bench.seconds + WARMUP_SECONDS
        server.fill("queue", math.ceil(rate * seconds * FILL_MARGIN) + 1000)
        server.rest()
        server.dequeue("queue", WARMUP_SECONDS)
        before = server.length("queue")
        load = server.dequeue("queue", bench.seconds)
        after = server.length("queue")
        self._rates[server.name] = max(load.requests_per_second, self._rates.get(server.name, 0))
        if after == 0:
            raise BenchmarkError(f"the queue of {server.name} ran empty")
        _check_moved(bench, server, load, before, after)
        return asdict(load)


def _check_moved(
    bench: Bench, server: Server, load: Load, before: int | None, after: int | None
) -> None:
    """Raises BenchmarkError unless the queue changed by as many messages as were answered.

    The last request of each connection may have been carried out without being answered.
    """
    if before is None or after is None:
        return
    moved = abs(after - before)
    if not 0 <= moved - load.requests <= bench.connections:
        raise BenchmarkError(
            f"{server.name} answered {load.requests} requests and moved {moved} messages"
        )


class FanOut(Row):
    """How fast one message reaches all streaming consumers."""

    name = "fanout"
    title = "Fan-out: one message to all consumers of server-sent events"
    contenders = (RestMQ, Nchan)
    metrics = (
        Metric("flow_deliveries_per_second", "deliveries a second", "/s", "nchan", at_least=1.2),
        Metric("deliveries_per_second", "the same, each message waited for", "/s", "nchan", 1.2),
        Metric("latency_p50_ms", "all have it, median", "ms", reference="nchan"),
        Metric("latency_p99_ms", "all have it, 99th percentile", "ms", reference="nchan"),
        Metric("burst_deliveries_per_second", "deliveries a second, bursts", "/s", "nchan", 1.2),
        Metric("burst_latency_p50_ms", "all have the burst, median", "ms", reference="nchan"),
    )

    def check(self, bench: Bench) -> None:
        """Needs a C compiler."""
        compile_fanout_client(bench)

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Publishes in a flow, one by one, and in bursts, each to consumers of their own queue.

        In the flow one publisher goes on as soon as it is answered, as a program would; one by
        one it waits until all consumers have the message, which measures the way of a single one.
        """
        assert isinstance(server, HttpServer)
        values: dict[str, float] = {}
        ways = (("flow_", "flow", 1), ("", "single", 1), ("burst_", "burst", bench.burst))
        for prefix, queue, burst in ways:
            subscribe, publish = server.subscribe_request(queue), server.publish_request(queue)
            flow = queue == "flow"
            result = run_fanout_client(bench, server.port, subscribe, publish, burst, flow)
            if result["extra_deliveries"]:
                raise BenchmarkError(f"{server.name} delivered messages twice")
            values |= {prefix + name: value for name, value in result.items()}
        return values


class Idle(Row):
    """What an idle streaming consumer costs in memory."""

    name = "idle"
    title = "Memory: an idle consumer of server-sent events"
    contenders = (RestMQ, Bare, Nchan)
    metrics = (Metric("bytes_per_consumer", "resident bytes each", "B", at_most=12 * 1024),)

    def check(self, bench: Bench) -> None:
        """Needs no tool."""

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Compares resident memory before and after the consumers came, beyond a first few."""
        assert isinstance(server, HttpServer)
        request = server.subscribe_request("idle")
        with raw_http.idle_streams(server.port, request, WARMUP_CONNECTIONS):
            before = settled(server.memory_bytes)
            with raw_http.idle_streams(server.port, request, bench.idle_connections):
                after = settled(server.memory_bytes)
        return {
            "bytes_per_consumer": (after - before) / bench.idle_connections,
            "resident_bytes_before": before,
            "resident_bytes_after": after,
        }


class Queues(Row):
    """What an empty queue costs in Redis, and whether many of them slow an add down."""

    name = "queues"
    title = "Many queues"
    contenders = (RestMQ,)
    metrics = (
        Metric("bytes_per_queue", "bytes in Redis, empty and known", "B", at_most=700),
        Metric("add_microseconds_alone", "time of an add, no other queue", "us"),
        Metric("add_microseconds_crowded", "time of an add, all queues there", "us"),
        Metric("add_time_ratio", "ratio of the two", "", at_most=1.10),
        Metric("add_microseconds_spread", "time of an add, to all queues in turn", "us"),
    )

    def check(self, bench: Bench) -> None:
        """Needs wrk."""
        find_wrk()

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Measures one queue alone, makes the others, and measures it again."""
        assert isinstance(server, RestMQ)
        server.enqueue("probe", WARMUP_SECONDS)
        alone = server.enqueue("probe", bench.seconds)
        with redis.Redis(unix_socket_path=str(server.redis_socket)) as client:
            before = settled(lambda: _redis_memory_bytes(client))
            start = time.monotonic()
            self._make_queues(bench, server)
            seconds = time.monotonic() - start
            after = settled(lambda: _redis_memory_bytes(client))
        server.enqueue("probe", WARMUP_SECONDS)
        crowded = server.enqueue("probe", bench.seconds)
        prefix = Request("POST", "/q/queue-", FORM, f"value={VALUE}")
        spread = run_wrk(bench, server.port, prefix, spread=bench.queues)
        return {
            "bytes_per_queue": (after - before) / bench.queues,
            "add_microseconds_alone": 1e6 / alone.requests_per_second,
            "add_microseconds_crowded": 1e6 / crowded.requests_per_second,
            "add_time_ratio": alone.requests_per_second / crowded.requests_per_second,
            "add_microseconds_spread": 1e6 / spread.requests_per_second,
            "making_seconds": seconds,
        }

    @staticmethod
    def _make_queues(bench: Bench, server: RestMQ) -> None:
        """Adds a message to each queue and takes it again, leaving no body behind."""

        def requests(first: int) -> Iterator[bytes]:
            host = f"{HOST}:{server.port}"
            for number in range(first, bench.queues, bench.connections):
                queue = f"queue-{number:06d}"
                yield Request("POST", f"/q/{queue}", FORM, "value=x").encode(host)
                take = TAKE_COMMAND.format(queue=queue)
                yield Request("POST", "/queue", FORM, f"body={take}").encode(host)

        sequences = (requests(first) for first in range(bench.connections))
        answered = raw_http.send_all(server.port, sequences)
        if answered != 2 * bench.queues:
            raise BenchmarkError(f"{answered} answers to {2 * bench.queues} requests")
        if server.length(f"queue-{bench.queues - 1:06d}") != 0:
            raise BenchmarkError("a queue that was emptied holds messages")


def _redis_memory_bytes(client: redis.Redis) -> int | None:
    """The memory that Redis uses, or None while it rewrites its log in the background."""
    return None if rewrites_log(client) else int(client.info("memory")["used_memory"])


def settled(read_bytes: Callable[[], int | None]) -> int:
    """The reading once two in a row differ by less than a part in a thousand."""
    deadline = time.monotonic() + SETTLE_LIMIT_SECONDS
    last = None
    while time.monotonic() < deadline:
        time.sleep(SETTLE_SECONDS)
        reading = read_bytes()
        if reading is not None and last is not None and abs(reading - last) <= reading / 1000:
            return reading
        last = reading
    raise BenchmarkError(f"memory did not settle within {SETTLE_LIMIT_SECONDS} s")


BASIC_ROWS: tuple[type[Row], ...] = (Enqueue, Dequeue, FanOut, Idle, Queues)
