"""A node that knows logs and nothing else, for their tests."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from restmq.broker.backend import Backend, open_backend
from restmq.broker.commit import Committer
from restmq.broker.cursors import Cursors
from restmq.broker.log import Logs
from restmq.broker.log_entry import Entry, Log, NewEntry, Page, Query, Scope, make_log
from restmq.broker.log_follow import LogWatcher
from restmq.broker.log_ids import IdKind
from restmq.broker.log_scripts import LogScripts
from restmq.broker.schedule import Schedule
from restmq.broker.scripts import Scripts
from tests.broker.fakes import FaultyBackend

ALL = 10_000

MakeLogNode = Callable[[], Awaitable["LogNode"]]


class LogNode:
    """What a broker has for logs, on a way to Redis that can be made to fail."""

    def __init__(self, redis_url: str) -> None:
        self.node = uuid.uuid4().hex[:12]
        queue_scripts, self.scripts = Scripts(self.node), LogScripts()
        inner: Backend = open_backend(redis_url, [*queue_scripts.all(), *self.scripts.all()])
        self.backend = FaultyBackend(inner)
        self.committer = Committer(self.backend)  # type: ignore[arg-type]
        self.schedule = Schedule(self.committer, queue_scripts)
        self.logs = Logs(self.committer, self.scripts, self.schedule)
        self.cursors = Cursors(self.committer, self.scripts, self.logs)
        self.watcher = LogWatcher(inner)

    async def open(self) -> "LogNode":
        """Start everything but the schedule, which a test starts if it wants things to expire."""
        self.committer.start()
        self.watcher.start()
        return self

    async def close(self) -> None:
        """Stop everything."""
        await self.watcher.close()
        await self.schedule.close()
        await self.committer.close()
        await self.backend.inner.close()

    async def append(
        self, log: Log, *values: bytes, ttl_seconds: float | None = None
    ) -> list[bytes]:
        """Append the values in one operation, and return their ids."""
        entries = [NewEntry(value, ttl_seconds) for value in values]
        return [appended.id for appended in await self.logs.append_all(log, entries)]

    async def values(
        self, log: Log, scope: Scope = Scope.PARTITION, path: bytes = b""
    ) -> list[bytes]:
        """Return all values, oldest first."""
        return values_of(await self.logs.read(log, Query(ALL, scope=scope, path=path)))


@asynccontextmanager
async def opening_log_nodes(redis_url: str) -> AsyncIterator[MakeLogNode]:
    """Give what opens nodes, and close them in the end."""
    nodes: list[LogNode] = []

    async def make() -> LogNode:
        nodes.append(LogNode(redis_url))
        return await nodes[-1].open()

    yield make
    await asyncio.gather(*(node.close() for node in nodes))


def number_log(name: str) -> Log:
    """Name a log that counts."""
    return make_log("tests", name, IdKind.NUMBER)


def time_log(name: str) -> Log:
    """Name a log of times."""
    return make_log("tests", name, IdKind.TIME)


def values_of(page: Page | Iterable[Entry | None]) -> list[bytes]:
    """Return the values of entries that are there."""
    entries = page.entries if isinstance(page, Page) else page
    return [entry.value for entry in entries if entry is not None]
