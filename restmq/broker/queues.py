"""The operations on queues that many requests share: add, take, lease and settle.

Each is counted in with the committer, which carries all of one kind for one queue together; what
has a deadline is noted in the schedule before.
"""

import asyncio
from collections.abc import Sequence

from restmq.broker.commit import Committer
from restmq.broker.groups import Added, AddGroup, LeaseGroup, SettleGroup, TakeGroup
from restmq.broker.message import LeasedMessage, Message
from restmq.broker.schedule import Schedule
from restmq.broker.scripts import Operation, Reply, Scripts, Settlement

KIND = "queue"
"""What the schedule calls a queue."""

DEFAULT_LEASE_SECONDS = 30.0
SHORT_SECONDS = 3.0
EXPIRY_GRAIN_SECONDS = 10.0
"""Messages that expire take up room and nothing else, so clearing them may wait for others."""

_MAX_KNOWN = 10_000


class Queues:
    """Adds to, takes and leases from, and gives back to queues."""

    def __init__(self, committer: Committer, scripts: Scripts, schedule: Schedule) -> None:
        self._committer = committer
        self._scripts = scripts
        self._schedule = schedule
        self._loop = asyncio.get_running_loop()
        self._restores = 0
        self._lease_seconds: dict[str, float] = {}
        """How long leases were that named no time."""

    def add(
        self,
        queue: str,
        operation: Operation,
        size_bytes: int,
        due_seconds: float | None = None,
        expiry_seconds: float | None = None,
        wakes_itself: bool = False,
    ) -> asyncio.Future[Added]:
        """Add messages; the future says where they are once they are stored.

        ``due_seconds``, ``expiry_seconds``: when they become ready and expire, if they do.
        ``wakes_itself``: the caller looks at the queue for its own consumers afterwards.
        The future raises ``QueueFull`` as the queue's settings say.
        """
        if due_seconds is not None:
            self._schedule.note(KIND, queue, due_seconds)
        if expiry_seconds is not None:
            self._schedule.note(KIND, queue, expiry_seconds, EXPIRY_GRAIN_SECONDS)
        group = self._committer.group(
            queue,
            lambda: AddGroup(
                self._scripts, queue, lambda at: self._schedule.note_at(KIND, queue, at)
            ),
            size_bytes,
        )
        future: asyncio.Future[Added] = self._loop.create_future()
        group.append(operation, future)
        group.wakes_itself &= wakes_itself
        return future

    def note_due(self, queue: str, in_seconds: float) -> None:
        """Note that something in the queue is due in so many seconds."""
        self._schedule.note(KIND, queue, in_seconds)

    def take(self, queue: str, count: int, remember: bool) -> asyncio.Future[list[Message]]:
        """Take messages off the queue; the future gives up to ``count`` of them.

        If the future is cancelled before it is done, its share goes back to the queue.
        """
        future: asyncio.Future[list[Message]] = self._loop.create_future()
        self._put_take(queue, count, remember, future, is_admitted=False)
        return future

    def _put_take(
        self,
        queue: str,
        count: int,
        remember: bool,
        future: asyncio.Future[list[Message]],
        is_admitted: bool,
    ) -> None:
        def take_again(count: int, future: asyncio.Future[list[Message]]) -> None:
            # It got nothing for lack of room in the reply.
            self._put_take(queue, count, remember, future, is_admitted=True)

        group = self._committer.group(
            (queue, remember),
            lambda: TakeGroup(
                self._scripts,
                queue,
                remember,
                take_again,
                lambda messages: self.give_back(queue, messages),
            ),
            is_admitted=is_admitted,
        )
        group.append(count, future)

    def give_back(self, queue: str, messages: Sequence[Message]) -> None:
        """Put messages that reached nobody back at the head of the queue, in their order."""
        pairs = [(message.number, message.record) for message in messages]
        self._restores += 1
        self._committer.put_back(self._scripts.restore(queue, str(self._restores), pairs))

    def lease(
        self, queue: str, count: int, seconds: float | None, held_by_stream: bool = False
    ) -> asyncio.Future[list[LeasedMessage]]:
        """Lease messages; the future gives up to ``count`` of them.

        ``seconds`` None: as the queue's settings say. ``held_by_stream``: they come back when
        this node dies. If the future is cancelled before it is done, its share comes back.
        """
        future: asyncio.Future[list[LeasedMessage]] = self._loop.create_future()
        self._put_lease(queue, count, seconds, held_by_stream, future, is_admitted=False)
        return future

    def _put_lease(
        self,
        queue: str,
        count: int,
        seconds: float | None,
        held_by_stream: bool,
        future: asyncio.Future[list[LeasedMessage]],
        is_admitted: bool,
    ) -> None:
        expected = seconds or self._lease_seconds.get(queue, DEFAULT_LEASE_SECONDS)
        self._schedule.note(KIND, queue, expected)

        def lease_again(count: int, future: asyncio.Future[list[LeasedMessage]]) -> None:
            self._put_lease(queue, count, seconds, held_by_stream, future, is_admitted=True)

        def make() -> LeaseGroup:
            return LeaseGroup(
                self._scripts,
                queue,
                seconds,
                held_by_stream,
                lease_again,
                lambda messages: self.release_unseen(queue, messages),
                lambda actual, at: self._note_lease(queue, expected, actual, at),
            )

        key = (queue, "lease", seconds, held_by_stream)
        self._committer.group(key, make, is_admitted=is_admitted).append(count, future)

    def _note_lease(self, queue: str, expected: float, actual: float, at: float) -> None:
        # Noted again where the queue's settings say something else than what was expected, and
        # where the time is so short that the schedule may have looked before there was a lease.
        if actual < SHORT_SECONDS:
            self._schedule.note_at(KIND, queue, at)
        if actual != expected:
            if len(self._lease_seconds) >= _MAX_KNOWN:
                self._lease_seconds.clear()
            self._lease_seconds[queue] = actual
            self._schedule.note_at(KIND, queue, at)

    def release_unseen(self, queue: str, messages: Sequence[LeasedMessage]) -> None:
        """Release messages that reached nobody, as if they had never been delivered."""
        for message in messages:
            settlement = Settlement("release", message.number, message.token, "keep")
            self.settle(queue, settlement, is_admitted=True).add_done_callback(_ignore_outcome)

    def settle(
        self, queue: str, settlement: Settlement, is_admitted: bool = False
    ) -> asyncio.Future[Reply]:
        """Settle one lease; the future gives 0 if it is stale, else what settle.lua says."""
        if settlement.verb == "extend" or (settlement.verb == "release" and settlement.argument):
            seconds = settlement.argument
            if isinstance(seconds, int | float):
                self._schedule.note(KIND, queue, seconds)
        group = self._committer.group(
            (queue, "settle"), lambda: SettleGroup(self._scripts, queue), is_admitted=is_admitted
        )
        future: asyncio.Future[Reply] = self._loop.create_future()
        group.append(settlement, future)
        return future


def _ignore_outcome(future: asyncio.Future[Reply]) -> None:
    """Take note of a failure: the lease runs out by itself."""
    if not future.cancelled():
        future.exception()
