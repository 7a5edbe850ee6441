"""Rows of STOMP: sending, consuming, topics, and what an idle client costs."""

from __future__ import annotations

import math
import time
from dataclasses import asdict

from benchmarks import beanstalk_client, raw_http, stomp_client
from benchmarks.harness import Bench, BenchmarkError, Load
from benchmarks.rivals import Beanstalkd
from benchmarks.rows import FILL_MARGIN, WARMUP_SECONDS, Metric, Row, settled
from benchmarks.servers import Server
from benchmarks.stomp_servers import (
    BODY,
    CONNECTIONS,
    OUTSTANDING,
    CoilMQ,
    RabbitMQ,
    StompRestMQ,
    StompServer,
)

TOPIC_MESSAGES = 200
TOPIC_SUBSCRIBERS = 200
IDLE_CLIENTS = 5_000
WARMUP_CLIENTS = 200
QUEUE = "queue"
COUNT_PATIENCE_SECONDS = 20
QUEUE_METRICS = (Metric("client_cpu_share", "how busy the load was, 1 is all it can"),)


def _named(load: Load) -> dict[str, float]:
    """The numbers of a load, the rate under the name of each server that it is compared with."""
    rate = load.requests_per_second
    return asdict(load) | {"beside_rabbitmq": rate, "beside_beanstalkd": rate}


def _unsettled(server: Server) -> int | None:
    """How many messages the queue holds, be they handed out or not; None if nobody knows."""
    if isinstance(server, StompRestMQ):
        stats = raw_http.get_json(server.port, f"/stats/{QUEUE}")
        return int(stats["ready"]) + int(stats["leased"])
    return server.length(QUEUE)


class StompSend(Row):
    """How fast messages are stored."""

    name = "stomp-send"
    title = f"STOMP: SEND with receipt, {CONNECTIONS} connections with {OUTSTANDING} each"
    contenders = (StompRestMQ, RabbitMQ, CoilMQ, Beanstalkd)
    metrics = (
        Metric("requests_per_second", "messages a second", "/s", at_least=20_000),
        Metric("beside_rabbitmq", "beside RabbitMQ", "/s", "rabbitmq", at_least=1.8),
        Metric("beside_beanstalkd", "beside beanstalkd's put", "/s", "beanstalkd", at_least=3.0),
        Metric("latency_p50_ms", "latency of a write, median", "ms"),
        Metric("latency_p99_ms", "latency of a write, 99th percentile", "ms"),
        *QUEUE_METRICS,
    )

    def check(self, bench: Bench) -> None:
        """Needs no tool."""

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Sends for a time, then checks that what was answered is there."""
        _send(server, WARMUP_SECONDS)
        before = _unsettled(server)
        load = _send(server, bench.seconds)
        after = _unsettled(server)
        if before is not None and after is not None:
            added = after - before
            # beanstalkd's client leaves off while one put of each connection is under way.
            if not 0 <= added - load.requests <= CONNECTIONS:
                raise BenchmarkError(f"{load.requests} were answered, {added} are there")
        return _named(load)


def _send(server: Server, seconds: int) -> Load:
    if isinstance(server, Beanstalkd):
        put = beanstalk_client.put_command(BODY)
        return beanstalk_client.run(server.port, CONNECTIONS, put, seconds)
    return server.enqueue(QUEUE, seconds)


class StompConsume(Row):
    """How fast messages are delivered and acknowledged one by one."""

    name = "stomp-consume"
    title = f"STOMP: client-individual, {CONNECTIONS} connections with a prefetch of {OUTSTANDING}"
    contenders = (StompRestMQ, RabbitMQ, CoilMQ, Beanstalkd)
    metrics = (
        Metric("requests_per_second", "messages a second", "/s", at_least=15_000),
        Metric("beside_rabbitmq", "beside RabbitMQ", "/s", "rabbitmq", at_least=1.2),
        Metric("beside_beanstalkd", "reserve + delete", "/s", "beanstalkd", at_least=2.0),
        *QUEUE_METRICS,
    )

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}  # by server, from the rounds so far

    def check(self, bench: Bench) -> None:
        """Needs no tool."""

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Fills the queue, consumes for a time, and checks that as many are gone."""
        rate = self._rates.get(server.name, server.most_dequeues_per_second)
        count = math.ceil(rate * (bench.seconds + WARMUP_SECONDS) * FILL_MARGIN) + 1000
        if isinstance(server, Beanstalkd):
            put = beanstalk_client.put_command(BODY)
            beanstalk_client.run(server.port, CONNECTIONS, put, count=count)
        else:
            server.fill(QUEUE, count)
        server.rest()
        _consume(server, WARMUP_SECONDS)
        before = _settled_length(server)
        load = _consume(server, bench.seconds)
        after = _settled_length(server)
        if after is not None and before is not None:
            if not after:
                raise BenchmarkError(f"the queue of {server.name} ran empty")
            gone = before - after
            if not 0 <= load.requests - gone <= CONNECTIONS * OUTSTANDING and not (
                isinstance(server, Beanstalkd) and 0 <= gone - load.requests <= CONNECTIONS
            ):
                raise BenchmarkError(f"{load.requests} were acknowledged, {gone} are gone")
        self._rates[server.name] = max(load.requests_per_second, self._rates.get(server.name, 0))
        return _named(load)


