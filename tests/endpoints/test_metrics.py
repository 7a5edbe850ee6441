"""Metrics: what a scrape tells, and to whom."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from restmq.access import Access
from restmq.broker import census
from restmq.endpoints import metrics_families
from restmq.node import Node
from restmq.redis_process import RedisProcess
from restmq.settings import Settings
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import eventually

Labels = frozenset[tuple[str, str]]
Samples = Mapping[tuple[str, Labels], float]


@pytest.fixture
async def private_redis(tmp_path: Path) -> AsyncIterator[RedisProcess]:
    """A Redis for one test, which may harm it."""
    async with RedisProcess(tmp_path / "redis", fsync="no") as redis:
        yield redis


@contextlib.asynccontextmanager
async def node_on(redis: RedisProcess) -> AsyncIterator[NodeUnderTest]:
    """Open a node on a Redis that holds nothing else."""
    settings = Settings(port=0, drain_seconds=1.0)
    async with (
        Node(settings, redis.url, Access.from_text("")) as node,
        aiohttp.ClientSession() as session,
    ):
        yield NodeUnderTest(node, session)


async def scrape(node: NodeUnderTest) -> Samples:
    """Return all samples by name and labels."""
    status, body = await node.get("/metrics")
    assert status == 200, body
    families = parse_text(body.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return one of them."""
    return samples[f"restmq_{name}", frozenset(labels.items())]


class TestScrape:
    async def test_what_was_done_is_counted(self, node: NodeUnderTest, fresh_name: str) -> None:
        await node.add(fresh_name, "1", "2", "3")
        await node.get(f"/q/{fresh_name}")
        await node.get("/nothing/here")
        samples = await scrape(node)
        assert value(samples, "published_messages_total") == 3
        assert value(samples, "delivered_messages_total", by="take") == 1
        assert value(samples, "publish_seconds_count") == 3
        assert value(samples, "publish_seconds_bucket", le="+Inf") == 3
        assert value(samples, "publish_to_deliver_seconds_count") == 1
        assert value(samples, "http_requests_total", route="/q", status="200") == 4
        assert value(samples, "http_requests_total", route="/other", status="404") == 1
        assert value(samples, "commit_round_trip_seconds_count") >= 3
        assert value(samples, "workers") == 1
        assert value(samples, "cpu_seconds_total") > 0
        assert value(samples, "resident_memory_bytes") > 1e6
        assert value(samples, "redis_up", storage="disk") == 1
        assert value(samples, "redis_memory_bytes", storage="disk") > 1e5
        assert value(samples, "redis_persistence_ok", storage="disk") == 1
        assert value(samples, "nodes") >= 1
        later = await scrape(node)
        assert value(later, "http_requests_total", route="/metrics", status="200") == 1

    async def test_consumers_count_while_they_are_there(
        self, node: NodeUnderTest, fresh_name: str
    ) -> None:
        async with node.session.get(f"{node.url}/c/{fresh_name}") as stream:
            assert stream.status == 200
            assert value(await scrape(node), "consumers") == 1

        async def gone() -> bool:
            return value(await scrape(node), "consumers") == 0

        await eventually(gone)

    async def test_openmetrics_is_told_to_those_who_ask(
        self, node: NodeUnderTest, fresh_name: str
    ) -> None:
        await node.add(fresh_name, "1")
        accept = "application/openmetrics-text; version=1.0.0, text/plain;version=0.0.4;q=0.5"
        async with node.session.get(node.url + "/metrics", headers={"Accept": accept}) as answer:
            assert answer.content_type == "application/openmetrics-text"
            families = {family.name: family for family in parse_openmetrics(await answer.text())}
        assert families["restmq_published_messages"].type == "counter"
        assert families["restmq_publish_seconds"].type == "histogram"
        assert families["restmq_messages"].type == "gauge"

    @pytest.mark.parametrize("accept", ["", "text/html", "text/plain; version=?", "*/*"])
    async def test_others_get_text(self, node: NodeUnderTest, accept: str) -> None:
        headers = {"Accept": accept}
        async with node.session.get(node.url + "/metrics", headers=headers) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")

    async def test_there_is_nothing_below_it(self, node: NodeUnderTest) -> None:
        for path in ("/metrics/more", "/metrics/", "/metrics/?x=1"):
            assert (await node.get(path))[0] == 404, path

    async def test_who_may_not_see_statistics_may_not_see_metrics(
        self, open_node: OpenNode
    ) -> None:
        async with open_node("[rest:consumer]\nhosts_deny = all\n") as node:
            assert (await node.get("/metrics"))[0] == (await node.get("/stats"))[0] == 401
        async with open_node("[rest:producer]\nhosts_deny = all\n") as node:
            assert (await node.get("/metrics"))[0] == 200

    async def test_it_is_told_when_redis_is_away(
        self, private_redis: RedisProcess, fresh_name: str
    ) -> None:
        async with node_on(private_redis) as node:
            await node.add(fresh_name, "1")
            await private_redis.stop()
            samples = await scrape(node)
            assert value(samples, "redis_up", storage="disk") == 0
            assert value(samples, "published_messages_total") == 1
            assert ("restmq_queues", frozenset()) not in samples


