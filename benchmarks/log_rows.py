"""Rows of logs: RSE's posts and polls, and Queuey's posts, batches and very many queues."""

from __future__ import annotations

import json
import statistics
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import redis

from benchmarks import log_client
from benchmarks.harness import HOST, Bench, BenchmarkError, Load, Request, find_wrk, run_wrk
from benchmarks.rows import WARMUP_SECONDS, Enqueue, Metric, Row
from benchmarks.servers import FORM, VALUE, Bare, RestMQ, Server

TOKEN = "benchmark"
PUBLISHER = "550e8400-e29b-41d4-a716-446655440000"
READER = "660e8400-e29b-41d4-a716-44665544{number:04d}"
EVENTS = 20_000
EVENTS_A_POLL = 10
POLLS_PER_SECOND = 1_000
POLLING_CLIENTS = 100

APPLICATION = "benchmark"
KEY = "benchmark"
TEXT = {"Authorization": f"Application {KEY}", "Content-Type": "text/plain"}
BATCH = TEXT | {"Content-Type": "application/json"}
BATCH_MESSAGES = 100
FEW_QUEUES = 10

SETTINGS = f"""
[rse]
tokens = ["{TOKEN}"]
event_ttl = 600
[queuey.application_keys]
{APPLICATION} = "{KEY}"
"""


class LogRestMQ(RestMQ):
    """RestMQ as the other rows have it, with a token for RSE and a key for Queuey."""

    def start(self) -> None:
        """Writes the settings where the server looks for them."""
        (self.directory / "restmq.toml").write_text(SETTINGS)
        super().start()

    def redis_memory_bytes(self) -> int:
        """The memory that Redis uses when it has put its log in order."""
        self.rest()
        with redis.Redis(unix_socket_path=str(self.redis_socket)) as client:
            return int(client.info("memory")["used_memory"])

    def get_json(self, request: Request) -> Any:
        """The JSON that a GET answers."""
        url = f"http://{HOST}:{self.port}{request.path}"
        asked = urllib.request.Request(url, headers=dict(request.headers))
        with urllib.request.urlopen(asked, timeout=60) as response:
            return json.load(response)


def _rse_headers(client: str) -> dict[str, str]:
    return {"User-Agent": f"benchmark/1 uuid/{client}", "X-Auth-Token": TOKEN}


def _post_event(channel: str) -> Request:
    body = json.dumps({"data": VALUE[:89]})  # 100 bytes with what is around it
    return Request("POST", f"/rse/{channel}", _rse_headers(PUBLISHER), body)


def _poll(channel: str, query: str, number: int = 0) -> Request:
    headers = _rse_headers(READER.format(number=number))
    return Request("GET", f"/rse/{channel}?{query}", headers)


def _last_event_id(server: LogRestMQ, channel: str) -> int:
    [event] = server.get_json(_poll(channel, "sort=-1&max-events=1"))["events"]
    number: int = event["id"]
    return number


def _check_stored(bench: Bench, load: Load, stored: int, each: int = 1) -> None:
    """Raises BenchmarkError unless as much was stored as was answered.

    The last request of each connection may have been carried out without being answered.
    """
    if not 0 <= stored - load.requests * each <= bench.connections * each:
        raise BenchmarkError(f"{load.requests} requests were answered, {stored} messages stored")


def _bare_load(bench: Bench, server: Bare, *, posts: bool) -> dict[str, float]:
    """What the framework alone does with a request of that kind."""
    run = server.enqueue if posts else server.dequeue
    run("queue", WARMUP_SECONDS)
    return asdict(run("queue", bench.seconds))


class _WrkRow(Row):
    """A row whose load comes from wrk."""

    def check(self, bench: Bench) -> None:
        """Needs wrk."""
        find_wrk()


def _rate_metrics(title: str, at_least: float) -> tuple[Metric, ...]:
    rate = Metric("requests_per_second", title, "/s", reference="bare", at_least=at_least)
    return (rate, *Enqueue.metrics[1:])


class RsePosts(_WrkRow):
    """How fast events are posted."""

    name = "rse-posts"
    title = "RSE: one event of 100 bytes a request"
    contenders = (LogRestMQ, Bare)
    metrics = _rate_metrics("events a second", 0.70)

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Posts for a time, and checks that all events are there."""
        if isinstance(server, Bare):
            return _bare_load(bench, server, posts=True)
        assert isinstance(server, LogRestMQ)
        request = _post_event("posts")
        run_wrk(bench, server.port, request, WARMUP_SECONDS)
        before = _last_event_id(server, "posts")
        load = run_wrk(bench, server.port, request)
        _check_stored(bench, load, _last_event_id(server, "posts") - before)
        return asdict(load)


class RsePolls(_WrkRow):
    """How fast polls are answered that find something, each somewhere else."""

    name = "rse-polls"
    title = f"RSE: polls with last-known-id that return {EVENTS_A_POLL} events"
    contenders = (LogRestMQ, Bare)
    metrics = _rate_metrics("polls a second", 0.50)

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Posts events, then polls all over them."""
        if isinstance(server, Bare):
            return _bare_load(bench, server, posts=False)
        assert isinstance(server, LogRestMQ)
        _post_events(server, "polls", EVENTS)
        spread = EVENTS - EVENTS_A_POLL
        for last_known_id in (0, spread):
            request = _poll("polls", f"max-events={EVENTS_A_POLL}&last-known-id={last_known_id}")
            if len(server.get_json(request)["events"]) != EVENTS_A_POLL:
                raise BenchmarkError("a poll found less than there is")
        request = _poll("polls", f"max-events={EVENTS_A_POLL}&last-known-id=")
        run_wrk(bench, server.port, request, WARMUP_SECONDS, spread)
        return asdict(run_wrk(bench, server.port, request, spread=spread))


