"""The census: all queues together, whoever asks, however many there are."""

import asyncio
import contextlib

import pytest
from redis.asyncio import Redis

from restmq.broker import census as census_module
from restmq.broker import nodes as nodes_module
from restmq.broker.broker import Broker
from restmq.broker.census import Overview
from restmq.broker.keys import LIVE_NODES
from restmq.errors import Unavailable
from restmq.redis_process import RedisProcess
from tests.broker.conftest import MakeBroker
from tests.broker.fakes import FakeConsumer, streaming, vanish
from tests.broker.steps import NOON, publish, receipt_of
from tests.support import eventually


async def fill(broker: Broker, sizes: dict[str, int]) -> None:
    """Make queues of these sizes."""
    for queue, size in sizes.items():
        await publish(broker, queue, [b"a"] * size)


@pytest.fixture
async def pair(
    private_redis: RedisProcess, make_instance_broker: MakeBroker
) -> tuple[Broker, Broker]:
    """Two nodes on a Redis that holds nothing else."""
    url = private_redis.url
    return await make_instance_broker(url=url), await make_instance_broker(url=url)


@pytest.fixture
def always_walk(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let even few queues be too many to be counted at once, and let every answer be new."""
    monkeypatch.setattr(census_module, "FRESH_QUEUES", 2)
    monkeypatch.setattr(census_module, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(census_module, "SLICE_QUEUES", 3)
    return monkeypatch


async def complete(broker: Broker) -> Overview:
    """Ask until a walk has seen every queue."""

    async def ask() -> Overview | None:
        overview = await broker.census.overview()
        return overview if overview.is_complete else None

    found = await eventually(ask)
    assert found is not None
    return found


class TestOneQueue:
    async def test_it_is_what_statistics_tell(self, broker: Broker, fresh_name: str) -> None:
        """Whatever the state and the priority of messages."""
        broker.scripts.clock_seconds = NOON
        await publish(broker, fresh_name, [b"1"] * 6)
        broker.scripts.clock_seconds += 10
        await publish(broker, fresh_name, [b"2"] * 2, priority=9)
        await publish(broker, fresh_name, [b"3"], delay_seconds=1000)
        await publish(broker, fresh_name, [b"4"], ttl_seconds=5)
        leased = await broker.lease(fresh_name, 3)
        await broker.bury(receipt_of(fresh_name, leased[0]), "bad")
        await broker.delete(fresh_name, 1)
        await broker.set_started(fresh_name, False)
        async with streaming(broker, fresh_name, FakeConsumer(), FakeConsumer()):
            broker.scripts.clock_seconds += 6
            seen = await broker.census.look_at([fresh_name])
            expected = await broker.stats(fresh_name)
        assert seen == [
            expected._replace(
                rate_in=pytest.approx(expected.rate_in, abs=0.001),
                rate_out=pytest.approx(expected.rate_out, abs=0.001),
            )
        ]
        assert (expected.consumers, expected.leased, expected.dead) == (2, 1, 1)
        assert expected.oldest_age_seconds == 16

    async def test_ends_of_leases_and_deaths_are_counted_for_good(
        self, broker: Broker, fresh_name: str
    ) -> None:
        broker.scripts.clock_seconds = NOON
        await publish(broker, fresh_name, [b"a"] * 2)
        leased = await broker.lease(fresh_name, 2, 30)
        await broker.bury(receipt_of(fresh_name, leased[0]), "bad")
        broker.scripts.clock_seconds += 31
        stats = await broker.stats(fresh_name)
        assert (stats.expired_leases, stats.died) == (1, 1)
        await broker.dead_letters.redrive(fresh_name)
        [seen] = await broker.census.look_at([fresh_name])
        assert (seen.expired_leases, seen.died, seen.dead) == (1, 1, 0)

    async def test_a_queue_that_is_not_there_is_empty(
        self, broker: Broker, fresh_name: str
    ) -> None:
        assert await broker.census.look_at([fresh_name]) == [await broker.stats(fresh_name)]


class TestMemory:
    async def test_queues_in_memory_count_where_they_are(
        self, redis_url: str, private_redis: RedisProcess, fresh_name: str
    ) -> None:
        """A node that cannot reach their Redis counts them as empty."""

        async def memory_url() -> str:
            return private_redis.url

        name = f"{fresh_name}-memory"
        async with (
            Broker(redis_url, memory_redis_url=memory_url) as broker,
            Broker(redis_url) as without,
        ):
            await publish(broker, fresh_name, [b"a"])
            await broker.configuration.change(name, {"storage": "memory"})
            await publish(broker, name, [b"a"] * 2)
            names = [fresh_name, name]
            assert [each.length for each in await broker.census.look_at(names)] == [1, 2]
            assert [each.length for each in await without.census.look_at(names)] == [1, 0]
            await private_redis.stop()

            async def is_empty() -> bool:
                return [each.length for each in await broker.census.look_at(names)] == [1, 0]

            await eventually(is_empty)


class TestFewQueues:
    async def test_they_are_counted_when_somebody_asks(self, pair: tuple[Broker, Broker]) -> None:
        broker, _ = pair
        await fill(broker, {"a": 3, "b": 5, "c": 1})
        for each in pair:
            overview = await eventually(lambda each=each: self.seen(each, 9))
            assert overview.is_complete
            assert overview.totals.queues == 3
            assert [stats.name for stats in overview.largest] == ["b", "a", "c"]
        assert await broker._disk.committer.submit(census_module.command("KEYS", "*census*")) == []

    async def test_none_at_all_are_counted_too(self, pair: tuple[Broker, Broker]) -> None:
        overview = await pair[0].census.overview()
        assert (overview.is_complete, overview.totals.queues, overview.largest) == (True, 0, ())
        assert overview.taken_at > 0

    async def seen(self, broker: Broker, ready: int) -> Overview | None:
        """Return what is seen if that many messages are."""
        overview = await broker.census.overview()
        return overview if overview.totals.ready == ready else None

    async def test_those_who_ask_at_once_share_an_answer(self, pair: tuple[Broker, Broker]) -> None:
        broker, _ = pair
        await fill(broker, {"a": 1})
        answers = await asyncio.gather(*(broker.census.overview() for _ in range(5)))
        assert all(answer is answers[0] for answer in answers)
        assert await broker.census.overview() is answers[0]


class TestManyQueues:
    async def test_one_node_walks_and_all_tell_the_same(
        self, pair: tuple[Broker, Broker], always_walk: pytest.MonkeyPatch
    ) -> None:
        broker, _ = pair
        await fill(broker, {f"queue-{size:02}": size for size in range(1, 21)})
        first = await broker.census.overview()
        assert (first.is_complete, first.totals.queues, first.totals.ready) == (False, 20, 0)
        for each in pair:
            overview = await complete(each)
            assert (overview.totals.queues, overview.totals.ready) == (20, 210)
            assert overview.largest[0].name == "queue-20"
        walking = [each.census._walking for each in pair]
        assert sum(task is not None and not task.done() for task in walking) == 1

    async def test_what_happens_in_a_queue_is_soon_seen(
        self, pair: tuple[Broker, Broker], always_walk: pytest.MonkeyPatch
    ) -> None:
        """Long before the next walk is over."""
        broker, _ = pair
        await fill(broker, {f"queue-{number}": 1 for number in range(10)})
        await complete(broker)
        always_walk.setattr(census_module, "WALK_SHARE", 1e-9)
        await publish(broker, "queue-7", [b"a"] * 50)

        async def largest() -> bool:
            overview = await broker.census.overview()
            return overview.largest[0].name == "queue-7" and overview.totals.ready == 60

        await eventually(largest)

    async def test_another_node_goes_on_when_the_one_that_walks_is_gone(
        self, pair: tuple[Broker, Broker], always_walk: pytest.MonkeyPatch
    ) -> None:
        broker, other = pair
        always_walk.setattr(census_module, "CLAIM_SECONDS", 0.3)
        await fill(broker, {f"queue-{number}": 1 for number in range(10)})
        await complete(broker)
        assert broker.census._walking is not None
        broker.census._walking.cancel()
        await publish(other, "queue-new", [b"a"] * 5)
        await eventually(lambda: self.counts(other, 15))
        assert other.census._walking is not None

    async def counts(self, broker: Broker, ready: int) -> bool:
        """Whether that many messages are seen."""
        return (await broker.census.overview()).totals.ready == ready

    async def test_it_ends_when_nobody_asks(
        self, pair: tuple[Broker, Broker], always_walk: pytest.MonkeyPatch
    ) -> None:
        broker, other = pair
        always_walk.setattr(census_module, "WANTED_SECONDS", 0.2)
        await fill(broker, {f"queue-{number}": 1 for number in range(10)})
        await broker.census.overview()
        walking = broker.census._walking
        assert walking is not None
        await eventually(walking.done)
        assert (await complete(other)).totals.ready == 10  # the walk is free for others

    async def test_it_survives_that_redis_is_away(
        self,
        private_redis: RedisProcess,
        pair: tuple[Broker, Broker],
        always_walk: pytest.MonkeyPatch,
    ) -> None:
        broker, _ = pair
        await fill(broker, {f"queue-{number}": 1 for number in range(10)})
        await complete(broker)
        await private_redis.stop()

        async def fails() -> bool:
            try:
                await broker.census.overview()
            except Unavailable:
                return True
            return False

        await eventually(fails)
        await private_redis.start()

        async def again() -> bool:
            try:
                return (await broker.census.overview()).totals.queues == 10
            except Unavailable:
                return False

        await eventually(again, timeout_seconds=30)


class TestSearch:
    @pytest.fixture
    async def searched(self, pair: tuple[Broker, Broker]) -> Broker:
        """A node that knows some queues."""
        broker, _ = pair
        await fill(broker, dict.fromkeys(["alpha", "Beta", "beta.2", "gamma", "ähnlich"], 1))
        return broker

    async def test_names_are_found_by_any_part_in_any_case(self, searched: Broker) -> None:
        async def find(text: str) -> list[str]:
            return (await searched.census.search_queues(text)).names

        assert await find("BETA") == ["Beta", "beta.2"]
        assert await find("am") == ["gamma"]
        assert await find("Ä") == ["ähnlich"]
        assert await find("nothing") == []
        assert await find("*") == []
        assert await find("") == ["Beta", "alpha", "beta.2", "gamma", "ähnlich"]

    async def test_it_comes_in_pages(self, searched: Broker) -> None:
        search = searched.census.search_queues
        assert await search("a", limit=2) == (["Beta", "alpha"], "alpha")
        assert await search("a", after="alpha", limit=2) == (["beta.2", "gamma"], "gamma")
        assert await search("a", after="gamma", limit=2) == ([], None)

    async def test_one_call_looks_at_so_many_names(
        self, searched: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(census_module, "SEARCHED_NAMES", 2)
        monkeypatch.setattr(census_module, "NAMES_PER_CALL", 2)
        found = await searched.census.search_queues("gamma")
        assert found == ([], "alpha")
        found = await searched.census.search_queues("gamma", found.after or "")
        assert found == (["gamma"], "gamma")
        assert await searched.census.search_queues("gamma", "gamma") == ([], None)


class TestNodes:
    async def test_live_ones_tell_what_they_are(
        self, make_broker: MakeBroker, fresh_name: str
    ) -> None:
        broker, other = await make_broker(), await make_broker()

        async def find(broker: Broker) -> dict[str, tuple[int, int]]:
            nodes = await broker.census.nodes()
            return {node.name: (node.consumers, node.listeners) for node in nodes}

        async def both() -> bool:
            return {broker.node, other.node} <= (await find(broker)).keys()

        await eventually(both)
        async with streaming(other, fresh_name, FakeConsumer(), FakeConsumer()):
            waiting = asyncio.create_task(other.take(f"{fresh_name}-2", 1, 30))
            await eventually(lambda: other._disk.listeners.waiting_count)
            assert (await find(other))[other.node] == (2, 1)
            assert (await find(broker))[other.node] == (2, 1)
            waiting.cancel()
        await other.close()
        assert other.node not in await find(broker)

    async def test_it_stays_on_the_list_whatever_happens(
        self,
        redis_url: str,
        make_instance_broker: MakeBroker,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(nodes_module, "LIFETIME_SECONDS", 0.3)
        fails = True

        def count(_: Broker) -> tuple[int, int]:
            if fails:
                raise ValueError("cannot count")
            return 0, 0

        monkeypatch.setattr(Broker, "count_readers", count)
        broker = await make_instance_broker()
        await eventually(lambda: "cannot count" in caplog.text)
        fails = False
        other = Redis.from_url(redis_url)
        async with contextlib.aclosing(other):
            await eventually(lambda: other.hexists(LIVE_NODES, broker.node))

    async def test_a_dead_one_is_forgotten(self, make_broker: MakeBroker) -> None:
        broker, other = await make_broker(), await make_broker()
        scripts = broker.census_scripts
        await other.census.nodes()
        await vanish(other)
        assert other.node in {node.name for node in await broker.census.nodes()}
        now = float(await broker._disk.committer.submit(scripts.tell_node(15, b"")))
        scripts.clock_seconds = now + 20
        assert other.node not in {node.name for node in await broker.census.nodes()}
