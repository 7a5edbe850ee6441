"""Following a log: whoever waits is told of what is new, and loses nothing when a hint is lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from restmq.broker.log_entry import Log, NewEntry, Query, Scope
from restmq.broker.log_follow import follow_all, read_waiting
from restmq.broker.log_ids import id_of_number
from restmq.broker.scripts import command
from restmq.redis_process import RedisProcess
from tests.broker.log_node import LogNode, MakeLogNode, number_log, opening_log_nodes, values_of
from tests.broker.steps import until

PATIENCE_SECONDS = 30.0


@pytest.fixture
async def make_node(broker_redis_url: str) -> AsyncIterator[MakeLogNode]:
    """Opens nodes on an instance, and then on a cluster."""
    async with opening_log_nodes(broker_redis_url) as make:
        yield make


class Follower:
    """Follows a log on a task of its own, and keeps what it saw."""

    def __init__(self, node: LogNode, log: Log, query: Query) -> None:
        self.seen: list[bytes] = []
        self._node, self._log, self._query = node, log, query
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        node = self._node
        async for page in follow_all(node.logs, node.watcher, self._log, [self._query]):
            self.seen += values_of(page)

    async def leave(self) -> None:
        """Stop following."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_a_follower_sees_what_is_there_and_then_what_other_nodes_append(
    make_node: MakeLogNode, fresh_name: str
) -> None:
    writer, reader = await make_node(), await make_node()
    log = number_log(fresh_name)
    await writer.append(log, b"1", b"2", b"3")
    follower = Follower(reader, log, Query(2, id_of_number(1)))
    await until(lambda: follower.seen == [b"2", b"3"])
    for number in range(4, 10):
        await writer.append(log, b"%d" % number)
        await until(lambda: len(follower.seen) == number - 1)  # noqa: B023
    assert follower.seen == [b"%d" % number for number in range(2, 10)]
    await follower.leave()


async def test_followers_of_paths_see_what_concerns_them_and_nothing_twice(
    make_node: MakeLogNode, fresh_name: str
) -> None:
    writers, reader = [await make_node(), await make_node()], await make_node()
    log = number_log(fresh_name)
    wanted = {
        (Scope.EXACT, b"/a"): [b"/a"],
        (Scope.PARENTS, b"/a/b/c"): [b"/a", b"/a/b"],
        (Scope.SUBTREE, b"/a"): [b"/a", b"/a/b", b"/a/x"],
        (Scope.SUBTREE, b"/z"): [b"/z"],
        (Scope.PARTITION, b""): [b"/a", b"/a/b", b"/a/x", b"/z"],
    }
    followers = {
        (scope, path): Follower(reader, log, Query(5, scope=scope, path=path))
        for scope, path in wanted
    }
    count = 50

    async def write(node: LogNode) -> None:
        for _ in range(count):
            for path in (b"/z", b"/a", b"/a/x", b"/a/b"):
                await node.logs.append(log, NewEntry(path, 60, path=path))

    await asyncio.gather(*(write(node) for node in writers))
    for scope_and_path, follower in followers.items():
        paths = wanted[scope_and_path]
        await until(lambda: len(follower.seen) >= 2 * count * len(paths), 30)  # noqa: B023
        assert sorted(follower.seen) == sorted(paths * 2 * count)
        await follower.leave()


async def test_a_watch_of_a_path_sleeps_while_others_are_written(
    make_node: MakeLogNode, fresh_name: str
) -> None:
    writer, reader = await make_node(), await make_node()
    log = number_log(fresh_name)
    with (
        reader.watcher.watch(log, Scope.EXACT, b"/mine") as mine,
        reader.watcher.watch(log) as everything,
    ):
        assert await mine.wait(PATIENCE_SECONDS), "it is woken when the subscription is there"
        assert await everything.wait(PATIENCE_SECONDS)
        await writer.logs.append(log, NewEntry(b"", path=b"/other"))
        assert await everything.wait(PATIENCE_SECONDS)
        assert not await mine.wait(0)
        await writer.logs.append_all(log, [NewEntry(b"", path=b"/mine"), NewEntry(b"", path=b"/x")])
        assert await mine.wait(PATIENCE_SECONDS)


async def test_one_watch_can_be_of_several_logs(make_node: MakeLogNode, fresh_name: str) -> None:
    writer, reader = await make_node(), await make_node()
    logs = [number_log(f"{fresh_name} {index}") for index in range(3)]
    with reader.watcher.watch_all(logs) as watch:
        for log in logs:
            await writer.append(log, b"a")
            assert await watch.wait(PATIENCE_SECONDS)
    assert not reader.watcher._watches, "nothing is remembered of those who left"


async def test_reading_with_patience_ends_with_the_first_entry_or_with_the_time(
    make_node: MakeLogNode, fresh_name: str
) -> None:
    writer, reader = await make_node(), await make_node()
    log = number_log(fresh_name)
    page = await read_waiting(reader.logs, reader.watcher, log, Query(5), 0.01)
    assert page.entries == []
    waiting = asyncio.create_task(
        read_waiting(reader.logs, reader.watcher, log, Query(5), PATIENCE_SECONDS)
    )
    await until(lambda: bool(reader.watcher._watches))
    await writer.append(log, b"a")
    assert values_of(await waiting) == [b"a"]
    page = await read_waiting(reader.logs, reader.watcher, log, Query(5), PATIENCE_SECONDS)
    assert values_of(page) == [b"a"]


async def test_a_follower_goes_on_when_redis_was_away(
    private_redis: RedisProcess, fresh_name: str
) -> None:
    async with opening_log_nodes(private_redis.url) as make:
        node = await make()
        log = number_log(fresh_name)
        await node.append(log, b"a")
        with node.watcher.watch(log) as watch:
            assert await watch.wait(PATIENCE_SECONDS)
            await node.committer.submit(command("CLIENT", "KILL", "TYPE", "pubsub"))
            assert await watch.wait(PATIENCE_SECONDS), "a hint may have been lost"
            await node.append(log, b"b")
            assert await watch.wait(PATIENCE_SECONDS)
