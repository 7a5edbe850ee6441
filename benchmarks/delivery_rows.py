"""Rows of reliable delivery: batches, leases, leased streams, and queues that hold very much."""

from __future__ import annotations

import http.client
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from benchmarks import raw_http, websocket_client
from benchmarks.harness import (
    HOST,
    Bench,
    BenchmarkError,
    Request,
    find_wrk,
    run_wrk,
    run_wrk_script,
)
from benchmarks.rivals import Nchan, Webdis
from benchmarks.rows import FILL_MARGIN, WARMUP_SECONDS, Metric, Row
from benchmarks.servers import VALUE, Bare, HttpServer, RestMQ, Server

BATCH_MESSAGES = 100
NDJSON = {"Content-Type": "application/x-ndjson"}
MOST_LEASES_PER_SECOND = 30_000
MOST_SOCKET_ACKS_PER_SECOND = 60_000
PREFETCH = 100

FILL_BATCH = 1000
DEEP_READY = 1_000_000
DEEP_LEASED = 100_000
SMALL_READY = 5_000
TIMED_OPERATIONS = 2_000
LONG_LEASE = 43_200


def _batch_request(queue: str, count: int) -> Request:
    return Request("POST", f"/q/{queue}", NDJSON, "\n".join([VALUE] * count))


def _fill(bench: Bench, server: RestMQ, queue: str, count: int) -> None:
    """Adds messages in batches."""
    batches = math.ceil(count / FILL_BATCH)
    request = _batch_request(queue, FILL_BATCH)
    raw_http.send_repeatedly(server.port, request, batches, min(4, batches))
    server.rest()


class Batches(Row):
    """How fast messages are added in batches, beside others that add one by one."""

    name = "batches"
    title = "Batches: 100 messages of 100 bytes a request, the others one"
    contenders = (RestMQ, Webdis, Nchan)
    metrics = (
        Metric("messages_per_second", "messages a second", "/s", "webdis", at_least=5.0),
        Metric("messages_a_second", "the same", "/s", "nchan", at_least=1.5),
    )

    def check(self, bench: Bench) -> None:
        """Needs wrk."""
        find_wrk()

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Adds for a time, and checks that all is there."""
        assert isinstance(server, HttpServer)
        if not isinstance(server, RestMQ):
            server.enqueue("queue", WARMUP_SECONDS)
            load = server.enqueue("queue", bench.seconds)
            return asdict(load) | _messages(load.requests_per_second)
        request = _batch_request("queue", BATCH_MESSAGES)
        run_wrk(bench, server.port, request, WARMUP_SECONDS)
        before = server.length("queue") or 0
        load = run_wrk(bench, server.port, request)
        added = (server.length("queue") or 0) - before
        least = load.requests * BATCH_MESSAGES
        if not least <= added <= least + bench.connections * BATCH_MESSAGES:
            raise BenchmarkError(f"{load.requests} batches were answered, {added} messages added")
        return asdict(load) | _messages(load.requests_per_second * BATCH_MESSAGES)


def _messages(per_second: float) -> dict[str, float]:
    """The rate under the names of both metrics, which compare it with different servers."""
    return {"messages_per_second": per_second, "messages_a_second": per_second}


class Leases(Row):
    """How fast messages are leased and acknowledged, two requests each."""

    name = "leases"
    title = "Leases: lease + ack pairs, beside single requests that store nothing"
    contenders = (RestMQ, Bare)
    metrics = (
        Metric("pairs_per_second", "pairs a second", "/s", reference="bare", at_least=0.45),
        Metric("latency_p50_ms", "latency of a request, median", "ms"),
        Metric("latency_p99_ms", "latency of a request, 99th percentile", "ms"),
    )

    def check(self, bench: Bench) -> None:
        """Needs wrk."""
        find_wrk()

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Leases and acknowledges for a time, and checks that as many are gone."""
        if isinstance(server, Bare):
            server.dequeue("queue", WARMUP_SECONDS)
            load = server.dequeue("queue", bench.seconds)
            return asdict(load) | {"pairs_per_second": load.requests_per_second}
        assert isinstance(server, RestMQ)
        seconds = bench.seconds + WARMUP_SECONDS
        _fill(bench, server, "queue", math.ceil(MOST_LEASES_PER_SECOND * seconds * FILL_MARGIN))
        url, words = f"http://{HOST}:{server.port}/", ["/q/queue?lease=600"]
        run_wrk_script(bench, url, "lease.lua", words, WARMUP_SECONDS)
        before = _waiting(server)
        load = run_wrk_script(bench, url, "lease.lua", words)
        gone = before - _waiting(server)
        if not 0 <= gone - load.requests <= bench.connections:
            raise BenchmarkError(f"{load.requests} pairs were answered, {gone} messages are gone")
        return asdict(load) | {"pairs_per_second": load.requests_per_second}


