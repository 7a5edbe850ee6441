"""Nodes and Redis are killed while messages are published with idempotency keys and leased.

Whatever dies, a publisher repeats itself until it is told "yes", and a consumer acks what it has
done. At the end every message was processed, and none was stored twice.
"""

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from restmq.redis_process import RedisProcess
from tests.server_process import ServerProcess, running_server
from tests.support import POLL_SECONDS, eventually

PUBLISHERS = 3
CONSUMERS = 3
ADDS_BETWEEN_KILLS = 15
LEASE_SECONDS = 2
LONGEST_OUTAGE_SECONDS = 25
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=5)

Nodes = tuple[ServerProcess, ServerProcess]


class Client:
    """Asks one node after the other, because any may be dead."""

    def __init__(self, session: aiohttp.ClientSession, nodes: Nodes, first: int) -> None:
        self._session = session
        self._urls: Iterator[str] = itertools.cycle(node.url for node in (*nodes[first:], *nodes))
        self.stopped = False

    async def ask(
        self, method: str, path: str, value: str | None = None, key: str | None = None
    ) -> tuple[int, dict[str, str]]:
        """Return status and JSON of the answer; 503 also if there was none."""
        headers = {"Accept": "application/json"} | ({"Idempotency-Key": key} if key else {})
        data = None if value is None else {"value": value}
        url = next(self._urls) + path
        try:
            async with self._session.request(method, url, data=data, headers=headers) as answer:
                if answer.status in (204, 503):
                    return answer.status, {}
                return answer.status, await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            return 503, {}


class Publisher(Client):
    """Publishes values of its own, each until it is told "yes"."""

    def __init__(self, session: aiohttp.ClientSession, nodes: Nodes, number: int) -> None:
        super().__init__(session, nodes, number % 2)
        self._name = f"publisher-{number}"
        self.keys: dict[str, str] = {}
        """Value to the key that the answer named."""
        self.repetitions = 0

    async def run(self, queue: str) -> None:
        """Publish until told to stop."""
        for turn in itertools.count():
            if self.stopped:
                return
            value = f"{self._name} {turn}"
            while True:
                status, answer = await self.ask("POST", f"/q/{queue}", value, value)
                if status == 200:
                    break
                assert status == 503
                self.repetitions += 1
                await asyncio.sleep(POLL_SECONDS)
            self.keys[value] = answer["key"]


class Consumer(Client):
    """Leases, processes and acks messages one by one."""

    def __init__(self, session: aiohttp.ClientSession, nodes: Nodes, number: int) -> None:
        super().__init__(session, nodes, number % 2)
        self.processed: list[tuple[str, str]] = []
        """Value and key of every delivery."""

    async def run(self, queue: str) -> None:
        """Consume until told to stop."""
        while not self.stopped:
            status, message = await self.ask("GET", f"/q/{queue}?lease={LEASE_SECONDS}")
            assert status in (200, 204, 503)
            if status != 200:
                await asyncio.sleep(POLL_SECONDS)
                continue
            self.processed.append((message["value"], message["key"]))
            for _ in range(3):
                status, _ = await self.ask("DELETE", f"/lease/{message['receipt']}")
                assert status in (200, 409, 503)
                if status != 503:
                    break


@contextlib.asynccontextmanager
async def shared_redis_and_nodes(directory: Path) -> AsyncIterator[tuple[RedisProcess, Nodes]]:
    """Run a Redis that writes to disk before it answers, and two nodes over it."""
    async with RedisProcess(directory / "r", fsync="always") as redis:
        flags = ("--redis-url", redis.url)
        async with (
            running_server(directory, *flags, data_dir="a") as first,
            running_server(directory, *flags, data_dir="b") as second,
        ):
            yield redis, (first, second)


async def kill_redis(redis: RedisProcess) -> None:
    """Kill Redis, which its watcher starts again."""
    killed = redis.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    await eventually(lambda: redis.pid not in (None, killed), LONGEST_OUTAGE_SECONDS)


async def restart(node: ServerProcess) -> None:
    """Kill a node and start it again on the same port."""
    await node.kill()
    await node.start()


async def more_published(publishers: list[Publisher]) -> None:
    """Wait until each publisher has got so many more through."""
    goals = [len(publisher.keys) + ADDS_BETWEEN_KILLS for publisher in publishers]
    await eventually(
        lambda: all(len(p.keys) >= goal for p, goal in zip(publishers, goals, strict=True)),
        LONGEST_OUTAGE_SECONDS,
    )


async def test_every_message_is_processed_and_none_is_stored_twice_whatever_is_killed(
    tmp_path_factory: pytest.TempPathFactory, fresh_name: str
) -> None:
    # Not tmp_path, whose name may be too long for a socket in it.
    directory = tmp_path_factory.mktemp("s")
    async with (
        shared_redis_and_nodes(directory) as (redis, nodes),
        aiohttp.ClientSession(timeout=REQUEST_TIMEOUT) as session,
    ):
        observer = Client(session, nodes, 0)
        settings = f"{nodes[0].url}/settings/{fresh_name}"
        async with session.patch(settings, json={"max_attempts": 0}) as answer:
            assert answer.status == 200
        publishers = [Publisher(session, nodes, number) for number in range(PUBLISHERS)]
        consumers = [Consumer(session, nodes, number) for number in range(CONSUMERS)]

        async def is_empty() -> bool:
            status, stats = await observer.ask("GET", f"/stats/{fresh_name}")
            waiting = [stats.get(name) for name in ("ready", "delayed", "leased", "dead")]
            return status == 200 and waiting == [0, 0, 0, 0]

        async with asyncio.TaskGroup() as consuming:
            for consumer in consumers:
                consuming.create_task(consumer.run(fresh_name))
            async with asyncio.TaskGroup() as publishing:
                for publisher in publishers:
                    publishing.create_task(publisher.run(fresh_name))
                await more_published(publishers)
                await restart(nodes[0])
                await more_published(publishers)
                await kill_redis(redis)
                await more_published(publishers)
                await asyncio.gather(kill_redis(redis), restart(nodes[1]))
                await more_published(publishers)
                for publisher in publishers:
                    publisher.stopped = True
            await eventually(is_empty, LONGEST_OUTAGE_SECONDS)
            for consumer in consumers:
                consumer.stopped = True

        published = {value: key for p in publishers for value, key in p.keys.items()}
        processed = {pair for consumer in consumers for pair in consumer.processed}
        assert sum(publisher.repetitions for publisher in publishers) > 0
        assert len(set(published.values())) == len(published)
        assert processed == set(published.items())
