"""Group commit: everything that arrives during one round trip to Redis goes out in the next.

Adds to one queue, and takes from one queue, become one script call however many requests they
come from; so a request costs a share of a round trip and of an fsync, not one of each.

Limits: at most ``MAX_PENDING_OPERATIONS`` operations and ``MAX_PENDING_BYTES`` of message bodies
wait; beyond that an operation is refused with ``Overloaded``.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

from restmq.broker.backend import Backend, NotSentError
from restmq.broker.message import Message
from restmq.broker.scripts import POPPED, TAKEN, Call, Reply, Scripts
from restmq.errors import Overloaded, RestMQError, StoreUnavailable

logger = logging.getLogger(__name__)

MAX_PENDING_OPERATIONS = 50_000
MAX_PENDING_BYTES = 256 * 1024 * 1024
GATHERING_TURNS = 8
GATHERED_SHARE = 0.8
"""How many turns of the event loop a round trip waits for which share of those it served last."""

MAX_PUT_BACKS = 500
"""Calls that put messages back which go into one round trip."""

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Message bodies that go into one round trip, or are taken by one call; one body may pass it."""


class Group(ABC):
    """Operations that become one call."""

    @abstractmethod
    def call(self, batch: str) -> Call:
        """Make the call; ``batch`` is unique among this node's round trips."""

    @abstractmethod
    def settle(self, reply: Reply, committer: "Committer") -> None:
        """Give each operation its part of the reply."""

    @abstractmethod
    def fail(self, error: RestMQError) -> None:
        """Tell each operation that it failed."""

    def undo(self, batch: str) -> Call | None:
        """Make the call that takes back what was done if its reply was lost; None if none is."""
        return None


class _Single(Group):
    def __init__(self, call: Call, future: asyncio.Future[Reply], undo: Call | None) -> None:
        self._call = call
        self._future = future
        self._undo = undo

    def call(self, batch: str) -> Call:
        return self._call

    def settle(self, reply: Reply, committer: "Committer") -> None:
        if not self._future.done():
            self._future.set_result(reply)
        elif self._undo is not None:  # nobody waits any more for what was handed out
            committer.undo([self._undo])

    def fail(self, error: RestMQError) -> None:
        if not self._future.done():
            self._future.set_exception(error)

    def undo(self, batch: str) -> Call | None:
        return self._undo


class _Adds(Group):
    """Adds to one queue. A publisher that went away meanwhile has its message stored anyway."""

    def __init__(self, scripts: Scripts, queue: str) -> None:
        self._scripts = scripts
        self._queue = queue
        self.wakes_itself = True
        self._messages: list[tuple[int | None, bytes]] = []
        self._futures: list[asyncio.Future[int]] = []

    def append(self, ttl_seconds: int | None, packed: bytes, future: asyncio.Future[int]) -> None:
        self._messages.append((ttl_seconds, packed))
        self._futures.append(future)

    def call(self, batch: str) -> Call:
        return self._scripts.add(self._queue, self._messages, self.wakes_itself)

    def settle(self, reply: Reply, committer: "Committer") -> None:
        number: int = reply
        for future in self._futures:
            if not future.done():
                future.set_result(number)
            number += 1

    def fail(self, error: RestMQError) -> None:
        for future in self._futures:
            if not future.done():
                future.set_exception(error)


class _Takes(Group):
    """Takes from one queue. What falls to a consumer that went away meanwhile is put back."""

    def __init__(self, scripts: Scripts, queue: str, remember: bool) -> None:
        self._scripts = scripts
        self._queue = queue
        self._remember = remember
        self._flavour = POPPED if remember else TAKEN
        self._wanted: list[tuple[int, asyncio.Future[list[Message]]]] = []

    def append(self, count: int, future: asyncio.Future[list[Message]]) -> None:
        self._wanted.append((count, future))

    def call(self, batch: str) -> Call:
        total = sum(count for count, future in self._wanted if not future.done())
        return self._scripts.take(
            self._queue, self._flavour, batch, total, MAX_BATCH_BYTES, self._remember
        )

    def settle(self, reply: Reply, committer: "Committer") -> None:
        stopped_early = reply[-1] == 1
        messages = [Message(reply[at], reply[at + 1]) for at in range(0, len(reply) - 1, 2)]
        used = 0
        for count, future in self._wanted:
            share = messages[used : used + count]
            if future.done():
                continue
            if not share and stopped_early:
                committer.take_again(self._queue, count, self._remember, future)
                continue
            future.set_result(share)
            used += len(share)
        if used < len(messages):
            committer.give_back(self._queue, messages[used:])

    def fail(self, error: RestMQError) -> None:
        for _, future in self._wanted:
            if not future.done():
                future.set_exception(error)

    def undo(self, batch: str) -> Call | None:
        return self._scripts.restore_reply(self._queue, self._flavour, batch)


