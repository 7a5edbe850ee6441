"""How a node hears that there is something new in a log.

One connection a node, on which it subscribes to the channels of the logs that somebody here
follows. What comes over it is only a hint: who follows reads from a position, and is told to look
again whenever a hint may have been missed. So the order is: watch, read, wait, read, and so on.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from redis.asyncio.client import PubSub

from restmq.broker.backend import CONNECTION_ERRORS, Backend
from restmq.broker.keys import LOG_NODES_CHANNEL, log_channel
from restmq.broker.log import Logs
from restmq.broker.log_entry import Log, Page, Query, Scope, check_path, line_of
from restmq.errors import Unavailable

logger = logging.getLogger(__name__)

STREAM_PAGE_ENTRIES = 500
STREAM_PAGE_BYTES = 256 * 1024
"""What one stream holds in memory at the most; one entry may pass it."""

_RECONNECT_SECONDS = 0.2
_SUBSCRIBE_TIMEOUT_SECONDS = 5.0
_CHANNELS_AT_ONCE = 500

_ALL = b""
_EXACT, _SUBTREE = b"p", b"s"

Label = tuple[str, bytes]
"""A channel, and what a wake-up on it must be about."""


class Watch:
    """One follower's interest; a context manager that ends it."""

    def __init__(self, watcher: "LogWatcher", labels: Iterable[Label]) -> None:
        self._watcher = watcher
        self._labels = list(labels)
        self._event = asyncio.Event()

    def __enter__(self) -> Self:
        self._watcher.add(self, self._labels)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watcher.discard(self, self._labels)

    def wake(self) -> None:
        """Have the follower look again."""
        self._event.set()

    async def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until it is worth looking again; False when the time is over before."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class LogWatcher:
    """Listens for what is new in logs, for as long as it takes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._watches: dict[str, dict[bytes, set[Watch]]] = {}
        self._stale: set[str] = set()
        """Channels of which Redis may not know yet whether this node listens."""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start listening."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="log watcher")

    async def close(self) -> None:
        """Stop listening, and let everyone who waits look once more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.wake_all()

    def watch(self, log: Log, scope: Scope = Scope.PARTITION, path: bytes = b"") -> Watch:
        """Make a watch of a log, or of what concerns a read of that scope and path."""
        check_path(path)
        channel = log_channel(log.collection, log.name)
        if scope is Scope.PARTITION:
            return Watch(self, [(channel, _ALL)])
        if scope is Scope.EXACT:
            return Watch(self, [(channel, _EXACT + path)])
        if scope is Scope.SUBTREE:
            return Watch(self, [(channel, _SUBTREE + path)])
        return Watch(self, [(channel, _EXACT + ancestor) for ancestor in line_of(path)])

    def watch_all(self, logs: Iterable[Log]) -> Watch:
        """Make one watch of several logs."""
        return Watch(self, [(log_channel(log.collection, log.name), _ALL) for log in logs])

    def add(self, watch: Watch, labels: Iterable[Label]) -> None:
        """Count a watch in. It is woken once this node is known to listen."""
        for channel, label in labels:
            if channel not in self._watches:
                self._watches[channel] = {}
                self._mark(channel)
            self._watches[channel].setdefault(label, set()).add(watch)

    def discard(self, watch: Watch, labels: Iterable[Label]) -> None:
        """Count a watch out."""
        for channel, label in labels:
            labelled = self._watches.get(channel, {})
            watches = labelled.get(label, set())
            watches.discard(watch)
            if not watches:
                labelled.pop(label, None)
            if not labelled and self._watches.pop(channel, None) is not None:
                self._mark(channel)

    def wake_all(self) -> None:
        """Let everyone look again, because hints may have been missed."""
        for channel in list(self._watches):
            self._wake(channel)

    def _mark(self, channel: str) -> None:
        self._stale.add(channel)
        self._changed.set()

    def _wake(self, channel: str, paths: bytes = b"") -> None:
        """Wake those who watch the channel: all, or those whom one of the paths concerns."""
        labelled = self._watches.get(channel)
        if labelled is None:
            return
        if paths:
            labels = {_ALL}
            for path in paths.split(b"\0"):
                labels.add(_EXACT + path)
                labels.update(_SUBTREE + ancestor for ancestor in line_of(path))
        else:
            labels = set(labelled)
        for label in labels:
            for watch in labelled.get(label, ()):
                watch.wake()

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (*CONNECTION_ERRORS, TimeoutError) as error:
                logger.debug("no wake-ups about logs: %s", error)
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen(self) -> None:
        """Listen over one connection until it ends, which raises."""
        async with asyncio.timeout(_SUBSCRIBE_TIMEOUT_SECONDS):
            pubsub = await self._backend.subscriber()
        try:
            async with asyncio.timeout(_SUBSCRIBE_TIMEOUT_SECONDS):
                await pubsub.subscribe(LOG_NODES_CHANNEL)
            self._stale = set(self._watches)
            self._changed.set()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive(pubsub))
                tasks.create_task(self._tell(pubsub))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
        finally:
            # An own task ends a connection in whatever state it is.
            with contextlib.suppress(*CONNECTION_ERRORS):
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _receive(self, pubsub: PubSub) -> None:
        while True:
            message = await pubsub.get_message(timeout=math.inf)
            if message is None:
                continue
            channel = message["channel"].decode()
            if message["type"] == "message":
                self._wake(channel, message["data"])
            elif message["type"] == "subscribe":
                # From here on nothing is missed; before, something may have been.
                self._wake(channel)

    async def _tell(self, pubsub: PubSub) -> None:
        """Tell Redis which channels this node listens to, as that changes."""
        known: set[str] = set()
        while True:
            await self._changed.wait()
            stale, self._stale = self._stale, set()
            self._changed.clear()
            wanted = [name for name in stale if name in self._watches and name not in known]
            unwanted = [name for name in stale if name not in self._watches and name in known]
            known.update(wanted)
            known.difference_update(unwanted)
            for at in range(0, len(wanted), _CHANNELS_AT_ONCE):
                await pubsub.subscribe(*wanted[at : at + _CHANNELS_AT_ONCE])
            for at in range(0, len(unwanted), _CHANNELS_AT_ONCE):
                await pubsub.unsubscribe(*unwanted[at : at + _CHANNELS_AT_ONCE])