def _consume(server: Server, seconds: int) -> Load:
    if isinstance(server, Beanstalkd):
        return beanstalk_client.run(server.port, CONNECTIONS, None, seconds)
    return server.dequeue(QUEUE, seconds)


def _settled_length(server: Server) -> int | None:
    """The length once it does not change any more: acknowledgements may be on their way."""
    deadline = time.monotonic() + COUNT_PATIENCE_SECONDS
    last = _unsettled(server)
    while last is not None and time.monotonic() < deadline:
        time.sleep(0.5)
        length = _unsettled(server)
        if length == last:
            return length
        last = length
    return last


class StompTopics(Row):
    """How fast messages of a topic reach all its subscribers."""

    name = "stomp-topics"
    title = (
        f"STOMP: {TOPIC_MESSAGES} messages at once to {TOPIC_SUBSCRIBERS} subscribers of a topic"
    )
    contenders = (StompRestMQ, RabbitMQ)  # CoilMQ stumbles over what comes in several reads
    metrics = (
        Metric("requests_per_second", "deliveries a second", "/s", "rabbitmq", at_least=5.0),
        Metric("latency_p50_ms", "all have all, median", "ms"),
        *QUEUE_METRICS,
    )

    def check(self, bench: Bench) -> None:
        """Needs no tool."""

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Sends bursts, each when all have the one before."""
        assert isinstance(server, StompServer)
        load = stomp_client.fan_out(
            server.target, "/topic/news", BODY, TOPIC_SUBSCRIBERS, TOPIC_MESSAGES, bench.seconds
        )
        return asdict(load)


class StompIdle(Row):
    """What an idle client costs in memory."""

    name = "stomp-idle"
    title = f"STOMP: memory of {IDLE_CLIENTS:,} connected clients that do nothing"
    contenders = (StompRestMQ, RabbitMQ)
    metrics = (Metric("bytes_per_client", "resident bytes each", "B", at_most=12 * 1024),)

    def check(self, bench: Bench) -> None:
        """Needs no tool."""

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Compares resident memory before and after they came, beyond a first few."""
        assert isinstance(server, StompServer)
        with stomp_client.idle_clients(server.target, WARMUP_CLIENTS):
            before = settled(server.memory_bytes)
            with stomp_client.idle_clients(server.target, IDLE_CLIENTS):
                after = settled(server.memory_bytes)
        return {
            "bytes_per_client": (after - before) / IDLE_CLIENTS,
            "resident_bytes_before": before,
            "resident_bytes_after": after,
        }


STOMP_ROWS: tuple[type[Row], ...] = (StompSend, StompConsume, StompTopics, StompIdle)
