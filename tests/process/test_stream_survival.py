"""Leased streams on two nodes while Redis is killed, and while it is away for long.

A node that cannot call Redis must not count as dead when Redis is back: what its consumers hold
is theirs until they settle it.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from restmq.broker.listeners import LIFETIME_SECONDS
from restmq.redis_process import RedisProcess
from tests.process.test_survival import LONGEST_OUTAGE_SECONDS, kill_redis, shared_redis_and_nodes
from tests.server_process import ServerProcess
from tests.support import eventually

PREFETCH = 3
Item = dict[str, Any]


class LeasedReader:
    """Reads a leased stream and settles only when told to."""

    def __init__(self, session: aiohttp.ClientSession, node: ServerProcess, queue: str) -> None:
        self._session = session
        self._node = node
        self._queue = queue
        self.items: list[Item] = []
        self.is_open = False

    @property
    def values(self) -> list[str]:
        """The values of all deliveries."""
        return [item["value"] for item in self.items]

    async def read_socket(self) -> None:
        """Read over a WebSocket."""
        url = f"{self._node.url}/ws/{self._queue}?ack=1&lease=600&prefetch={PREFETCH}"
        async with self._session.ws_connect(url) as socket:
            async for frame in socket:
                self._take(json.loads(frame.data))

    async def read_events(self) -> None:
        """Read server-sent events."""
        query = f"format=sse&ack=1&lease=600&prefetch={PREFETCH}"
        url = f"{self._node.url}/c/{self._queue}?{query}"
        async with self._session.get(url) as answer:
            async for line in answer.content:
                data = line.removeprefix(b"data: ")
                if data.startswith(b"{"):
                    self._take(json.loads(data))

    def _take(self, item: Item) -> None:
        self.is_open = True
        if "receipt" in item:
            self.items.append(item)

    async def ack(self, items: list[Item]) -> None:
        """Settle; AssertionError if one of the leases is over."""
        for item in items:
            url = f"{self._node.url}/lease/{item['receipt']}"
            async with self._session.delete(url) as answer:
                assert answer.status == 200, (item, await answer.text())


@contextlib.asynccontextmanager
async def reading(*readers: Any) -> AsyncIterator[None]:
    """Run readers meanwhile; AssertionError if one of their streams ended."""
    tasks = [asyncio.create_task(reader) for reader in readers]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def publish(
    session: aiohttp.ClientSession, node: ServerProcess, queue: str, *values: str
) -> None:
    """Publish, each until the answer is "yes"."""
    for value in values:

        async def is_stored(value: str = value) -> bool:
            headers = {"Idempotency-Key": value}
            url = f"{node.url}/q/{queue}"
            async with session.post(url, data={"value": value}, headers=headers) as answer:
                return answer.status == 200

        await eventually(is_stored, LONGEST_OUTAGE_SECONDS)


async def hold_back(redis: RedisProcess) -> None:
    """Let Redis hang for longer than a node's lifetime, and then die."""
    assert redis.pid is not None
    os.kill(redis.pid, signal.SIGSTOP)
    loop = asyncio.get_running_loop()
    over = loop.time() + LIFETIME_SECONDS + 1
    await eventually(lambda: loop.time() > over, 2 * LIFETIME_SECONDS)
    await kill_redis(redis)


@pytest.mark.parametrize("trouble", [kill_redis, hold_back])
async def test_what_is_held_stays_held_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, fresh_name: str, trouble: Any
) -> None:
    directory = tmp_path_factory.mktemp("s")
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        shared_redis_and_nodes(directory) as (redis, nodes),
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        readers = [LeasedReader(session, node, fresh_name) for node in nodes]

        def have(count: int) -> bool:
            return sum(len(reader.items) for reader in readers) >= count

        first = [str(number) for number in range(2 * PREFETCH)]
        second = [str(number) for number in range(2 * PREFETCH, 4 * PREFETCH)]
        async with reading(readers[0].read_socket(), readers[1].read_events()):
            await eventually(lambda: all(reader.is_open for reader in readers))
            await publish(session, nodes[0], fresh_name, *first)
            await eventually(lambda: have(len(first)))
            await trouble(redis)
            for node in nodes:
                await eventually(node.is_ready, LONGEST_OUTAGE_SECONDS)
            await publish(session, nodes[1], fresh_name, *second)
            for reader in readers:
                await reader.ack(list(reader.items))
            await eventually(lambda: have(len(first) + len(second)))
            for reader in readers:
                await reader.ack(reader.items[PREFETCH:])
            delivered = [value for reader in readers for value in reader.values]
            assert sorted(delivered, key=int) == first + second
            assert {item["attempt"] for reader in readers for item in reader.items} == {1}
            async with session.get(f"{nodes[0].url}/stats/{fresh_name}") as answer:
                stats = await answer.json()
            assert [stats[name] for name in ("ready", "leased", "dead")] == [0, 0, 0]