def _waiting(server: RestMQ) -> int:
    stats: dict[str, int] = raw_http.get_json(server.port, "/stats/queue")
    if not stats["ready"]:
        raise BenchmarkError("the queue ran empty")
    return stats["ready"] + stats["leased"]


class LeasedSocket(Row):
    """How fast one leased WebSocket consumer gets messages and acknowledges them."""

    name = "socket"
    title = f"One leased WebSocket consumer, prefetch {PREFETCH}"
    contenders = (RestMQ,)
    metrics = (Metric("acks_per_second", "messages acked a second", "/s", at_least=15_000),)

    def check(self, bench: Bench) -> None:
        """Needs no tool."""

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Consumes for a time, and checks that as many are gone."""
        assert isinstance(server, RestMQ)
        count = MOST_SOCKET_ACKS_PER_SECOND * bench.seconds
        _fill(bench, server, "queue", count)
        before = _waiting(server)
        path = f"/ws/queue?ack=1&prefetch={PREFETCH}&lease=600"
        load = websocket_client.consume(server.port, path, bench.seconds)
        gone = before - _waiting(server)
        if not 0 <= gone - load.requests <= 2 * PREFETCH:
            raise BenchmarkError(f"{load.requests} acks were answered, {gone} messages are gone")
        return asdict(load) | {"acks_per_second": load.requests_per_second}


class Deep(Row):
    """Whether a queue that holds very much is as fast as a small one."""

    name = "deep"
    title = f"A queue of {DEEP_READY:,} ready and {DEEP_LEASED:,} leased beside a small one"
    contenders = (RestMQ,)
    metrics = (
        Metric("add_time_ratio", "time of an add, ratio", "", at_most=1.2),
        Metric("lease_time_ratio", "time of a lease, ratio", "", at_most=1.2),
        Metric("ack_time_ratio", "time of an ack, ratio", "", at_most=1.2),
        Metric("add_microseconds", "an add to the deep queue, one at a time", "us"),
        Metric("lease_microseconds", "a lease from it", "us"),
        Metric("ack_microseconds", "an ack", "us"),
    )

    def check(self, bench: Bench) -> None:
        """Needs no tool."""

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Times single operations over one connection, on both queues in turn."""
        assert isinstance(server, RestMQ)
        _fill(bench, server, "deep", DEEP_READY + DEEP_LEASED)
        _fill(bench, server, "small", SMALL_READY)
        client = http.client.HTTPConnection(HOST, server.port, timeout=60)
        for _ in range(DEEP_LEASED // FILL_BATCH):
            path = f"/q/deep?lease={LONG_LEASE}&count={FILL_BATCH}"
            if len(_ask(client, "GET", path)) != FILL_BATCH:
                raise BenchmarkError("a lease gave less than it should")
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(TIMED_OPERATIONS):
            for queue in ("deep", "small"):
                self._time_operations(client, queue, times)
        client.close()
        values = {}
        for operation in ("add", "lease", "ack"):
            deep = statistics.median(times[operation, "deep"])
            values[f"{operation}_microseconds"] = deep * 1e6
            values[f"{operation}_time_ratio"] = deep / statistics.median(times[operation, "small"])
        return values

    @staticmethod
    def _time_operations(
        client: http.client.HTTPConnection,
        queue: str,
        times: dict[tuple[str, str], list[float]],
    ) -> None:
        def timed(operation: str, call: Callable[[], Any]) -> Any:
            start = time.perf_counter()
            result = call()
            times.setdefault((operation, queue), []).append(time.perf_counter() - start)
            return result

        timed("add", lambda: _ask(client, "POST", f"/q/{queue}", VALUE))
        leased = timed("lease", lambda: _ask(client, "GET", f"/q/{queue}?lease={LONG_LEASE}"))
        timed("ack", lambda: _ask(client, "DELETE", f"/lease/{leased['receipt']}"))


def _ask(client: http.client.HTTPConnection, method: str, path: str, body: str = "") -> Any:
    client.request(method, path, body or None, {"Accept": "application/json"})
    response = client.getresponse()
    data = response.read()
    if response.status != 200:
        raise BenchmarkError(f"{method} {path}: {response.status} {data[:200]!r}")
    return json.loads(data)


DELIVERY_ROWS: tuple[type[Row], ...] = (Batches, Leases, LeasedSocket, Deep)
