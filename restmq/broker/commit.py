"""Group commit: everything that arrives during one round trip to Redis goes out in the next.

Operations of one kind on one queue become one script call however many requests they come from
(``Group``); so a request costs a share of a round trip and of an fsync, not one of each.

Limits: at most ``MAX_PENDING_OPERATIONS`` operations and ``MAX_PENDING_BYTES`` of message bodies
wait; beyond that an operation is refused with ``Overloaded``.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from restmq.broker.backend import Backend, NotSentError
from restmq.broker.measures import Measures
from restmq.broker.scripts import Call, Reply
from restmq.errors import Overloaded, RestMQError, StoreUnavailable

logger = logging.getLogger(__name__)

MAX_PENDING_OPERATIONS = 50_000
MAX_PENDING_BYTES = 256 * 1024 * 1024
GATHERING_TURNS = 8
GATHERED_SHARE = 0.8
"""How many turns of the event loop a round trip waits for which share of those it served last."""

MAX_PUT_BACKS = 500
"""Calls that put messages back which go into one round trip."""

MAX_ACTIVE = 100
"""Queues that are remembered, or little more, because something was done in them lately."""

ACTIVE_SECONDS = 5.0
"""They are forgotten after so long, so that others can take their places."""

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Message bodies that go into one round trip, or are taken by one call; one body may pass it."""


class Group(ABC):
    """Operations that become one call."""

    @abstractmethod
    def call(self, batch: str) -> Call:
        """Make the call; ``batch`` is unique among this node's round trips."""

    @abstractmethod
    def settle(self, reply: Reply) -> None:
        """Give each operation its part of the reply."""

    @abstractmethod
    def fail(self, error: RestMQError) -> None:
        """Tell each operation that it failed."""

    def undo(self, batch: str) -> Call | None:
        """Make the call that takes back what was done if its reply was lost; None if none is."""
        return None

    @property
    def queue(self) -> str:
        """Return the queue in which something is done; empty if it is in none."""
        return ""

    def measure(self, reply: Reply, measures: Measures) -> None:  # noqa: B027 - few have anything
        """Count what was done, going by the same reply as ``settle``."""


GroupType = TypeVar("GroupType", bound=Group)


class _Single(Group):
    def __init__(
        self,
        committer: "Committer",
        call: Call,
        future: asyncio.Future[Reply],
        undo: Call | None,
    ) -> None:
        self._committer = committer
        self._call = call
        self._future = future
        self._undo = undo

    def call(self, batch: str) -> Call:
        return self._call

    def settle(self, reply: Reply) -> None:
        if not self._future.done():
            self._future.set_result(reply)
        elif self._undo is not None:  # nobody waits any more for what was handed out
            self._committer.undo([self._undo])

    def fail(self, error: RestMQError) -> None:
        if not self._future.done():
            self._future.set_exception(error)

    def undo(self, batch: str) -> Call | None:
        return self._undo


class _Batch:
    """What one round trip will carry."""

    __slots__ = ("groups", "operations", "total_bytes")

    def __init__(self) -> None:
        self.groups: dict[Hashable, Group] = {}
        self.operations = 0
        self.total_bytes = 0


class Committer:
    """Collects operations and carries them to Redis, one round trip at a time."""

    def __init__(self, backend: Backend) -> None:
        self.measures = Measures()
        """What is counted here; others may count there as well."""
        self._backend = backend
        # Kept, because asking for the running loop is a system call in this version of Python.
        self._loop = asyncio.get_running_loop()
        self._batches: deque[_Batch] = deque([_Batch()])
        self._pending_operations = 0
        self._pending_bytes = 0
        self._arrived = asyncio.Event()
        self._lost: list[Call] = []
        self._undos = 0
        self._round_trips = 0
        self._crowd = 0
        self._active: dict[str, None] = {}
        self._active_since = 0.0
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

    def group(
        self,
        key: Hashable,
        make: Callable[..., GroupType],
        size_bytes: int = 0,
        *arguments: object,
        is_admitted: bool = False,
    ) -> GroupType:
        """Count one more operation in, and return the group of the next round trip that takes it.

        ``make`` makes the group, of ``arguments``, if there is none of this key yet; a key
        belongs to one type.
        ``size_bytes``: what the operation carries. ``is_admitted``: as in ``submit``. Raises
        ``Unavailable`` when too much waits, or the server is stopping.
        """
        batch = self._append() if is_admitted else self._admit(size_bytes)
        group = batch.groups.get(key)
        if group is None:
            group = batch.groups[key] = make(*arguments)
        return group  # type: ignore[return-value]

    def submit(
        self, call: Call, undo: Call | None = None, *, is_admitted: bool = False
    ) -> asyncio.Future[Reply]:
        """Send one call in the next round trip; the future gives Redis's reply.

        ``undo`` is sent when the reply was lost with the connection, so that nobody knows it.
        ``is_admitted``: it belongs to an operation that was accepted, so no limit refuses it.
        """
        batch = self._append() if is_admitted else self._admit(0)
        future: asyncio.Future[Reply] = self._loop.create_future()
        batch.groups[future] = _Single(self, call, future, undo)
        return future

    def put_back(self, call: Call) -> None:
        """Send a call that puts messages back before all that waits, until it is done."""
        self._lost.append(call)
        self._arrived.set()

    def undo(self, calls: Sequence[Call]) -> None:
        """Send calls that take back what replies held before anything else, until it is done."""
        self._lost[:0] = calls
        self._undos += len(calls)
        self._arrived.set()

    def take_active(self) -> list[str]:
        """Return queues in which something was done since this was last asked, not always all."""
        active = list(self._active)
        self._active, self._active_since = {}, self._loop.time()
        return active

    @property
    def pending_operations(self) -> int:
        """Return how many operations wait for a round trip, or for the end of one."""
        return self._pending_operations

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
        began = self._loop.time()
        try:
            replies = await self._backend.execute(calls)
        except StoreUnavailable as error:
            self.measures.failed_commits += 1
            self._lost = lost + self._lost
            if not isinstance(error, NotSentError):
                self.undo([call for group in groups if (call := group.undo(batch_name))])
            for group in groups:
                group.fail(error)
            await self._pause_after_failure()
            return
        self._note_round_trip(batch, began)
        refused = _refused(lost, replies)
        self._lost, self._undos = refused + self._lost, len(refused)
        for group, reply in zip(groups, replies[len(lost) :], strict=True):
            if isinstance(reply, RestMQError):
                group.fail(reply)
                continue
            try:
                group.settle(reply)
            except Exception:
                # Everyone waits for this task, so no single reply may end it.
                logger.exception("a reply of Redis could not be understood")
                group.fail(RestMQError("a reply of Redis could not be understood"))
                continue
            try:
                group.measure(reply, self.measures)
            except Exception:
                logger.exception("what was done could not be counted")
        if refused:
            await self._pause_after_failure()

    def _note_round_trip(self, batch: _Batch, began: float) -> None:
        measures, now = self.measures, self._loop.time()
        measures.commit_seconds.observe(now - began)
        measures.commit_operations.observe(batch.operations)
        measures.commit_bytes += batch.total_bytes
        if now - self._active_since >= ACTIVE_SECONDS:
            self._active, self._active_since = {}, now
        if len(self._active) < MAX_ACTIVE:
            for group in batch.groups.values():
                if group.queue:
                    self._active[group.queue] = None

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
