"""Whatever fails between here and Redis: nothing acknowledged is lost, nothing is doubled."""

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio import Redis

from restmq.broker import backend as backend_module
from restmq.broker import commit
from restmq.errors import RestMQError, StoreUnavailable
from restmq.redis_process import RedisProcess
from tests.broker.conftest import MakeBroker, MakeFaultyBroker
from tests.broker.fakes import (
    all_at_once,
)
from tests.broker.steps import (
    add_all,
    add_when_possible,
    drain,
    execute,
    length_is,
    until,
    values_of,
)
from tests.redis_cluster import running_cluster
from tests.support import free_port


@contextlib.asynccontextmanager
async def stopped(process_id: int) -> AsyncIterator[None]:
    """Keep a process from running, as if it hung."""
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


def has_more_than(items: list[int], count: int) -> bool:
    """Whether there are more than so many."""
    return len(items) > count


def is_another(redis: RedisProcess, killed: int) -> bool:
    """Whether another process than the killed one has been started."""
    return redis.pid not in (None, killed)


class TestLostReplies:
    @pytest.mark.parametrize("way", ["pop", "take"])
    async def test_messages_whose_taking_went_unheard_are_back_at_the_head_once_and_in_order(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str, way: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        call = broker.pop if way == "pop" else broker.take
        values = [b"%d" % index for index in range(100)]
        await add_all(broker, fresh_name, *values)
        for _ in range(3):
            backend.lose_next("take")
            takes: list[Awaitable[object]] = [call(fresh_name, 7) for _ in range(5)]
            started = await all_at_once(backend, takes)
            backend.gate.set()
            assert [type(outcome) for outcome in await started] == [StoreUnavailable] * 5
        assert backend.lost_count == 3
        assert (await broker.stats(fresh_name)).length == 100
        assert values_of(await drain(broker, fresh_name)) == values

    async def test_pops_and_takes_lost_together_both_come_back(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        other = fresh_name + "-other"
        for name in (fresh_name, other):
            await add_all(broker, name, *[b"%d" % index for index in range(10)])
        backend.lose_next("take")
        operations: list[Awaitable[object]] = [
            broker.take(fresh_name, 2),
            broker.pop(fresh_name, 2),
            broker.take(other, 3),
            broker.pop(other, 3),
        ]
        started = await all_at_once(backend, operations)
        backend.gate.set()
        assert [type(outcome) for outcome in await started] == [StoreUnavailable] * 4
        for name in (fresh_name, other):
            assert sorted(values_of(await drain(broker, name))) == [
                b"%d" % index for index in range(10)
            ]

    async def test_a_lost_taking_is_undone_before_all_else_however_much_waits_to_be_put_back(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(commit, "MAX_PUT_BACKS", 3)
        broker, backend = await make_faulty_broker()
        names = [f"{fresh_name}-{index}" for index in range(8)]
        for name in names:
            await add_all(broker, name, b"a", b"b", b"c")
        await add_all(broker, fresh_name, *[b"%d" % index for index in range(20)])
        taken = [await broker.take(fresh_name) for _ in range(20)]
        backend.lose_next("take")
        takes: list[Awaitable[object]] = [broker.take(name) for name in names]
        started = await all_at_once(backend, takes)
        for messages in reversed(taken):
            broker.give_back(fresh_name, messages)
        backend.gate.set()
        assert [type(outcome) for outcome in await started] == [StoreUnavailable] * 8
        again = await asyncio.gather(*(broker.take(name) for name in names))
        assert [[m.value for m in share] for share in again] == [[b"a"]] * 8
        for name in names:
            assert values_of(await drain(broker, name)) == [b"b", b"c"]
        await until(lambda: length_is(broker, fresh_name, 20))

    async def test_a_lost_putting_back_is_repeated_and_doubles_nothing(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        values = [b"%d" % index for index in range(20)]
        await add_all(broker, fresh_name, *values)
        taken = await broker.take(fresh_name, 5)
        limit = backend.lost_count + 3
        backend.loses = lambda names: "restore" in names and backend.lost_count < limit
        broker.give_back(fresh_name, taken)
        await until(lambda: backend.lost_count == limit)
        await until(lambda: length_is(broker, fresh_name, 20))
        assert values_of(await drain(broker, fresh_name)) == values

    async def test_what_another_took_before_a_putting_back_was_repeated_is_not_put_back_again(
        self,
        make_faulty_broker: MakeFaultyBroker,
        make_instance_broker: MakeBroker,
        fresh_name: str,
    ) -> None:
        (broker, backend), other = await make_faulty_broker(), await make_instance_broker()
        await add_all(broker, fresh_name, b"a", b"b", b"c")
        taken = await broker.take(fresh_name, 2)
        backend.lose_next("restore")
        broker.give_back(fresh_name, taken)
        await until(lambda: backend.lost_count)
        backend.gate.clear()
        assert [m.value for m in await other.take(fresh_name, 9)] == [b"a", b"b", b"c"]
        backend.gate.set()
        await broker.ping()
        assert values_of(await drain(other, fresh_name)) == []

    async def test_a_lost_undoing_is_repeated_and_doubles_nothing(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        values = [b"%d" % index for index in range(20)]
        await add_all(broker, fresh_name, *values)
        limit = backend.lost_count + 3
        backend.loses = lambda names: (
            bool({"take", "restore"} & {*names}) and (backend.lost_count < limit)
        )
        with pytest.raises(StoreUnavailable):
            await broker.take(fresh_name, 5)
        await until(lambda: backend.lost_count == limit)
        await until(lambda: length_is(broker, fresh_name, 20))
        assert values_of(await drain(broker, fresh_name)) == values

    async def test_a_refused_putting_back_is_repeated_until_redis_takes_it(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        values = [b"%d" % index for index in range(10)]
        await add_all(broker, fresh_name, *values)
        refused: list[str] = []

        def refuse(name: str) -> RestMQError | None:
            if name != "restore" or len(refused) >= 3:
                return None
            refused.append(name)
            return StoreUnavailable("Redis cannot take this now: OOM")

        backend.refuses = refuse
        broker.give_back(fresh_name, await broker.take(fresh_name, 4))
        await until(lambda: len(refused) == 3)
        await until(lambda: length_is(broker, fresh_name, 10))
        assert values_of(await drain(broker, fresh_name)) == values

    async def test_an_add_whose_reply_was_lost_is_refused_and_those_after_it_are_numbered_on(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        await broker.add(fresh_name, b"a")
        backend.lose_next("add")
        with pytest.raises(StoreUnavailable):
            await broker.add(fresh_name, b"b")
        number = await broker.add(fresh_name, b"c")
        stored = {m.number: m.value for m in await broker.peek(fresh_name, 9)}
        assert stored[1] == b"a"
        assert stored[number] == b"c"

    async def test_a_reply_that_makes_no_sense_fails_its_own_operation_only(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        await broker.add(fresh_name, b"a")
        backend.refuses = lambda name: RestMQError("no") if name == "stats" else None
        operations: list[Awaitable[object]] = [
            broker.stats(fresh_name),
            broker.add(fresh_name, b"b"),
            broker.get(fresh_name),
        ]
        started = await all_at_once(backend, operations)
        backend.gate.set()
        outcomes = await started
        assert isinstance(outcomes[0], RestMQError)
        assert outcomes[1] == 2
        assert isinstance(outcomes[2], tuple)

    @pytest.mark.parametrize("place", ["_connect", "_exchange"])
    async def test_a_failure_that_nobody_foresaw_fails_its_round_trip_and_no_other(
        self,
        make_faulty_broker: MakeFaultyBroker,
        fresh_name: str,
        monkeypatch: pytest.MonkeyPatch,
        place: str,
    ) -> None:
        broker, backend = await make_faulty_broker()
        await add_all(broker, fresh_name, b"a", b"b")
        original = getattr(backend.inner, place)

        async def explode(*arguments: object) -> None:
            await original(*arguments)
            monkeypatch.undo()
            raise LookupError("an error of a library")

        monkeypatch.setattr(backend.inner, place, explode)
        async with asyncio.timeout(10):
            with pytest.raises(StoreUnavailable, match=r"^Redis could not be asked$"):
                await broker.take(fresh_name)
            assert values_of(await drain(broker, fresh_name)) == [b"a", b"b"]


class TestRedisTrouble:
    async def test_scripts_that_redis_forgot_are_loaded_again(
        self, make_instance_broker: MakeBroker, private_redis: RedisProcess, fresh_name: str
    ) -> None:
        broker = await make_instance_broker(url=private_redis.url)
        client = Redis.from_url(private_redis.url)
        await add_all(broker, fresh_name, b"a", b"b", b"c")
        for expected in ([b"a"], [b"b"], [b"c"]):
            await execute(client, "SCRIPT", "FLUSH")
            assert [m.value for m in await broker.take(fresh_name)] == expected
        await client.aclose()
        assert await broker.add(fresh_name, b"d") == 4

    async def test_scripts_forgotten_by_a_cluster_are_loaded_again(
        self, make_instance_broker: MakeBroker, cluster_url: str, fresh_name: str
    ) -> None:
        broker = await make_instance_broker(url=cluster_url)
        names = [f"{fresh_name}-{index}" for index in range(12)]
        await asyncio.gather(*(broker.add(name, b"a") for name in names))
        for address in cluster_url.removeprefix("redis+cluster://").split(","):
            client = Redis.from_url(f"redis://{address}")
            await execute(client, "SCRIPT", "FLUSH")
            await client.aclose()
        assert await asyncio.gather(*(broker.add(name, b"b") for name in names)) == [2] * 12
        for name in names:
            assert values_of(await drain(broker, name)) == [b"a", b"b"]

    async def test_after_a_kill_of_redis_all_that_was_acknowledged_is_there_and_work_goes_on(
        self, make_instance_broker: MakeBroker, private_redis: RedisProcess, fresh_name: str
    ) -> None:
        broker = await make_instance_broker(url=private_redis.url)
        acknowledged: list[int] = []
        publishing = True

        async def publish(name: str) -> None:
            while publishing:
                acknowledged.append(await add_when_possible(broker, fresh_name, name.encode()))

        publishers = [asyncio.create_task(publish(f"publisher {n}")) for n in range(8)]
        for _ in range(2):
            await until(functools.partial(has_more_than, acknowledged, len(acknowledged) + 200), 60)
            killed = private_redis.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            await until(functools.partial(is_another, private_redis, killed), 60)
        await until(functools.partial(has_more_than, acknowledged, len(acknowledged) + 200), 60)
        publishing = False
        await asyncio.gather(*publishers)
        assert len(set(acknowledged)) == len(acknowledged)
        stored = []
        while messages := await broker.take(fresh_name, 1000):
            stored += [message.number for message in messages]
        assert set(acknowledged) <= set(stored)
        assert stored == sorted(set(stored))

    async def test_after_the_death_of_a_clusters_node_all_that_was_acknowledged_is_there(
        self, make_instance_broker: MakeBroker, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        async with running_cluster(tmp_path_factory.mktemp("c")) as cluster:
            broker = await make_instance_broker(url=cluster.url)
            names = [f"queue-{index}" for index in range(12)]
            acknowledged: dict[str, list[int]] = {name: [] for name in names}
            for name in names:
                acknowledged[name].append(await broker.add(name, b"before"))
            killed = cluster.nodes[0].pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)

            async def add_for_ever() -> None:
                while True:
                    for name in names:
                        acknowledged[name].append(await broker.add(name, b"meanwhile"))

            with pytest.raises(StoreUnavailable):
                await add_for_ever()
            for name in names:
                acknowledged[name].append(await add_when_possible(broker, name, b"after"))
            for name in names:
                stored = [message.number for message in await broker.take(name, 10_000)]
                assert set(acknowledged[name]) <= set(stored)
                assert stored == sorted(set(stored))
            await broker.close()

    async def test_a_redis_that_hangs_is_out_of_reach_and_nothing_is_lost_when_it_wakes(
        self,
        make_instance_broker: MakeBroker,
        private_redis: RedisProcess,
        fresh_name: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        broker = await make_instance_broker(url=private_redis.url)
        values = [b"%d" % index for index in range(10)]
        await add_all(broker, fresh_name, *values)
        assert private_redis.pid is not None
        async with stopped(private_redis.pid):
            with monkeypatch.context() as patch:
                patch.setattr(backend_module, "ROUND_TRIP_TIMEOUT_SECONDS", 0.3)
                with pytest.raises(StoreUnavailable):
                    await broker.take(fresh_name, 3)
        await until(lambda: length_is(broker, fresh_name, 10))
        assert values_of(await drain(broker, fresh_name)) == values

    async def test_a_queue_that_redis_forgot_is_listed_again_when_it_is_next_used(
        self, make_instance_broker: MakeBroker, private_redis: RedisProcess, fresh_name: str
    ) -> None:
        broker = await make_instance_broker(url=private_redis.url)
        await broker.add(fresh_name, b"a")
        client = Redis.from_url(private_redis.url)
        await client.flushall()
        await client.aclose()
        assert await broker.add(fresh_name, b"b") == 1
        assert await broker.list_queues() == [fresh_name]

    @pytest.mark.parametrize(
        "pattern",
        ["redis://127.0.0.1:{}", "redis+cluster://127.0.0.1:{}", "redis+sentinel://127.0.0.1:{}/m"],
    )
    async def test_a_redis_that_is_not_there_is_told_to_every_caller_at_once(
        self, make_instance_broker: MakeBroker, pattern: str, fresh_name: str
    ) -> None:
        broker = await make_instance_broker(url=pattern.format(free_port()))
        operations: list[Callable[[], Awaitable[object]]] = [
            broker.ping,
            lambda: broker.add(fresh_name, b"value"),
            lambda: broker.take(fresh_name),
            lambda: broker.pop(fresh_name),
            lambda: broker.get(fresh_name),
            lambda: broker.stats(fresh_name),
            lambda: broker.list_queues(),
        ]
        async with asyncio.timeout(20):
            for operation in operations:
                with pytest.raises(StoreUnavailable):
                    await operation()

    async def test_a_broker_opened_before_its_redis_works_once_it_is_there(
        self, make_instance_broker: MakeBroker, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        directory = tmp_path_factory.mktemp("late")
        async with RedisProcess(directory, fsync="no") as redis:
            url = redis.url
        broker = await make_instance_broker(url=url)
        with pytest.raises(StoreUnavailable):
            await broker.ping()
        async with RedisProcess(directory, fsync="no") as redis:
            assert redis.url == url
            assert await broker.add("queue", b"value") == 1
