"""The life of the processes: several workers, their deaths, orderly stops, refusals to start."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest

from tests.process.clients import (
    Api,
    Listener,
    bare_connection,
    deaf_consumer,
    listening,
    open_api,
    read_to_end,
)
from tests.server_process import ServerProcess, command_line, running_server
from tests.support import START_TIMEOUT_SECONDS, eventually

KINDS = ("comet", "sse", "websocket")
STREAMS = 33
"""Connections enough for the kernel to give some to each of two workers, all but certainly."""


def count_sockets(server: ServerProcess, pid: int, *, is_listening: bool) -> int:
    """Return how many listening sockets, or connections, at the server's port a process holds."""
    wanted = [
        f"socket:[{i}]" for i, s in server.sockets().items() if s.is_listening == is_listening
    ]
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(descriptor.readlink()) in wanted
    return count


def count_connections(server: ServerProcess, pid: int) -> int:
    """Return how many clients a worker has."""
    return count_sockets(server, pid, is_listening=False)


def worker_pids(server: ServerProcess) -> list[int]:
    """Return the process numbers of the workers that listen."""
    children = server.child_pids("spawn_main")
    listening_pids = []
    for pid in children:
        with contextlib.suppress(OSError):
            if count_sockets(server, pid, is_listening=True):
                listening_pids.append(pid)
    return listening_pids


def are_gone(pids: Sequence[int]) -> bool:
    """Return whether none of these processes runs any more."""
    return not any(command_line(pid) for pid in pids)


@contextlib.asynccontextmanager
async def two_workers(directory: Path) -> AsyncIterator[tuple[ServerProcess, list[int]]]:
    """Run a server with two workers; also tells their process numbers, once both listen."""
    async with running_server(directory, "--fsync", "no", "--workers", "2") as server:
        await eventually(lambda: len(worker_pids(server)) == 2, START_TIMEOUT_SECONDS)
        yield server, worker_pids(server)