class TestQueues:
    async def test_each_of_a_few_is_told(self, private_redis: RedisProcess) -> None:
        """With hostile names as well."""
        names = ["plain", 'quoted "\\', "line\nend", "ünïcode", "(others)"]
        async with node_on(private_redis) as node:
            for size, name in enumerate(names, start=1):
                await node.node.broker.publish(name, [b"a"] * size)
            await node.node.broker.lease("plain")
            await node.node.broker.set_started("plain", False)
            samples = await scrape(node)
            for size, name in list(enumerate(names, start=1))[1:4]:
                assert value(samples, "queue_messages", queue=name, state="ready") == size
                assert value(samples, "queue_started", queue=name) == 1
                assert value(samples, "queue_oldest_message_age_seconds", queue=name) < 100
                assert value(samples, "queue_incoming_messages_per_second", queue=name) > 0
            assert value(samples, "queue_messages", queue="plain", state="leased") == 1
            assert value(samples, "queue_started", queue="plain") == 0
            # The queue of that name is one of the others, of which there are none but it.
            assert value(samples, "queue_messages", queue="(others)", state="ready") == 5
            assert value(samples, "queues") == 5
            assert value(samples, "messages", state="ready") == 14
            assert value(samples, "messages", state="leased") == 1
            assert value(samples, "census_complete") == 1

    async def test_of_many_those_that_stand_out_are_told_and_the_others_summed(
        self, private_redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(metrics_families, "LABELLED_QUEUES", 3)
        async with node_on(private_redis) as node:
            for size in range(1, 11):
                await node.node.broker.publish(f"queue-{size:02}", [b"a"] * size)
            samples = await scrape(node)
            told = {
                dict(labels)["queue"]: count
                for (name, labels), count in samples.items()
                if name == "restmq_queue_messages" and ("state", "ready") in labels
            }
            assert len(told) == 4
            assert told["queue-10"] == 10
            assert sum(told.values()) == 55
            consumers = [key for key in samples if key[0] == "restmq_queue_consumers"]
            assert len(consumers) == 4
            assert value(samples, "queue_incoming_messages_per_second", queue="(others)") > 0

    async def test_totals_wait_until_all_are_counted(
        self, private_redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A part of them would look as if messages came, or leases expired, all at once."""
        monkeypatch.setattr(census, "FRESH_QUEUES", 2)
        monkeypatch.setattr(census, "FRESH_SECONDS", 0.0)
        async with node_on(private_redis) as node:
            for number in range(5):
                await node.node.broker.publish(f"queue-{number}", [b"a"])
            samples = await scrape(node)
            assert value(samples, "queues") == 5
            assert value(samples, "census_complete") == 0
            assert ("restmq_expired_leases_total", frozenset()) not in samples

            async def complete() -> bool:
                samples = await scrape(node)
                return samples.get(("restmq_messages", frozenset({("state", "ready")}))) == 5

            await eventually(complete)
