"""The metrics: their names, what they mean, and how they are made of what the server knows.

Names that begin with ``restmq_queue_`` tell of one queue, and those of totals over all queues, of
Redis and of ``restmq_nodes`` of everything that shares this Redis: every server tells the same.
All others tell of this server: the sum over its workers since it was started.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from restmq import __version__
from restmq.broker.census import Overview
from restmq.broker.measures import Histogram, Measures
from restmq.broker.redis_state import RedisState
from restmq.broker.stats import QueueStats

LABELLED_QUEUES = 100
"""Queues that are told one by one: the largest and the busiest."""

OTHERS = "(others)"
"""The label under which all other queues are summed."""


class WorkerGauges(NamedTuple):
    """What is the case now in a worker, or in all of them together."""

    consumers: float
    waiting_requests: float
    pending_operations: float
    resident_bytes: float


def server_metrics(
    measures: Measures, cpu_seconds: float, gauges: WorkerGauges, workers: int
) -> Iterator[Metric]:
    """Make the metrics of this server."""
    info = GaugeMetricFamily("restmq_build_info", "Always 1; the label tells the version.")
    info.add_sample("restmq_build_info", {"version": __version__}, 1)
    yield info
    yield GaugeMetricFamily("restmq_workers", "Worker processes of this server.", workers)
    yield CounterMetricFamily(
        "restmq_cpu_seconds", "Processor time of all workers, in seconds.", cpu_seconds
    )
    yield from _counters(measures)
    yield from _histograms(measures)
    yield GaugeMetricFamily(
        "restmq_consumers", "Streaming consumers connected to this server.", gauges.consumers
    )
    yield GaugeMetricFamily(
        "restmq_waiting_requests",
        "Requests of this server that wait for a message to come.",
        gauges.waiting_requests,
    )
    yield GaugeMetricFamily(
        "restmq_commit_pending_operations",
        "Operations that wait for a round trip to Redis, or for its end.",
        gauges.pending_operations,
    )
    yield GaugeMetricFamily(
        "restmq_resident_memory_bytes",
        "Resident memory of all workers, in bytes; what they share counts for each.",
        gauges.resident_bytes,
    )


def _counters(measures: Measures) -> Iterator[Metric]:
    delivered = CounterMetricFamily(
        "restmq_delivered_messages",
        "Messages handed out: taken for good, leased, or written to plain streams (once for each "
        "consumer).",
        labels=["by"],
    )
    delivered.add_metric(["take"], measures.taken_messages)
    delivered.add_metric(["lease"], measures.leased_messages)
    delivered.add_metric(["stream"], measures.streamed_messages)
    yield delivered
    for name, documentation, value in (
        ("published_messages", "Messages stored.", measures.published_messages),
        ("acked_messages", "Leased messages that were acknowledged.", measures.acked_messages),
        ("nacked_messages", "Leased messages that consumers gave back.", measures.nacked_messages),
        (
            "buried_messages",
            "Leased messages that consumers made dead letters.",
            measures.buried_messages,
        ),
        ("extended_leases", "Leases that consumers extended.", measures.extended_leases),
        (
            "stale_settlements",
            "Acks and the like that came when the lease was over.",
            measures.stale_settlements,
        ),
        (
            "outbox_cut_offs",
            "Streaming consumers that were cut off because they did not read.",
            measures.cut_off_consumers,
        ),
        (
            "commit_bytes",
            "Message bodies sent to Redis, in bytes.",
            measures.commit_bytes,
        ),
        (
            "commit_failures",
            "Round trips that found no Redis, or whose outcome is unknown.",
            measures.failed_commits,
        ),
    ):
        yield CounterMetricFamily(f"restmq_{name}", documentation, value)


def _histograms(measures: Measures) -> Iterator[Metric]:
    for name, documentation, histogram in (
        (
            "publish_seconds",
            "From the arrival of a request that adds messages to their being stored.",
            measures.publish_seconds,
        ),
        (
            "publish_to_deliver_seconds",
            "From the time a message was stored to the time it was handed out.",
            measures.delivery_seconds,
        ),
        (
            "deliver_to_ack_seconds",
            "From the time a message was leased to its acknowledgement.",
            measures.ack_seconds,
        ),
        (
            "commit_round_trip_seconds",
            "How long Redis took for a batch of operations, fsync included.",
            measures.commit_seconds,
        ),
        (
            "commit_batch_operations",
            "Operations that shared a round trip to Redis.",
            measures.commit_operations,
        ),
    ):
        yield _histogram(f"restmq_{name}", documentation, histogram)


def _histogram(name: str, documentation: str, histogram: Histogram) -> Metric:
    bounds = [repr(float(bound)) for bound in histogram.bounds]
    cumulative = itertools.accumulate(histogram.counts)
    buckets = list(zip([*bounds, "+Inf"], cumulative, strict=True))
    return HistogramMetricFamily(name, documentation, buckets, histogram.total)


def request_metrics(counts: Iterable[tuple[str, str, float]]) -> Iterator[Metric]:
    """Make the metric of HTTP requests, by route and status."""
    requests = CounterMetricFamily(
        "restmq_http_requests",
        "HTTP requests answered, by the first segment of their path and the status; a stream "
        "counts when it ends.",
        labels=["route", "status"],
    )
    for route, status, count in counts:
        requests.add_metric([route, status], count)
    yield requests


def census_metrics(overview: Overview, redis_now: float) -> Iterator[Metric]:
    """Make the metrics of queues; those of all together once a walk has seen all of them."""
    totals = overview.totals
    yield GaugeMetricFamily("restmq_queues", "Known queues.", totals.queues)
    yield GaugeMetricFamily(
        "restmq_census_complete",
        "1 if all queues were counted; else the totals are left out until they are.",
        float(overview.is_complete),
    )
    yield GaugeMetricFamily(
        "restmq_census_age_seconds",
        "How long ago all queues were last counted; queues told one by one are newer.",
        max(redis_now - overview.taken_at, 0.0),
    )
    if overview.is_complete:
        yield from _total_metrics(overview)
    yield from _queue_metrics(overview)


def _total_metrics(overview: Overview) -> Iterator[Metric]:
    totals = overview.totals
    messages = GaugeMetricFamily(
        "restmq_messages", "Messages in all queues, by state.", labels=["state"]
    )
    for state, count in (
        ("ready", totals.ready),
        ("leased", totals.leased),
        ("delayed", totals.delayed),
        ("dead", totals.dead),
    ):
        messages.add_metric([state], count)
    yield messages
    yield GaugeMetricFamily(
        "restmq_oldest_message_age_seconds",
        "Age of the oldest ready message of all queues; 0 if none is ready.",
        totals.oldest_age_seconds or 0.0,
    )
    yield GaugeMetricFamily(
        "restmq_incoming_messages_per_second",
        "Messages that came to all queues, a second, lately.",
        totals.rate_in,
    )
    yield GaugeMetricFamily(
        "restmq_outgoing_messages_per_second",
        "Messages taken, acknowledged or sent, a second, lately.",
        totals.rate_out,
    )
    yield CounterMetricFamily(
        "restmq_expired_leases",
        "Leases that ran out, in all queues since they were made.",
        totals.expired_leases,
    )
    yield CounterMetricFamily(
        "restmq_dead_lettered_messages",
        "Messages that became dead letters, in all queues since they were made.",
        totals.died,
    )


def chosen_queues(overview: Overview) -> list[QueueStats]:
    """Return the queues that are told one by one: in turn one of the largest, one of the busiest.

    One that is named as ``OTHERS`` is one of those.
    """
    chosen: dict[str, QueueStats] = {}
    for pair in itertools.zip_longest(overview.largest, overview.busiest):
        for stats in pair:
            if stats is not None and stats.name != OTHERS:
                chosen[stats.name] = stats
            if len(chosen) == LABELLED_QUEUES:
                return list(chosen.values())
    return list(chosen.values())


def _queue_metrics(overview: Overview) -> Iterator[Metric]:
    chosen, totals = chosen_queues(overview), overview.totals
    has_others = overview.is_complete and totals.queues > len(chosen)
    messages = GaugeMetricFamily(
        "restmq_queue_messages", "Messages in a queue, by state.", labels=["queue", "state"]
    )
    for state, field, total in (
        ("ready", "length", totals.ready),
        ("leased", "leased", totals.leased),
        ("delayed", "delayed", totals.delayed),
        ("dead", "dead", totals.dead),
    ):
        counts = [(stats.name, getattr(stats, field)) for stats in chosen]
        for queue, count in counts:
            messages.add_metric([queue, state], count)
        if has_others:
            rest = total - sum(count for _, count in counts)
            messages.add_metric([OTHERS, state], max(rest, 0))
    yield messages
    for name, documentation, field, total_value in (
        (
            "consumers",
            "Streaming consumers of a queue, on all nodes.",
            "consumers",
            totals.consumers,
        ),
        (
            "incoming_messages_per_second",
            "Messages that came to a queue, a second, lately.",
            "rate_in",
            totals.rate_in,
        ),
        (
            "outgoing_messages_per_second",
            "Messages taken from a queue, acknowledged or sent, a second, lately.",
            "rate_out",
            totals.rate_out,
        ),
    ):
        gauge = GaugeMetricFamily(f"restmq_queue_{name}", documentation, labels=["queue"])
        values = [(stats.name, getattr(stats, field)) for stats in chosen]
        for queue, value in values:
            gauge.add_metric([queue], value)
        if has_others:
            gauge.add_metric([OTHERS], max(total_value - sum(value for _, value in values), 0))
        yield gauge
    yield from _lone_queue_metrics(chosen)


def _lone_queue_metrics(chosen: Sequence[QueueStats]) -> Iterator[Metric]:
    """Make those metrics of single queues that cannot be summed."""
    age = GaugeMetricFamily(
        "restmq_queue_oldest_message_age_seconds",
        "Age of the oldest ready message of a queue; 0 if none is ready.",
        labels=["queue"],
    )
    started = GaugeMetricFamily(
        "restmq_queue_started", "0 while delivery to streams is paused, else 1.", labels=["queue"]
    )
    expired = CounterMetricFamily(
        "restmq_queue_expired_leases",
        "Leases that ran out, since the queue was made.",
        labels=["queue"],
    )
    died = CounterMetricFamily(
        "restmq_queue_dead_lettered_messages",
        "Messages that became dead letters, since the queue was made.",
        labels=["queue"],
    )
    for stats in chosen:
        labels = [stats.name]
        age.add_metric(labels, stats.oldest_age_seconds or 0.0)
        started.add_metric(labels, float(stats.started))
        expired.add_metric(labels, stats.expired_leases)
        died.add_metric(labels, stats.died)
    yield from (age, started, expired, died)


def node_metrics(nodes: int) -> Iterator[Metric]:
    """Make the metric of nodes."""
    yield GaugeMetricFamily("restmq_nodes", "Live worker processes that share this Redis.", nodes)


def redis_metrics(states: Sequence[RedisState] | None) -> Iterator[Metric]:
    """Make the metrics of Redis, as far as it tells; None if it did not answer in time."""
    label = ["storage"]
    up = GaugeMetricFamily("restmq_redis_up", "1 if Redis answers, else 0.", labels=label)
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
        "used_memory": GaugeMetricFamily(
            "restmq_redis_memory_bytes", "Memory that Redis uses, in bytes.", labels=label
        ),
        "maxmemory": GaugeMetricFamily(
            "restmq_redis_memory_limit_bytes",
            "Memory that Redis may use, in bytes; 0 is no limit.",
            labels=label,
        ),
        "connected_clients": GaugeMetricFamily(
            "restmq_redis_clients", "Connections of all clients to Redis.", labels=label
        ),
        "aof_delayed_fsync": CounterMetricFamily(
            "restmq_redis_delayed_fsyncs",
            "Writes of Redis that had to wait for an fsync before.",
            labels=label,
        ),
        "evicted_keys": CounterMetricFamily(
            "restmq_redis_evicted_keys",
            "Keys that Redis dropped for lack of memory: messages are lost with them.",
            labels=label,
        ),
    }
    persistence = GaugeMetricFamily(
        "restmq_redis_persistence_ok",
        "0 if Redis failed to write to disk or to fsync lately, else 1.",
        labels=label,
    )
    if states is None:
        up.add_metric(["disk"], 0)
    for state in states or ():
        labels = ["memory" if state.is_memory_only else "disk"]
        up.add_metric(labels, float(state.problem is None))
        if state.problem is not None:
            continue
        for field, family in families.items():
            value = _number(state.fields, field)
            if value is not None:
                family.add_metric(labels, value)
        persistence.add_metric(labels, float(_persists(state.fields)))
    yield from (up, persistence, *families.values())


def _number(fields: Mapping[str, str], name: str) -> float | None:
    try:
        return float(fields[name])
    except (KeyError, ValueError):  # a cluster tells it by node, or not at all
        return None


def _persists(fields: Mapping[str, str]) -> bool:
    names = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
    return all(fields.get(name, "ok") == "ok" for name in names)