class _Batch:
    """What one round trip will carry."""

    __slots__ = ("groups", "operations", "total_bytes")

    def __init__(self) -> None:
        self.groups: dict[object, Group] = {}
        self.operations = 0
        self.total_bytes = 0


class Committer:
    """Collects operations and carries them to Redis, one round trip at a time."""

    def __init__(self, backend: Backend, scripts: Scripts) -> None:
        self._backend = backend
        self._scripts = scripts
        # Kept, because asking for the running loop is a system call in this version of Python.
        self._loop = asyncio.get_running_loop()
        self._batches: deque[_Batch] = deque([_Batch()])
        self._pending_operations = 0
        self._pending_bytes = 0
        self._arrived = asyncio.Event()
        self._lost: list[Call] = []
        self._undos = 0
        self._round_trips = 0
        self._restores = 0
        self._crowd = 0
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        """Start carrying operations."""
        self._task = self._loop.create_task(self._run(), name="committer")

    async def close(self) -> None:
        """Carry what still waits, then stop."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await asyncio.shield(self._task)
            self._task = None

    async def abort(self) -> None:
        """Stop at once, whatever waits."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def add(
        self, queue: str, ttl_seconds: int | None, packed: bytes, wakes_itself: bool = False
    ) -> asyncio.Future[int]:
        """Append a message; the future gives its number once it is stored.

        ``wakes_itself``: the caller looks at the queue for its own consumers afterwards.
        """
        batch = self._admit(len(packed))
        group = batch.groups.get(queue)
        if group is None:
            group = batch.groups[queue] = _Adds(self._scripts, queue)
        assert isinstance(group, _Adds)
        future: asyncio.Future[int] = self._loop.create_future()
        group.append(ttl_seconds, packed, future)
        group.wakes_itself &= wakes_itself
        return future

    def take(self, queue: str, count: int, remember: bool) -> asyncio.Future[list[Message]]:
        """Take messages off the queue; the future gives up to ``count`` of them.

        If the future is cancelled before it is done, its share goes back to the queue.
        """
        future: asyncio.Future[list[Message]] = self._loop.create_future()
        self._put_take(self._admit(0), queue, count, remember, future)
        return future

    def take_again(
        self, queue: str, count: int, remember: bool, future: asyncio.Future[list[Message]]
    ) -> None:
        """Put a take that got nothing for lack of room in the reply into the next round trip."""
        self._put_take(self._append(), queue, count, remember, future)

    def _put_take(
        self,
        batch: _Batch,
        queue: str,
        count: int,
        remember: bool,
        future: asyncio.Future[list[Message]],
    ) -> None:
        group = batch.groups.get((queue, remember))
        if group is None:
            group = batch.groups[queue, remember] = _Takes(self._scripts, queue, remember)
        assert isinstance(group, _Takes)
        group.append(count, future)

    def submit(
        self, call: Call, undo: Call | None = None, *, is_admitted: bool = False
    ) -> asyncio.Future[Reply]:
        """Send one call in the next round trip; the future gives Redis's reply.

        ``undo`` is sent when the reply was lost with the connection, so that nobody knows it.
        ``is_admitted``: it belongs to an operation that was accepted, so no limit refuses it.
        """
        batch = self._append() if is_admitted else self._admit(0)
        future: asyncio.Future[Reply] = self._loop.create_future()
        batch.groups[future] = _Single(call, future, undo)
        return future

    def give_back(self, queue: str, messages: Sequence[Message]) -> None:
        """Put messages that reached nobody back at the head of the queue, in their order."""
        pairs = [(message.number, message.record) for message in messages]
        self._restores += 1
        self._lost.append(self._scripts.restore(queue, str(self._restores), pairs))
        self._arrived.set()

    def undo(self, calls: Sequence[Call]) -> None:
        """Send calls that take back what replies held before anything else, until it is done."""
        self._lost[:0] = calls
        self._undos += len(calls)
        self._arrived.set()

    @property
    def is_busy(self) -> bool:
        """Return whether operations wait for a round trip, or for the end of one."""
        return self._pending_operations > 0

    def _admit(self, size_bytes: int) -> _Batch:
        """Return the batch that takes one more operation; raises if none may."""
        if self._closing:
            raise StoreUnavailable("the server is stopping")
        if (
            self._pending_operations >= MAX_PENDING_OPERATIONS
            or self._pending_bytes + size_bytes > MAX_PENDING_BYTES
        ):
            raise Overloaded("too many requests wait for Redis; try again in a moment")
        batch = self._append()
        return self._admit_bytes(batch, size_bytes) if size_bytes else batch

    def _append(self) -> _Batch:
        """Return the batch that takes one more operation, whatever the limits."""
        self._pending_operations += 1
        batch = self._batches[-1]
        batch.operations += 1
        if batch.operations == 1:
            self._arrived.set()
        return batch

    def _admit_bytes(self, batch: _Batch, size_bytes: int) -> _Batch:
        if batch.total_bytes and batch.total_bytes + size_bytes > MAX_BATCH_BYTES:
            batch.operations -= 1
            batch = _Batch()
            batch.operations = 1
            self._batches.append(batch)
        batch.total_bytes += size_bytes
        self._pending_bytes += size_bytes
        return batch

    def _next_batch(self) -> _Batch:
        batch = self._batches.popleft()
        if not self._batches:
            self._batches.append(_Batch())
        return batch

    async def _run(self) -> None:
        while True:
            if not self._batches[0].groups and not self._lost:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await self._gather()
            batch = self._next_batch()
            await self._round_trip(batch)
            self._pending_operations -= batch.operations
            self._crowd = batch.operations + self._pending_operations
            self._pending_bytes -= batch.total_bytes

    async def _gather(self) -> None:
        """Let most of those who were answered last time come back, for a few turns of the loop.

        A round trip and its fsync cost nearly the same for many as for few, so batches should be
        large; but not of everyone, because then there would be nothing to do while Redis works.
        """
        wanted = self._crowd * GATHERED_SHARE
        for _ in range(GATHERING_TURNS):
            if self._pending_operations >= wanted:
                return
            await asyncio.sleep(0)

    async def _round_trip(self, batch: _Batch) -> None:
        # What was lost is put back first, before a later take can overwrite its record.
        first = self._undos + MAX_PUT_BACKS
        lost, self._lost = self._lost[:first], self._lost[first:]
        self._round_trips += 1
        batch_name = str(self._round_trips)
        groups = list(batch.groups.values())
        calls = lost + [group.call(batch_name) for group in groups]
        try:
            replies = await self._backend.execute(calls)
        except StoreUnavailable as error:
            self._lost = lost + self._lost
            if not isinstance(error, NotSentError):
                self.undo([call for group in groups if (call := group.undo(batch_name))])
            for group in groups:
                group.fail(error)
            await self._pause_after_failure()
            return
        refused = _refused(lost, replies)
        self._lost, self._undos = refused + self._lost, len(refused)
        for group, reply in zip(groups, replies[len(lost) :], strict=True):
            if isinstance(reply, RestMQError):
                group.fail(reply)
                continue
            try:
                group.settle(reply, self)
            except Exception:
                # Everyone waits for this task, so no single reply may end it.
                logger.exception("a reply of Redis could not be understood")
                group.fail(RestMQError("a reply of Redis could not be understood"))
        if refused:
            await self._pause_after_failure()

    async def _pause_after_failure(self) -> None:
        if self._closing:
            if self._lost:
                logger.error("Redis did not take messages back: %d calls", len(self._lost))
            self._lost = []
            return
        if self._lost:
            # Nothing but lost messages may wait: without a pause this would spin.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    self._arrived.clear()
                    await self._arrived.wait()


def _refused(calls: Sequence[Call], replies: Sequence[Reply | RestMQError]) -> list[Call]:
    """Return those of the calls, whose replies come first, that Redis may take another time."""
    answered = list(zip(calls, replies, strict=False))
    for _, reply in answered:
        if isinstance(reply, RestMQError) and not isinstance(reply, StoreUnavailable):
            logger.error("messages could not be put back: %s", reply)
    return [call for call, reply in answered if isinstance(reply, StoreUnavailable)]
