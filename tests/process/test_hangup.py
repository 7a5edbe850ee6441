"""SIGHUP to a server of two workers: all of them read their files again, at once."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

from tests.process.clients import bare_connection
from tests.process.test_workers import STREAMS, count_connections, worker_pids
from tests.server_process import ServerProcess, running_server
from tests.support import START_TIMEOUT_SECONDS, eventually

OPEN = "# everyone may do everything\n"
CLOSED = "[rest:consumer]\nhosts_deny = all\n"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def status(connection: Connection) -> int:
    """Ask for the statistics of a queue over a connection that stays, and return the status."""
    reader, writer = connection
    writer.write(b"GET /q/hangup HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))
    return int(head.split()[1])


async def statuses(connections: list[Connection]) -> set[int]:
    """Return all answers that these connections get."""
    return set(await asyncio.gather(*(status(each) for each in connections)))


@contextlib.asynccontextmanager
async def connections_to_both(
    server: ServerProcess, workers: list[int]
) -> AsyncIterator[list[Connection]]:
    """Connections of which each worker has some."""
    async with contextlib.AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(bare_connection(server.port)) for _ in range(STREAMS)
        ]
        await statuses(connections)
        assert min(count_connections(server, pid) for pid in workers) >= 1
        yield connections


class TestHangup:
    async def test_all_workers_take_over_a_changed_access_file(self, tmp_path):
        acl = tmp_path / "acl.conf"
        acl.write_text(OPEN)
        flags = ("--fsync", "no", "--workers", "2", "--acl", str(acl))
        async with running_server(tmp_path, *flags) as server:
            await eventually(lambda: len(worker_pids(server)) == 2, START_TIMEOUT_SECONDS)
            workers = worker_pids(server)
            async with connections_to_both(server, workers) as connections:
                assert await statuses(connections) == {204}
                for rules, expected in ((CLOSED, 401), (OPEN, 204)):
                    acl.write_text(rules)
                    server.process.send_signal(signal.SIGHUP)

                    async def all_get(expected: int = expected) -> bool:
                        return await statuses(connections) == {expected}

                    # Without the signal it would take a minute.
                    await eventually(all_get, 20)
            assert worker_pids(server) == workers  # none was ended by the signal

    async def test_a_broken_access_file_changes_nothing(self, tmp_path):
        acl = tmp_path / "acl.conf"
        acl.write_text(CLOSED)
        flags = ("--fsync", "no", "--workers", "2", "--acl", str(acl))
        async with running_server(tmp_path, *flags) as server:
            await eventually(lambda: len(worker_pids(server)) == 2, START_TIMEOUT_SECONDS)
            async with connections_to_both(server, worker_pids(server)) as connections:
                acl.write_text("[no section\n")
                server.process.send_signal(signal.SIGHUP)
                await eventually(lambda: count_in_log(server, "stay as they are") == 2, 20)
                assert await statuses(connections) == {401}

    async def test_all_workers_take_over_changed_settings_of_queues(self, tmp_path):
        file = tmp_path / "settings.toml"
        file.write_text('[queues."*"]\nttl = 5\n')
        flags = ("--fsync", "no", "--workers", "2", "--config", str(file))
        async with running_server(tmp_path, *flags) as server:
            await eventually(lambda: len(worker_pids(server)) == 2, START_TIMEOUT_SECONDS)
            file.write_text('[queues."*"]\nttl = 0\n')
            server.process.send_signal(signal.SIGHUP)
            await eventually(lambda: count_in_log(server, "ttl cannot be 0") == 2, 20)
            file.write_text('[queues."*"]\nttl = 6\n')
            server.process.send_signal(signal.SIGHUP)
            await eventually(lambda: count_in_log(server, "queues are in force") == 2, 20)


def count_in_log(server: ServerProcess, words: str) -> int:
    """Return how many lines of the server's log hold these words."""
    return sum(words in line for line in server.log_path.read_text().splitlines())
