"""Rows of Queuey: single posts, batches, and very many queues."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from benchmarks import log_client
from benchmarks.harness import HOST, Bench, BenchmarkError, Load, Request, run_wrk
from benchmarks.log_servers import (
    APPLICATION,
    KEY,
    LogRestMQ,
    WrkRow,
    bare_load,
    check_stored,
    rate_metrics,
    second_node,
)
from benchmarks.rows import WARMUP_SECONDS, Metric, Row
from benchmarks.servers import FORM, VALUE, Bare, Server

TEXT = {"Authorization": f"Application {KEY}", "Content-Type": "text/plain"}
BATCH = TEXT | {"Content-Type": "application/json"}
BATCH_MESSAGES = 100
FEW_QUEUES = 10
READ_ROUNDS = 3


def _create_queue(name: str) -> Request:
    return Request("POST", f"/v1/{APPLICATION}", TEXT | FORM, f"queue_name={name}")


def _post_message(name: str, body: str = VALUE) -> Request:
    return Request("POST", f"/v1/{APPLICATION}/{name}", TEXT, body)


def _send_one_by_one(server: LogRestMQ, *requests: Request) -> None:
    host = f"{HOST}:{server.port}"
    log_client.create_all([server.port], [iter([request.encode(host) for request in requests])])


def _count(server: LogRestMQ, queue: str) -> int:
    path = f"/v1/{APPLICATION}?include_count=1&limit=1&offset={queue}"
    [found] = server.get_json(Request("GET", path, TEXT))["queues"]
    count: int = found["count"]
    return count


def _measure_posts(bench: Bench, server: LogRestMQ, request: Request, each: int) -> Load:
    """Posts to a queue for a time, and checks that all messages are there."""
    _send_one_by_one(server, _create_queue("queue"))
    run_wrk(bench, server.port, request, WARMUP_SECONDS)
    before = _count(server, "queue")
    load = run_wrk(bench, server.port, request)
    check_stored(bench, load, _count(server, "queue") - before, each)
    return load


class QueueyPosts(WrkRow):
    """How fast single messages are posted."""

    name = "queuey-posts"
    title = "Queuey: one message of 100 bytes a request"
    contenders = (LogRestMQ, Bare)
    metrics = rate_metrics("messages a second", 0.70)

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Posts for a time."""
        if isinstance(server, Bare):
            return bare_load(bench, server, posts=True)
        assert isinstance(server, LogRestMQ)
        return asdict(_measure_posts(bench, server, _post_message("queue"), 1))


class QueueyBatches(WrkRow):
    """How fast messages are posted in batches."""

    name = "queuey-batches"
    title = f"Queuey: {BATCH_MESSAGES} messages of 100 bytes a request"
    contenders = (LogRestMQ,)
    metrics = (
        Metric("messages_per_second", "messages a second", "/s", at_least=100_000),
        Metric("latency_p50_ms", "latency of a batch, median", "ms"),
        Metric("latency_p99_ms", "latency of a batch, 99th percentile", "ms"),
    )

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Posts for a time."""
        assert isinstance(server, LogRestMQ)
        body = json.dumps({"messages": [{"body": VALUE}] * BATCH_MESSAGES})
        request = Request("POST", f"/v1/{APPLICATION}/queue", BATCH, body)
        load = _measure_posts(bench, server, request, BATCH_MESSAGES)
        return asdict(load) | {"messages_per_second": load.requests_per_second * BATCH_MESSAGES}


class QueueyQueues(WrkRow):
    """What a queue with one message costs in Redis, and whether very many slow a read down."""

    name = "queuey-queues"
    title = "Queuey: very many queues, each with one message of 100 bytes"
    contenders = (LogRestMQ,)
    metrics = (
        Metric("bytes_per_queue", "bytes in Redis, all told", "B", at_most=1536),
        Metric("read_microseconds_few", f"time of a read, {FEW_QUEUES} queues there", "us"),
        Metric("read_microseconds_many", "time of a read of the same, all there", "us"),
        Metric("read_time_ratio", "ratio of the two", "", at_most=1.2),
        Metric("read_microseconds_spread", "time of a read, all queues in turn", "us"),
        Metric("queues_made_per_second", "queues made, and posted to", "/s"),
    )

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Makes the queues, then reads some of them in turns with those of a server with few."""
        assert isinstance(server, LogRestMQ)
        self._make_queues(bench, server, [server.port], 0, FEW_QUEUES)
        before = server.redis_memory_bytes()
        start = time.monotonic()
        with second_node(bench, server) as port:
            self._make_queues(bench, server, [server.port, port], FEW_QUEUES, bench.queuey_queues)
        seconds = time.monotonic() - start
        made = bench.queuey_queues - FEW_QUEUES
        bytes_per_queue = (server.redis_memory_bytes() - before) / made
        with LogRestMQ(bench, server.directory / "few") as few:
            self._make_queues(bench, few, [few.port], 0, FEW_QUEUES)
            return {
                "bytes_per_queue": bytes_per_queue,
                "queues_made_per_second": made / seconds,
                "making_seconds": seconds,
                **self._compare_reads(bench, few, server),
            }

    def _compare_reads(self, bench: Bench, few: LogRestMQ, many: LogRestMQ) -> dict[str, float]:
        """Reads the same queues of both servers in turns, so that a slow minute falls on both."""
        for server in (few, many):
            self._read(bench, server, FEW_QUEUES, WARMUP_SECONDS)
        times: dict[str, list[float]] = {"few": [], "many": [], "spread": []}
        for _ in range(READ_ROUNDS):
            times["few"].append(self._read(bench, few, FEW_QUEUES))
            times["many"].append(self._read(bench, many, FEW_QUEUES))
            times["spread"].append(self._read(bench, many, bench.queuey_queues))
        ratios = [more / less for less, more in zip(times["few"], times["many"], strict=True)]
        medians = {
            f"read_microseconds_{name}": statistics.median(each) for name, each in times.items()
        }
        return medians | {"read_time_ratio": statistics.median(ratios)}

    @staticmethod
    def _read(bench: Bench, server: LogRestMQ, spread: int, seconds: int | None = None) -> float:
        """Reads queues for a time; returns the microseconds of one read."""
        request = Request("GET", f"/v1/{APPLICATION}/queue-", TEXT)
        load = run_wrk(bench, server.port, request, seconds, spread)
        return 1e6 / load.requests_per_second

    @staticmethod
    def _make_queues(
        bench: Bench, server: LogRestMQ, ports: Sequence[int], first: int, end: int
    ) -> None:
        """Makes queues and posts a message to each, over nodes at these ports; checks the last."""
        host = f"{HOST}:{server.port}"
        numbers = iter(range(first, end))  # which all connections share: each goes at its speed

        def requests() -> Iterator[bytes]:
            for number in numbers:
                name = f"queue-{number:06d}"
                yield _create_queue(name).encode(host)
                yield _post_message(name).encode(host)

        count = min(bench.connections, end - first)
        answered = log_client.create_all(ports, [requests() for _ in range(count)])
        if answered != 2 * (end - first):
            raise BenchmarkError(f"{answered} answers to {2 * (end - first)} requests")
        if _count(server, f"queue-{end - 1:06d}") != 1:
            raise BenchmarkError("a queue does not hold its one message")


QUEUEY_ROWS: tuple[type[Row], ...] = (QueueyPosts, QueueyBatches, QueueyQueues)
