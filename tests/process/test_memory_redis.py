"""The memory Redis of the real program: started when a worker asks, gone with the server."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from restmq import server as composition
from restmq.access import Access
from restmq.endpoints.metrics_sheet import Row
from restmq.errors import InvalidInput
from restmq.memory_redis import AskedMemoryRedis
from restmq.node import Node
from restmq.settings import Settings
from tests.process.clients import open_api
from tests.server_process import ServerProcess, command_line, running_server
from tests.support import START_TIMEOUT_SECONDS, eventually


def memory_pids(server: ServerProcess) -> list[int]:
    """Return the process numbers of memory Redis servers, by the directory they run in."""
    directory = str((server.data_dir / "memory").resolve())
    pids = server.child_pids("redis-server")
    return [pid for pid in pids if os.readlink(f"/proc/{pid}/cwd") == directory]


async def ask_as_a_worker(server: ServerProcess) -> str:
    """Ask the parent process as each of its workers does."""
    async with AskedMemoryRedis(server.data_dir / "run" / "memory.sock") as worker:
        return await worker.url()


async def command(url: str, *words: str) -> Any:
    """Send one command to a Redis."""
    async with contextlib.aclosing(Redis.from_url(url, decode_responses=True)) as client:
        return await client.execute_command(*words)


class TestSeveralWorkers:
    async def test_it_is_started_once_when_first_needed_and_loses_all_with_the_server(
        self, tmp_path, fresh_name
    ):
        async with running_server(tmp_path, "--workers", "2") as server:
            async with open_api(server.url) as api:
                await api.add(fresh_name, "on disk")
            assert not (server.data_dir / "memory").exists()
            urls = await asyncio.gather(*(ask_as_a_worker(server) for _ in range(10)))
            (url,) = set(urls)
            (pid,) = memory_pids(server)
            # It is another Redis than that of the messages on disk.
            assert await command(url, "DBSIZE") == 0
            assert await command(url, "CONFIG", "GET", "appendonly") == {"appendonly": "no"}
            await command(url, "SET", "key", "lost")
            assert await server.stop() == 0
            await eventually(lambda: not command_line(pid))
            assert not (server.data_dir / "run" / "memory.sock").exists()

            await server.start()
            assert memory_pids(server) == []
            assert await ask_as_a_worker(server) == url
            assert await command(url, "DBSIZE") == 0
            async with open_api(server.url) as api:
                assert (await api.pop(fresh_name) or {}).get("value") == "on disk"

    async def test_one_that_dies_comes_back_empty_at_the_same_address(self, tmp_path):
        async with running_server(tmp_path, "--workers", "2", "--fsync", "no") as server:
            url = await ask_as_a_worker(server)
            await command(url, "SET", "key", "lost")
            (killed,) = memory_pids(server)
            os.kill(killed, signal.SIGKILL)

            async def is_back() -> bool:
                try:
                    return bool(await command(url, "PING")) and memory_pids(server) != [killed]
                except (RedisError, OSError):
                    return False

            await eventually(is_back, START_TIMEOUT_SECONDS)
            assert await ask_as_a_worker(server) == url
            assert await command(url, "DBSIZE") == 0

    async def test_it_leaves_with_a_killed_server_and_the_next_one_starts_its_own(self, tmp_path):
        async with running_server(tmp_path, "--workers", "2", "--fsync", "no") as server:
            url = await ask_as_a_worker(server)
            await command(url, "SET", "key", "lost")
            (pid,) = memory_pids(server)
            await server.kill()
            await eventually(lambda: not command_line(pid), 20)
            await server.start()
            assert await ask_as_a_worker(server) == url
            assert await command(url, "DBSIZE") == 0

    async def test_where_one_is_named_nobody_is_asked(self, tmp_path, redis_url):
        flags = ("--workers", "2", "--fsync", "no", "--memory-redis-url", redis_url)
        async with running_server(tmp_path, *flags) as server:
            assert not (server.data_dir / "run" / "memory.sock").exists()


class TestWiring:
    """What the composition root gives to a node."""

    @pytest.fixture
    def nodes(self, monkeypatch: pytest.MonkeyPatch) -> list[Node]:
        """All nodes that the composition root makes in this process."""
        made: list[Node] = []

        class KeptNode(Node):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                made.append(self)

        monkeypatch.setattr(composition, "Node", KeptNode)
        monkeypatch.setattr(composition, "tune_garbage_collection", lambda: None)
        return made

    @contextlib.asynccontextmanager
    async def serving(self, main: Any, nodes: list[Node]) -> AsyncIterator[Node]:
        """Serve in this process until the end of the block."""
        task = asyncio.create_task(main)
        try:
            await eventually(lambda: task.done() or (nodes and nodes[-1].port), 20)
            if task.done():
                task.result()
            yield nodes[-1]
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def test_a_single_process_starts_it_itself(self, tmp_path, nodes):
        settings = Settings(data_dir=tmp_path, port=0, fsync="no", drain_seconds=1)
        main = composition._serve(settings, Access.from_text(""), {})
        async with self.serving(main, nodes) as node:
            assert not (tmp_path / "memory").exists()
            first, second = await asyncio.gather(node.memory_redis_url(), node.memory_redis_url())
            assert first == second == f"unix://{tmp_path}/memory/run/redis.sock"
            assert await command(first, "DBSIZE") == 0
        with pytest.raises((RedisError, OSError)):
            await command(first, "PING")

    async def test_a_worker_asks_its_parent(self, tmp_path, nodes, redis_url):
        settings = Settings(port=0, drain_seconds=1, workers=2)
        path = tmp_path / "memory.sock"

        def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b'{"url": "unix:///from/the/parent"}\n')
            writer.close()

        server = await asyncio.start_unix_server(answer, path)
        main = composition._serve_worker(settings, redis_url, path, {}, Row.alone())
        async with self.serving(main, nodes) as node:
            assert await node.memory_redis_url() == "unix:///from/the/parent"
        server.close()
        await server.wait_closed()

    @pytest.mark.parametrize("named", ["", "redis://named"])
    async def test_beside_a_named_redis_only_a_named_one_will_do(self, nodes, redis_url, named):
        settings = Settings(redis_url=redis_url, memory_redis_url=named, port=0, drain_seconds=1)
        mains = (
            composition._serve(settings, Access.from_text(""), {}),
            composition._serve_worker(settings, redis_url, None, {}, Row.alone()),
        )
        for main in mains:
            async with self.serving(main, nodes) as node:
                if named:
                    assert await node.memory_redis_url() == named
                else:
                    with pytest.raises(InvalidInput, match="--memory-redis-url"):
                        await node.memory_redis_url()
            nodes.clear()

    async def test_a_private_redis_does_not_preclude_a_named_one(self, tmp_path, nodes):
        settings = Settings(
            data_dir=tmp_path, memory_redis_url="redis://named", port=0, fsync="no", drain_seconds=1
        )
        main = composition._serve(settings, Access.from_text(""), {})
        async with self.serving(main, nodes) as node:
            assert await node.memory_redis_url() == "redis://named"
