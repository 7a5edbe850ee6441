"""The memory Redis: started at the first question and once, and told to those who ask."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from restmq.errors import InvalidInput, StartupError, Unavailable
from restmq.memory_redis import (
    AskedMemoryRedis,
    MemoryRedisServer,
    NamedMemoryRedis,
    PrivateMemoryRedis,
)
from restmq.redis_process import RedisProcess
from tests.support import eventually

URL = "unix:///run/redis.sock"


class FakeProcess:
    """Starts when the test lets it."""

    def __init__(self) -> None:
        self.may_start = asyncio.Event()
        self.starts = 0
        self.stops = 0
        self.fault: Exception | None = None
        self.url = URL

    async def start(self) -> None:
        """Count, wait, fail if so told."""
        self.starts += 1
        await self.may_start.wait()
        if self.fault is not None:
            raise self.fault

    async def stop(self) -> None:
        """Count."""
        self.stops += 1


@pytest.fixture
def process() -> FakeProcess:
    """A process that has not been started, and may start at once."""
    fake = FakeProcess()
    fake.may_start.set()
    return fake


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    """Where to ask."""
    return tmp_path / "memory.sock"


@contextlib.asynccontextmanager
async def parent_and_two_workers(
    process: FakeProcess, socket_path: Path
) -> AsyncIterator[list[AskedMemoryRedis]]:
    """Two workers that ask over the socket of one parent."""
    async with (
        PrivateMemoryRedis(process) as memory,
        MemoryRedisServer(memory.url, socket_path),
        AskedMemoryRedis(socket_path) as first,
        AskedMemoryRedis(socket_path) as second,
    ):
        yield [first, second]


class TestNamed:
    async def test_the_address_is_the_one_of_the_setting(self):
        assert await NamedMemoryRedis("redis://h").url() == "redis://h"

    async def test_without_one_the_setting_is_told(self):
        with pytest.raises(InvalidInput, match="--memory-redis-url"):
            await NamedMemoryRedis("").url()


class TestPrivate:
    async def test_it_is_started_by_the_first_question_and_stopped_at_the_end(self, process):
        async with PrivateMemoryRedis(process) as memory:
            assert process.starts == 0
            assert [await memory.url() for _ in range(3)] == [URL] * 3
            assert (process.starts, process.stops) == (1, 0)
        assert process.stops == 1

    async def test_questions_at_once_start_one(self, process):
        process.may_start.clear()
        async with PrivateMemoryRedis(process) as memory:
            questions = [asyncio.create_task(memory.url()) for _ in range(50)]
            await eventually(lambda: process.starts)
            process.may_start.set()
            assert await asyncio.gather(*questions) == [URL] * 50
            assert process.starts == 1

    async def test_a_question_that_is_given_up_does_not_end_the_start(self, process):
        process.may_start.clear()
        async with PrivateMemoryRedis(process) as memory:
            given_up = asyncio.create_task(memory.url())
            patient = asyncio.create_task(memory.url())
            await eventually(lambda: process.starts)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            process.may_start.set()
            assert await patient == URL
            assert process.starts == 1

    async def test_a_failed_start_is_logged_told_in_general_terms_and_tried_again(
        self, process, caplog
    ):
        process.fault = StartupError("no program in /some/where\nlast words")
        async with PrivateMemoryRedis(process) as memory:
            answers = await asyncio.gather(memory.url(), memory.url(), return_exceptions=True)
            assert all(isinstance(answer, Unavailable) for answer in answers)
            assert "/some/where" not in str(answers[0])
            assert "/some/where" in caplog.text
            process.fault = None
            assert await memory.url() == URL
            assert process.starts == 2

    async def test_closing_ends_a_start_under_way(self, process):
        process.may_start.clear()
        async with PrivateMemoryRedis(process) as memory:
            question = asyncio.create_task(memory.url())
            await eventually(lambda: process.starts)
        assert process.stops == 1
        with pytest.raises(asyncio.CancelledError):
            await question

    async def test_a_real_one_is_another_redis_and_leaves_nothing_behind(self, tmp_path):
        directory = tmp_path / "data" / "memory"
        for _ in range(2):
            async with PrivateMemoryRedis(RedisProcess(directory, persistent=False)) as memory:
                url = await memory.url()
                assert url == f"unix://{directory}/run/redis.sock"
                async with contextlib.aclosing(Redis.from_url(url)) as client:
                    assert await client.dbsize() == 0
                    await client.set("key", "value")

    async def test_a_real_one_that_cannot_start_can_be_started_once_the_cause_is_gone(
        self, tmp_path, caplog
    ):
        caplog.set_level(logging.ERROR)
        directory = tmp_path / "memory"
        directory.write_text("in the way")
        async with PrivateMemoryRedis(RedisProcess(directory, persistent=False)) as memory:
            with pytest.raises(Unavailable):
                await memory.url()
            assert str(directory) in caplog.text
            directory.unlink()
            assert (await memory.url()).startswith("unix://")


class TestAsking:
    async def test_two_workers_at_once_start_one(self, process, socket_path):
        process.may_start.clear()
        async with parent_and_two_workers(process, socket_path) as workers:
            questions = [asyncio.create_task(worker.url()) for worker in workers for _ in range(9)]
            await eventually(lambda: process.starts)
            process.may_start.set()
            assert await asyncio.gather(*questions) == [URL] * 18
            assert process.starts == 1

    async def test_the_answer_is_remembered(self, process, socket_path):
        async with AskedMemoryRedis(socket_path) as worker:
            async with (
                PrivateMemoryRedis(process) as memory,
                MemoryRedisServer(memory.url, socket_path),
            ):
                assert await worker.url() == URL
            assert not socket_path.exists()
            assert await worker.url() == URL

    async def test_a_failed_start_is_told_and_tried_again_when_asked_again(
        self, process, socket_path
    ):
        process.fault = StartupError("no program")
        async with parent_and_two_workers(process, socket_path) as workers:
            for worker in workers:
                with pytest.raises(Unavailable, match="the log of the server says why"):
                    await worker.url()
            process.fault = None
            assert [await worker.url() for worker in workers] == [URL, URL]

    async def test_an_unforeseen_fault_is_logged_and_told_in_general_terms(
        self, process, socket_path, caplog
    ):
        process.fault = ZeroDivisionError("secret")
        async with parent_and_two_workers(process, socket_path) as (worker, _):
            with pytest.raises(Unavailable) as caught:
                await worker.url()
        assert "secret" not in str(caught.value)
        assert "ZeroDivisionError: secret" in caplog.text

    async def test_a_socket_that_a_killed_server_left_is_replaced(self, process, socket_path):
        server = await asyncio.start_unix_server(lambda reader, writer: None, socket_path)
        server.close()
        await server.wait_closed()
        socket_path.touch()
        async with parent_and_two_workers(process, socket_path) as (worker, _):
            assert await worker.url() == URL

    async def test_a_parent_that_is_gone_is_told_and_asked_again(self, process, socket_path):
        async with AskedMemoryRedis(socket_path) as worker:
            with pytest.raises(Unavailable):
                await worker.url()
            async with (
                PrivateMemoryRedis(process) as memory,
                MemoryRedisServer(memory.url, socket_path),
            ):
                assert await worker.url() == URL

    @pytest.mark.parametrize("answer", [b"", b"\n", b"[]\n", b"{}\n", b"{" * 100_000])
    async def test_an_answer_that_is_none_is_told(self, socket_path, answer):
        async def reply(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        server = await asyncio.start_unix_server(reply, socket_path)
        async with AskedMemoryRedis(socket_path) as worker:
            with pytest.raises(Unavailable):
                await worker.url()
        server.close()
        await server.wait_closed()

    async def test_the_parent_can_leave_while_a_worker_waits(self, process, socket_path):
        process.may_start.clear()
        async with AskedMemoryRedis(socket_path) as worker:
            async with (
                PrivateMemoryRedis(process) as memory,
                MemoryRedisServer(memory.url, socket_path),
            ):
                question = asyncio.create_task(worker.url())
                await eventually(lambda: process.starts)
            with pytest.raises(Unavailable):
                await question