class RseQuietPolls(Row):
    """How long a poll takes that finds nothing, which is what most of them do."""

    name = "rse-quiet-polls"
    title = f"RSE: {POLLS_PER_SECOND:,} polls a second that find nothing"
    contenders = (LogRestMQ,)
    metrics = (
        Metric("latency_p50_ms", "latency, median", "ms", at_most=2.0),
        Metric("latency_p99_ms", "latency, 99th percentile", "ms"),
    )

    def check(self, bench: Bench) -> None:
        """Needs no tool."""

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Polls at a steady rate, each client a channel of its own, after the last event."""
        assert isinstance(server, LogRestMQ)
        _post_events(server, "quiet", EVENTS)
        host = f"{HOST}:{server.port}"
        requests = [
            _poll(f"quiet/{number}", f"last-known-id={EVENTS}", number).encode(host)
            for number in range(POLLING_CLIENTS)
        ]
        log_client.latencies_at_rate(server.port, requests, POLLS_PER_SECOND, WARMUP_SECONDS)
        latencies = log_client.latencies_at_rate(
            server.port, requests, POLLS_PER_SECOND, bench.seconds
        )
        return {
            "latency_p50_ms": statistics.median(latencies) * 1e3,
            "latency_p99_ms": statistics.quantiles(latencies, n=100)[98] * 1e3,
        }


def _post_events(server: LogRestMQ, channel: str, count: int) -> None:
    """Posts that many events, whose ids begin with 1."""
    encoded = _post_event(channel).encode(f"{HOST}:{server.port}")
    log_client.create_all(server.port, [iter([encoded] * (count // 10)) for _ in range(10)])
    if _last_event_id(server, channel) != count:
        raise BenchmarkError("the ids of events are not their numbers")


def _create_queue(name: str) -> Request:
    return Request("POST", f"/v1/{APPLICATION}", TEXT | FORM, f"queue_name={name}")


def _post_message(name: str, body: str = VALUE) -> Request:
    return Request("POST", f"/v1/{APPLICATION}/{name}", TEXT, body)


def _send_one_by_one(server: LogRestMQ, *requests: Request) -> None:
    host = f"{HOST}:{server.port}"
    log_client.create_all(server.port, [iter([request.encode(host) for request in requests])])


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
    _check_stored(bench, load, _count(server, "queue") - before, each)
    return load


class QueueyPosts(_WrkRow):
    """How fast single messages are posted."""

    name = "queuey-posts"
    title = "Queuey: one message of 100 bytes a request"
    contenders = (LogRestMQ, Bare)
    metrics = _rate_metrics("messages a second", 0.70)

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Posts for a time."""
        if isinstance(server, Bare):
            return _bare_load(bench, server, posts=True)
        assert isinstance(server, LogRestMQ)
        return asdict(_measure_posts(bench, server, _post_message("queue"), 1))


class QueueyBatches(_WrkRow):
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


class QueueyQueues(_WrkRow):
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
        """Reads a few queues, makes the others, and reads the same few again."""
        assert isinstance(server, LogRestMQ)
        self._make_queues(bench, server, 0, FEW_QUEUES)
        few = self._read(bench, server, FEW_QUEUES)
        before = server.redis_memory_bytes()
        start = time.monotonic()
        self._make_queues(bench, server, FEW_QUEUES, bench.queuey_queues)
        seconds = time.monotonic() - start
        made = bench.queuey_queues - FEW_QUEUES
        bytes_per_queue = (server.redis_memory_bytes() - before) / made
        many = self._read(bench, server, FEW_QUEUES)
        spread = self._read(bench, server, bench.queuey_queues)
        return {
            "bytes_per_queue": bytes_per_queue,
            "read_microseconds_few": 1e6 / few.requests_per_second,
            "read_microseconds_many": 1e6 / many.requests_per_second,
            "read_time_ratio": few.requests_per_second / many.requests_per_second,
            "read_microseconds_spread": 1e6 / spread.requests_per_second,
            "queues_made_per_second": made / seconds,
            "making_seconds": seconds,
        }

    @staticmethod
    def _read(bench: Bench, server: LogRestMQ, spread: int) -> Load:
        prefix = Request("GET", f"/v1/{APPLICATION}/queue-", TEXT)
        run_wrk(bench, server.port, prefix, WARMUP_SECONDS, spread)
        return run_wrk(bench, server.port, prefix, spread=spread)

    @staticmethod
    def _make_queues(bench: Bench, server: LogRestMQ, first: int, end: int) -> None:
        """Makes queues and posts a message to each; checks the last one."""
        host = f"{HOST}:{server.port}"

        def requests(start: int) -> Iterator[bytes]:
            for number in range(start, end, bench.connections):
                name = f"queue-{number:06d}"
                yield _create_queue(name).encode(host)
                yield _post_message(name).encode(host)

        starts = range(first, min(first + bench.connections, end))
        answered = log_client.create_all(server.port, [requests(start) for start in starts])
        if answered != 2 * (end - first):
            raise BenchmarkError(f"{answered} answers to {2 * (end - first)} requests")
        if _count(server, f"queue-{end - 1:06d}") != 1:
            raise BenchmarkError("a queue does not hold its one message")


LOG_ROWS: tuple[type[Row], ...] = (
    RsePosts,
    RsePolls,
    RseQuietPolls,
    QueueyPosts,
    QueueyBatches,
    QueueyQueues,
)