class TestTwoWorkers:
    async def test_streams_and_requests_are_served_by_both(self, tmp_path, fresh_name):
        kinds = KINDS * (STREAMS // 3)
        async with (
            two_workers(tmp_path) as (server, workers),
            open_api(server.url) as api,
            listening(server.url, fresh_name, *kinds) as listeners,
        ):
            held = [count_connections(server, pid) for pid in workers]
            assert min(held) >= 1
            assert sum(held) >= STREAMS
            values = [f"to all {number}" for number in range(STREAMS)]
            await asyncio.gather(*(api.add(fresh_name, value) for value in values))
            await self.all_received(listeners, STREAMS * STREAMS)
            assert all(sorted(one.values) == sorted(values) for one in listeners)
            # Numbers, and so the order, are given by Redis, whichever worker a message came by.
            keys = [[message["key"] for message in one.messages] for one in listeners]
            assert keys == [[f"{fresh_name}:{n}" for n in range(1, STREAMS + 1)]] * STREAMS
            await api.set_policy(fresh_name, "roundrobin")
            await asyncio.gather(*(api.add(fresh_name, f"to one {n}") for n in range(STREAMS)))
            await self.all_received(listeners, STREAMS * (STREAMS + 1))
            received = [value for one in listeners for value in one.values if "one" in value]
            assert sorted(received) == sorted(f"to one {n}" for n in range(STREAMS))

    async def test_each_message_is_popped_once_whichever_worker_is_asked(
        self, tmp_path, fresh_name
    ):
        async with two_workers(tmp_path) as (server, _), open_api(server.url) as api:
            values = [f"value {number}" for number in range(100)]
            await asyncio.gather(*(api.add(fresh_name, value) for value in values))
            popped = await asyncio.gather(*(api.pop(fresh_name) for _ in values))
            assert sorted(message["value"] for message in popped) == sorted(values)

    async def test_a_killed_one_is_replaced_and_the_other_serves_on(self, tmp_path, fresh_name):
        kinds = KINDS * (STREAMS // 3)
        async with (
            two_workers(tmp_path) as (server, workers),
            open_api(server.url) as api,
            listening(server.url, fresh_name, *kinds) as listeners,
        ):
            killed, staying = workers
            count_of_killed = count_connections(server, killed)
            os.kill(killed, signal.SIGKILL)
            await eventually(lambda: sum(one.ended for one in listeners) == count_of_killed)

            def is_replaced() -> bool:
                now = worker_pids(server)
                return len(now) == 2 and killed not in now and staying in now

            await eventually(is_replaced, START_TIMEOUT_SECONDS)
            left = [one for one in listeners if not one.ended]
            async with listening(server.url, fresh_name, *kinds) as newcomers:
                held = [count_connections(server, pid) for pid in worker_pids(server)]
                assert min(held) >= 1
                await api.add(fresh_name, "after")
                await eventually(lambda: all(one.values == ["after"] for one in newcomers + left))

    async def all_received(self, listeners: Sequence[Listener], count: int) -> None:
        """Wait until all together have so many messages."""
        await eventually(lambda: sum(len(one.messages) for one in listeners) >= count, 20)


class TestNoProcessIsLeftBehind:
    async def test_when_the_parent_is_told_to_stop(self, tmp_path):
        async with two_workers(tmp_path) as (server, workers):
            processes = server.descendant_pids()
            assert {*workers, *server.child_pids("redis-server")} < {*processes, server.pid}
            assert await server.stop() == 0
            await eventually(lambda: are_gone(processes))

    @pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
    async def test_when_a_single_process_is_told_to_stop(self, tmp_path, signal_number):
        async with running_server(tmp_path, "--fsync", "no") as server:
            processes = server.descendant_pids()
            assert processes
            server.process.send_signal(signal_number)
            assert await server.stop() == 0
            await eventually(lambda: are_gone(processes))

    async def test_when_the_parent_is_killed(self, tmp_path, fresh_name):
        async with (
            two_workers(tmp_path) as (server, workers),
            listening(server.url, fresh_name, *KINDS),
        ):
            processes = server.descendant_pids()
            assert set(workers) < set(processes)
            await server.kill()
            await eventually(lambda: are_gone(processes), 20)


class TestRefusingToStart:
    async def refusal(self, data_dir: Path, *flags: str, exit_code: int = 2) -> str:
        """Run a server that must refuse to start, and return what it prints.

        An init system tries again after exit code 1, for what may pass.
        """
        server = ServerProcess(data_dir, flags, port=0)
        await server.spawn()
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            assert await server.process.wait() == exit_code
        return server.log_path.read_text()

    async def test_a_second_server_is_refused_a_directory_that_is_held(self, tmp_path, fresh_name):
        async with running_server(tmp_path) as server, open_api(server.url) as api:
            told = await self.refusal(server.data_dir, exit_code=1)
            assert str(server.data_dir) in told
            assert str(server.pid) in told
            assert "Traceback" not in told
            await api.add(fresh_name, "the first one serves on")

    async def test_a_broken_access_file_is_refused(self, tmp_path):
        acl = tmp_path / "broken.conf"
        acl.write_text("[rest:producer\nhosts_allow = all\n")
        told = await self.refusal(tmp_path / "data", "--acl", str(acl))
        assert str(acl) in told
        assert "Traceback" not in told
        assert not (tmp_path / "data").exists()

    async def test_a_missing_access_file_is_refused(self, tmp_path):
        acl = tmp_path / "missing.conf"
        assert str(acl) in await self.refusal(tmp_path / "data", "--acl", str(acl))

    async def test_a_port_that_is_taken_is_refused_by_number(self, tmp_path):
        async with running_server(tmp_path, "--fsync", "no") as server:
            port = str(server.port)
            told = await self.refusal(tmp_path / "other", "--port", port, exit_code=1)
            assert str(server.port) in told
            assert "Traceback" not in told


class TestStopping:
    @pytest.mark.parametrize("workers", [1, 2])
    async def test_streams_end_in_order_and_a_slow_request_is_finished(
        self, tmp_path, fresh_name, workers
    ):
        flags = ("--workers", str(workers), "--drain-seconds", "20")
        async with (
            running_server(tmp_path, *flags) as server,
            bare_connection(server.port) as (reader, writer),
            listening(server.url, fresh_name, *KINDS) as listeners,
        ):
            (redis_pid,) = server.child_pids("redis-server")
            os.kill(redis_pid, signal.SIGSTOP)  # so that a request takes as long as this test likes
            try:
                body = b"POST /q/%b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nslow"
                writer.write(body % fresh_name.encode())
                port = writer.get_extra_info("sockname")[1]
                await eventually(lambda: server.has_read_all_from(port))
                server.process.send_signal(signal.SIGTERM)
                await eventually(lambda: self.refuses(server))
            finally:
                os.kill(redis_pid, signal.SIGCONT)
            answer = await read_to_end(reader)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(f"\r\n\r\n{fresh_name}:1\r\n".encode())
            assert await server.stop() == 0
            await eventually(lambda: all(one.ended for one in listeners))
            assert [one.error for one in listeners] == [None, None, None]
            assert listeners[-1].close_code == aiohttp.WSCloseCode.GOING_AWAY
            await server.start()
            async with open_api(server.url) as api:
                assert (await api.pop(fresh_name) or {}).get("value") == "slow"

    async def test_requests_that_wait_are_answered_at_once(self, tmp_path, fresh_name):
        waiting = {
            f"/q/{fresh_name}?wait=60": 204,
            f"/c/{fresh_name}?wait=60": 204,
            f"/c/{fresh_name}?wait=60&ack=1": 204,
            f"/channels/{fresh_name}?wait=60": 200,
        }
        async with (
            running_server(tmp_path, "--drain-seconds", "60") as server,
            aiohttp.ClientSession() as session,
            contextlib.AsyncExitStack() as stack,
        ):
            connections = [
                await stack.enter_async_context(bare_connection(server.port)) for _ in waiting
            ]
            for path, (_, writer) in zip(waiting, connections, strict=True):
                writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
                port = writer.get_extra_info("sockname")[1]
                await eventually(lambda port=port: server.has_read_all_from(port))
            # A later request on the same event loop: those before it wait by now.
            async with session.get(server.url + "/readyz") as answer:
                assert answer.status == 200
            async with asyncio.timeout(30):
                server.process.send_signal(signal.SIGTERM)
                answers = [await read_to_end(reader) for reader, _ in connections]
                assert await server.process.wait() == 0
            assert [int(each.split()[1]) for each in answers] == list(waiting.values())

    async def refuses(self, server: ServerProcess) -> bool:
        """Return whether new connections are refused."""
        try:
            async with bare_connection(server.port):
                return False
        except ConnectionRefusedError:
            return True

    async def test_clients_that_hang_do_not_hold_it_up_beyond_the_time_to_drain(
        self, tmp_path, fresh_name
    ):
        drain_seconds = 2
        flags = ("--fsync", "no", "--drain-seconds", str(drain_seconds))
        async with (
            running_server(tmp_path, *flags) as server,
            open_api(server.url) as api,
            bare_connection(server.port) as (_, half_head),
            bare_connection(server.port) as (_, half_body),
        ):
            head = f"POST /q/{fresh_name} HTTP/1.1\r\nHost: x\r\n".encode()
            half_head.write(head)
            half_body.write(head + b"Content-Length: 9\r\n\r\nhalf")
            with deaf_consumer(server.port, fresh_name):
                await eventually(lambda: self.has_consumer(api, fresh_name))
                while await api.length(fresh_name) == 0:  # until the consumer has no room
                    await api.add(fresh_name, "x" * 1_000_000)
                loop = asyncio.get_running_loop()
                started = loop.time()
                assert await server.stop() == 0
                assert loop.time() - started < drain_seconds + 5

    async def has_consumer(self, api: Api, queue: str) -> bool:
        """Return whether the queue has a streaming consumer."""
        return await api.consumers(queue) == 1
