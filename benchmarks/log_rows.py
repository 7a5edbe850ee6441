"""Rows of logs: posts and polls of RSE, writes and reads of rivulet's channels, and Queuey's."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict

from benchmarks import log_client
from benchmarks.harness import HOST, Bench, BenchmarkError, Request, run_wrk
from benchmarks.log_servers import (
    TOKEN,
    LogRestMQ,
    WrkRow,
    bare_load,
    check_stored,
    rate_metrics,
)
from benchmarks.queuey_rows import QUEUEY_ROWS
from benchmarks.rows import WARMUP_SECONDS, Metric, Row
from benchmarks.servers import VALUE, Bare, Server

PUBLISHER = "550e8400-e29b-41d4-a716-446655440000"
READER = "660e8400-e29b-41d4-a716-44665544{number:04d}"
EVENTS = 20_000
EVENTS_A_POLL = 10
POLLS_PER_SECOND = 1_000
POLLING_CLIENTS = 100

CHANNEL = "/channels/benchmark"
MESSAGES = 20_000
MESSAGES_A_READ = 10
READERS = 1_000
"""Clients that each have a cursor of their own: all that one server lists at once."""
JSON = {"Content-Type": "application/json"}


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


class RsePosts(WrkRow):
    """How fast events are posted."""

    name = "rse-posts"
    title = "RSE: one event of 100 bytes a request"
    contenders = (LogRestMQ, Bare)
    metrics = rate_metrics("events a second", 0.70)

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Posts for a time, and checks that all events are there."""
        if isinstance(server, Bare):
            return bare_load(bench, server, posts=True)
        assert isinstance(server, LogRestMQ)
        request = _post_event("posts")
        run_wrk(bench, server.port, request, WARMUP_SECONDS)
        before = _last_event_id(server, "posts")
        load = run_wrk(bench, server.port, request)
        check_stored(bench, load, _last_event_id(server, "posts") - before)
        return asdict(load)


class RsePolls(WrkRow):
    """How fast polls are answered that find something, each somewhere else."""

    name = "rse-polls"
    title = f"RSE: polls with last-known-id that return {EVENTS_A_POLL} events"
    contenders = (LogRestMQ, Bare)
    metrics = rate_metrics("polls a second", 0.50)

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Posts events, then polls all over them."""
        if isinstance(server, Bare):
            return bare_load(bench, server, posts=False)
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
    log_client.create_all([server.port], [iter([encoded] * (count // 10)) for _ in range(10)])
    if _last_event_id(server, channel) != count:
        raise BenchmarkError("the ids of events are not their numbers")


def _write_message() -> Request:
    body = json.dumps({"data": VALUE, "src": "benchmark"})
    return Request("POST", CHANNEL, JSON, body)


class RivuletWrites(WrkRow):
    """How fast messages are written to a channel."""

    name = "rivulet-writes"
    title = "rivulet: one message of 100 bytes a request"
    contenders = (LogRestMQ, Bare)
    metrics = rate_metrics("messages a second")

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Writes for a time, and checks that all messages are there."""
        if isinstance(server, Bare):
            return bare_load(bench, server, posts=True)
        assert isinstance(server, LogRestMQ)
        run_wrk(bench, server.port, _write_message(), WARMUP_SECONDS)
        before = server.get_json(Request("GET", CHANNEL))["last"]
        load = run_wrk(bench, server.port, _write_message())
        check_stored(bench, load, server.get_json(Request("GET", CHANNEL))["last"] - before)
        return asdict(load)


class RivuletReads(WrkRow):
    """How fast clients read on at their cursors, which move each time."""

    name = "rivulet-reads"
    title = f"rivulet: reads at {READERS:,} cursors that return {MESSAGES_A_READ} messages"
    contenders = (LogRestMQ, Bare)
    metrics = rate_metrics("reads a second")

    def measure(self, bench: Bench, server: Server) -> dict[str, float]:
        """Writes messages, subscribes clients before the first, and lets them read in turn."""
        if isinstance(server, Bare):
            return bare_load(bench, server, posts=False)
        assert isinstance(server, LogRestMQ)
        host = f"{HOST}:{server.port}"
        written = [_write_message().encode(host)] * (MESSAGES // 10)
        log_client.create_all([server.port], [iter(written) for _ in range(10)])
        subscriptions = [
            Request("PUT", f"/cursors/reader-{number:06d}/benchmark?policy=earliest").encode(host)
            for number in range(READERS)
        ]
        log_client.create_all([server.port], [iter(subscriptions)], status=log_client.DONE)
        query = f"limit={MESSAGES_A_READ}&bufsize={MESSAGES}"
        request = Request("POST", f"/cursors/reader-NUMBER/read?{query}")
        run_wrk(bench, server.port, request, WARMUP_SECONDS, READERS)
        before = self._read_so_far(server)
        load = run_wrk(bench, server.port, request, spread=READERS)
        check_stored(bench, load, self._read_so_far(server) - before, MESSAGES_A_READ)
        return asdict(load)

    @staticmethod
    def _read_so_far(server: LogRestMQ) -> int:
        """How many messages all cursors have passed; none may have come to the end."""
        cursors = server.get_json(Request("GET", CHANNEL))["subscribers"]
        if len(cursors) != READERS or max(cursors.values()) >= MESSAGES:
            raise BenchmarkError("a reader has come to the end, or is missing")
        return int(sum(cursors.values()))


LOG_ROWS: tuple[type[Row], ...] = (
    RsePosts,
    RsePolls,
    RseQuietPolls,
    RivuletWrites,
    RivuletReads,
    *QUEUEY_ROWS,
)
