"""The operations on queues that many requests share: add, take, lease and settle.

Each is counted in with the committer, which carries all of one kind for one queue together; what
has a deadline is noted in the schedule before.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from restmq.broker.commit import Committer
from restmq.broker.copies import Copier
from restmq.broker.groups import Added, LeaseGroup, TakeGroup
from restmq.broker.message import LeasedMessage, Message
from restmq.broker.schedule import QUEUE, Schedule
from restmq.broker.scripts import LeaseDefaults, Operation, Reply, Scripts, Settlement
from restmq.broker.told_groups import OnAdded, OnOver, RenewGroup, ToldAddGroup, ToldSettleGroup

DEFAULT_LEASE_SECONDS = 30.0
SHORT_SECONDS = 3.0
SHORTEST_SECONDS = 0.5
EXPIRY_GRAIN_SECONDS = 10.0
"""Messages that expire take up room and nothing else, so clearing them may wait for others."""

MAX_SETTLED_PER_CALL = 1000
"""Settlements that go into one call at most, so that nobody waits long for one script."""

_MAX_KNOWN = 10_000


class _LeaseKind(NamedTuple):
    """Leases that can be asked for together."""

    queue: str
    seconds: float | None
    held_by_stream: bool
    heeds_pause: bool
    defaults: LeaseDefaults | None


class Queues:
    """Adds to, takes and leases from, and gives back to queues."""

    def __init__(
        self, committer: Committer, scripts: Scripts, schedule: Schedule, copier: Copier
    ) -> None:
        self._committer = committer
        self._scripts = scripts
        self._schedule = schedule
        self._copier = copier
        self.on_first_number: Callable[[str], asyncio.Future[Reply] | None] = lambda queue: None
        """Called when a queue begins to count: it is new, or Redis has lost it. If it returns
        something, that must have come to pass before the add counts as done."""
        self.on_over: OnOver = lambda queue, deliveries: None
        """Called when deliveries are over: settled by this node, or found to be stale."""
        self.on_added: OnAdded = lambda queue: None
        """Called when this node has stored messages, before their publishers hear of it."""
        self._settlements = 0
        self._loop = asyncio.get_running_loop()
        self._restores = 0
        self._lease_seconds: dict[_LeaseKind, float] = {}
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
        The future raises ``QueueFull`` as the queue's settings say. It is done when the copies
        for other queues have arrived as well.
        """
        if due_seconds is not None:
            self._schedule.note(QUEUE, queue, due_seconds)
        if expiry_seconds is not None:
            self._schedule.note(QUEUE, queue, expiry_seconds, EXPIRY_GRAIN_SECONDS)
        group = self._committer.group(queue, self._add_group, size_bytes, queue)
        future: asyncio.Future[Added] = self._loop.create_future()
        group.append(operation, future)
        group.wakes_itself &= wakes_itself
        return future

    def _add_group(self, queue: str) -> ToldAddGroup:
        def conclude(future: asyncio.Future[Added], added: Added) -> None:
            step = self.on_first_number(queue) if added.number == 1 else None
            if step is not None:
                _after(step, future, added)
            elif not future.done():
                future.set_result(added)

        def conclude_copied(future: asyncio.Future[Added], added: Added) -> None:
            last_number = added.number + added.total - 1
            arrived = self._copier.carry(queue, last_number)
            step = self.on_first_number(queue) if added.number == 1 else None
            if step is not None:
                step.add_done_callback(_ignore_outcome)
            _after(arrived, future, added)

        return ToldAddGroup(
            self.on_added,
            self._scripts,
            queue,
            lambda at: self._schedule.note_at(QUEUE, queue, at),
            conclude,
            conclude_copied,
        )

    def note_due(self, queue: str, in_seconds: float) -> None:
        """Note that something in the queue is due in so many seconds."""
        self._schedule.note(QUEUE, queue, in_seconds)

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
        group = self._committer.group(
            (queue, remember), self._take_group, 0, queue, remember, is_admitted=is_admitted
        )
        group.append(count, future)

    def _take_group(self, queue: str, remember: bool) -> TakeGroup:
        def take_again(count: int, future: asyncio.Future[list[Message]]) -> None:
            # It got nothing for lack of room in the reply.
            self._put_take(queue, count, remember, future, is_admitted=True)

        def give_back(messages: Sequence[Message]) -> None:
            self.give_back(queue, messages)

        return TakeGroup(self._scripts, queue, remember, take_again, give_back)

    def give_back(self, queue: str, messages: Sequence[Message]) -> None:
        """Put messages that reached nobody back at the head of the queue, in their order."""
        pairs = [(message.number, message.record) for message in messages]
        self._restores += 1
        self._committer.put_back(self._scripts.restore(queue, str(self._restores), pairs))

    def lease(
        self,
        queue: str,
        count: int,
        seconds: float | None,
        held_by_stream: bool = False,
        heeds_pause: bool = False,
        defaults: LeaseDefaults | None = None,
    ) -> asyncio.Future[list[LeasedMessage]]:
        """Lease messages; the future gives up to ``count`` of them.

        ``seconds`` None: as the queue's settings say, and where they do not, as ``defaults``
        say, if there are any. ``held_by_stream``: they come back when this node dies.
        ``heeds_pause``: nothing comes while the queue is paused, as streams have it anyway. If
        the future is cancelled before it is done, its share comes back.
        """
        future: asyncio.Future[list[LeasedMessage]] = self._loop.create_future()
        kind = _LeaseKind(queue, seconds, held_by_stream, heeds_pause, defaults)
        self._put_lease(kind, count, future, is_admitted=False)
        return future

    def _put_lease(
        self,
        kind: "_LeaseKind",
        count: int,
        future: asyncio.Future[list[LeasedMessage]],
        is_admitted: bool,
    ) -> None:
        group = self._committer.group(kind, self._lease_group, 0, kind, is_admitted=is_admitted)
        group.append(count, future)

    def _lease_group(self, kind: "_LeaseKind") -> LeaseGroup:
        queue = kind.queue
        usual = DEFAULT_LEASE_SECONDS if kind.defaults is None else kind.defaults.seconds
        expected = kind.seconds or self._lease_seconds.get(kind, usual)
        # Once a group: all of it goes out together.
        self._schedule.note(QUEUE, queue, expected)

        def lease_again(count: int, future: asyncio.Future[list[LeasedMessage]]) -> None:
            self._put_lease(kind, count, future, is_admitted=True)

        def release(messages: Sequence[LeasedMessage]) -> None:
            self.release_unseen(queue, messages)

        def note_lease(actual: float, at: float) -> None:
            self._note_lease(kind, expected, actual, at)

        return LeaseGroup(self._scripts, *kind, lease_again, release, note_lease)

    def _note_lease(self, kind: _LeaseKind, expected: float, actual: float, at: float) -> None:
        # Noted again where the queue's settings say something else than what was expected, and
        # where the time is so short that the schedule may have looked before there was a lease.
        if actual < SHORT_SECONDS:
            self._schedule.note_at(QUEUE, kind.queue, at)
        if actual != expected:
            if len(self._lease_seconds) >= _MAX_KNOWN:
                self._lease_seconds.clear()
            self._lease_seconds[kind] = actual
            self._schedule.note_at(QUEUE, kind.queue, at)

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
                # Not before the settlement itself has surely come to pass.
                self._schedule.note(QUEUE, queue, max(seconds, SHORTEST_SECONDS))
        self._settlements += 1
        # The number changes before any group has more than one call may hold.
        group = self._committer.group(
            (queue, "settle", self._settlements // MAX_SETTLED_PER_CALL),
            ToldSettleGroup,
            0,
            self.on_over,
            self._scripts,
            queue,
            is_admitted=is_admitted,
        )
        future: asyncio.Future[Reply] = self._loop.create_future()
        group.append(settlement, future)
        return future

    def renew(self, queue: str, number: int, token: str, seconds: float) -> asyncio.Future[Reply]:
        """Have a lease run for so long from now, though no consumer has asked for it.

        The future gives 0 if it had run out. All go into one call, so begin few at a time.
        """
        self._schedule.note(QUEUE, queue, max(seconds, SHORTEST_SECONDS))
        group = self._committer.group(
            (queue, "renew"), RenewGroup, 0, self._scripts, queue, is_admitted=True
        )
        future: asyncio.Future[Reply] = self._loop.create_future()
        group.append(Settlement("extend", number, token, seconds), future)
        return future

    def still_leased(
        self, queue: str, deliveries: Sequence[tuple[int, str]]
    ) -> asyncio.Future[Reply]:
        """Ask of each delivery, number and token, whether its lease runs still: 1 or 0."""
        call = self._scripts.still_leased(queue, deliveries)
        return self._committer.submit(call, is_admitted=True)


def _after(step: asyncio.Future[Reply], future: asyncio.Future[Added], added: Added) -> None:
    """Resolve ``future`` when ``step`` is done, or fail it as that fails."""

    def conclude(step: asyncio.Future[Reply]) -> None:
        error = None if step.cancelled() else step.exception()
        if future.done():
            return
        if error is None:
            future.set_result(added)
        else:
            future.set_exception(error)

    step.add_done_callback(conclude)


def _ignore_outcome(future: asyncio.Future[Reply]) -> None:
    """Take note of a failure: the lease runs out by itself."""
    if not future.cancelled():
        future.exception()
