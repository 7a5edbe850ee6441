"""A primary that dies behind Sentinel: the broker finds the next one by itself."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from restmq.errors import InvalidInput, StoreUnavailable
from restmq.redis_process import LAUNCHER, find_program
from tests.broker.conftest import MakeBroker
from tests.broker.fakes import FakeConsumer, streaming
from tests.broker.steps import add_when_possible, until
from tests.support import START_TIMEOUT_SECONDS, free_port

SERVICE = "mymaster"


class Group:
    """A primary, its replica, and one sentinel that watches over them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.primary_port, self.replica_port, self.sentinel_port = (free_port() for _ in range(3))
        self.primary: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """How a broker is told of this group."""
        return f"redis+sentinel://127.0.0.1:{self.sentinel_port}/{SERVICE}"

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start all three and wait until a failover is possible."""
        common = ("--save", "", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
        self.primary = await self._run(stack, "primary", "--port", self.primary_port, *common)
        master = ("--replicaof", "127.0.0.1", self.primary_port)
        await self._run(stack, "replica", "--port", self.replica_port, *common, *master)
        await until(self._replica_is_in_step, START_TIMEOUT_SECONDS)
        config = self._directory / "sentinel.conf"
        config.write_text(
            f"port {self.sentinel_port}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary_port} 1\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        await self._run(stack, "sentinel", config, "--sentinel")
        await until(self._sentinel_hears_of_both, START_TIMEOUT_SECONDS)
        # Not from the start: it takes a sentinel longer to hear of a server for the first time.
        async with _client(self.sentinel_port) as client:
            await client.sentinel_set(SERVICE, "down-after-milliseconds", 500)

    async def kill_primary(self) -> None:
        """End the primary without warning."""
        assert self.primary is not None
        self.primary.kill()
        await self.primary.wait()

    async def _run(
        self, stack: contextlib.AsyncExitStack, name: str, *arguments: object
    ) -> asyncio.subprocess.Process:
        directory = self._directory / name
        directory.mkdir()
        with (directory / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid())),
                *(str(find_program()), *map(str, arguments), "--bind", "127.0.0.1"),
                cwd=directory,
                stdout=log,
                stderr=log,
            )
        stack.push_async_callback(_end, process)
        return process

    async def _replica_is_in_step(self) -> bool:
        status: object = ""
        async with _client(self.replica_port) as client:
            status = (await client.info("replication")).get("master_link_status", "")
        return status == "up"

    async def _sentinel_hears_of_both(self) -> bool:
        answered, in_step = [], []
        async with _client(self.sentinel_port) as client:
            primary: Any = await client.sentinel_master(SERVICE)
            replicas: Any = await client.sentinel_slaves(SERVICE)
            # No ping waits for its answer, and there has been one.
            answered = [server["last-ping-sent"] == 0 for server in (primary, *replicas)]
            in_step = [replica["master-link-status"] == "ok" for replica in replicas]
        return answered == [True, True] and in_step == [True]


@contextlib.asynccontextmanager
async def _client(port: int) -> AsyncIterator["Redis"]:
    """A client of a server that may not answer yet, which then ends the block."""
    client = Redis(port=port, decode_responses=True)
    try:
        with contextlib.suppress(RedisError, OSError):
            yield client
    finally:
        await client.aclose()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    """A running group."""
    async with contextlib.AsyncExitStack() as stack:
        started = Group(tmp_path)
        await started.start(stack)
        yield started


async def test_after_a_failover_the_broker_adds_takes_and_streams_on_without_a_restart(
    group: Group, make_instance_broker: MakeBroker
) -> None:
    broker = await make_instance_broker(url=group.url)
    publisher = await make_instance_broker(url=group.url)
    consumer = FakeConsumer()
    async with streaming(broker, "stream", consumer):
        assert await publisher.add("stream", b"before") == 1
        assert await publisher.add("queue", b"before") == 1
        await until(lambda: consumer.values == [b"before"])
        await group.kill_primary()
        with pytest.raises(StoreUnavailable):
            await publisher.add("queue", b"meanwhile")
        assert await add_when_possible(publisher, "queue", b"after") >= 1
        await add_when_possible(publisher, "stream", b"after")
        await until(lambda: b"after" in consumer.values, START_TIMEOUT_SECONDS)
        taken = await publisher.take("queue", 9)
        assert taken[-1].value == b"after"
        assert "queue" in await broker.list_queues()


async def test_the_url_must_name_the_service(make_instance_broker: MakeBroker) -> None:
    with pytest.raises(InvalidInput, match="needs the service's name"):
        await make_instance_broker(url="redis+sentinel://127.0.0.1:26379")