async def read_waiting(
    logs: Logs, watcher: LogWatcher, log: Log, query: Query, wait_seconds: float
) -> Page:
    """Read a page as ``Logs.read``, but if it is empty wait for up to so long for something."""
    page = await logs.read(log, query)
    if page.entries or wait_seconds <= 0:
        return page
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_seconds
    with watcher.watch(log, query.scope, query.path) as watch:
        while True:
            page = await logs.read(log, query)
            if page.entries or not await watch.wait(deadline - loop.time()):
                return page


async def follow_all(
    logs: Logs,
    watcher: LogWatcher,
    log: Log,
    queries: Sequence[Query],
    may_go_on: Callable[[], Awaitable[bool]] | None = None,
) -> AsyncGenerator[Page]:
    """Read pages that are not empty, oldest first, for ever: what is there, then what comes.

    Begins where the queries begin. What is stored before the position reached so far, as a put
    can, is not seen. It keeps to the limits of a stream, follows several queries about one log at
    once (those of several partitions, say; they must have one scope and path), and outlives a
    store that is out of reach for a while. ``may_go_on`` is asked whenever it looked and found
    nothing, as after the log was deleted; if it says no, that is the end.
    """
    pending = [_within_limits(query) for query in queries]
    with watcher.watch(log, queries[0].scope, queries[0].path) as watch:
        while True:
            is_complete, found = True, False
            try:
                for index, query in enumerate(pending):
                    page = await logs.read(log, query)
                    if page.position is not None:
                        pending[index] = query._replace(start=page.position, inclusive=False)
                    is_complete = is_complete and page.is_complete
                    if page.entries:
                        found = True
                        yield page
                if not found and may_go_on is not None and not await may_go_on():
                    return
            except Unavailable as error:
                await watch.wait(error.retry_after_seconds)
                continue
            if is_complete:
                await watch.wait()


def _within_limits(query: Query) -> Query:
    return query._replace(
        limit=min(query.limit, STREAM_PAGE_ENTRIES),
        max_bytes=min(query.max_bytes, STREAM_PAGE_BYTES),
    )
