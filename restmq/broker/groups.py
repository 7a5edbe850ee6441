"""Operations on one queue that arrive during a round trip, and become one call of one script."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from restmq.broker.commit import MAX_BATCH_BYTES, Group
from restmq.broker.measures import Measures, new_token
from restmq.broker.message import LeasedMessage, Message
from restmq.broker.scripts import (
    POPPED,
    TAKEN,
    Call,
    LeaseDefaults,
    Operation,
    Reply,
    Scripts,
    Settlement,
)
from restmq.errors import Overloaded, QueueFull, RestMQError

AnyMessage = TypeVar("AnyMessage", bound=Message)

_CONSUMERS_VERBS = ("ack", "extend", "release", "dead")
"""Settlements that a consumer asks for; the others follow from its going away."""


class Added(NamedTuple):
    """Where the messages of an operation are."""

    number: int
    """The number of the first; the others follow it without a gap."""
    total: int
    is_duplicate: bool = False
    """Whether an earlier operation with the same idempotency key stored them."""


Conclude = Callable[[asyncio.Future[Added], Added], None]
"""Resolves an add's future, at once or when all is done that goes with it."""


class QueueGroup(Group):
    """Operations on one queue."""

    _queue: str

    @property
    def queue(self) -> str:
        """Return the queue."""
        return self._queue


class AddGroup(QueueGroup):
    """Adds to one queue. A publisher that went away meanwhile has its messages stored anyway."""

    def __init__(
        self,
        scripts: Scripts,
        queue: str,
        note_due: Callable[[float], None],
        conclude: Conclude,
        conclude_copied: Conclude,
    ) -> None:
        self._scripts = scripts
        self._queue = queue
        self._note_due = note_due
        self._conclude = conclude
        self._conclude_copied = conclude_copied
        self.wakes_itself = True
        self._operations: list[Operation] = []
        self._futures: list[asyncio.Future[Added]] = []
        self._first_at = self._last_at = time.monotonic()
        """When the first operation came, and the last one, or soon after."""
        self._stored_messages = 0

    def append(self, operation: Operation, future: asyncio.Future[Added]) -> None:
        """Add one more operation, whose outcome ``future`` gets."""
        self._operations.append(operation)
        self._futures.append(future)

    def call(self, batch: str) -> Call:
        """Make the call."""
        self._last_at = time.monotonic()
        return self._scripts.add(self._queue, self._operations, self.wakes_itself)

    def settle(self, reply: Reply) -> None:
        """Give each operation its numbers."""
        if isinstance(reply, int):
            number = reply
            for operation, future in zip(self._operations, self._futures, strict=True):
                count = len(operation.messages)
                if number == 1:
                    self._conclude(future, Added(number, count))
                elif not future.done():
                    future.set_result(Added(number, count))
                number += count
            self._stored_messages = number - reply
            return
        due, has_copies, *results = reply
        if due:
            self._note_due(float(due))
        conclude = self._conclude_copied if has_copies else self._conclude
        for operation, future, result in zip(self._operations, self._futures, results, strict=True):
            if isinstance(result, list):
                conclude(future, Added(result[0], result[1], is_duplicate=True))
            elif result > 0:
                count = len(operation.messages)
                self._stored_messages += count
                conclude(future, Added(result, count))
            elif not future.done():
                future.set_exception(self._refusal(result))

    def fail(self, error: RestMQError) -> None:
        """Tell each operation that it failed."""
        _fail_all(self._futures, error)

    def measure(self, reply: Reply, measures: Measures) -> None:
        """Count the messages that were stored."""
        operations = len(self._operations)
        measures.note_published(self._stored_messages, operations, self._first_at, self._last_at)

    def _refusal(self, result: int) -> RestMQError:
        if result < 0:
            return Overloaded(f"too many copies of {self._queue!r} wait for other queues")
        return QueueFull(f"the queue {self._queue!r} is full (max_length)")


class TakeGroup(QueueGroup):
    """Takes from one queue. What falls to a consumer that went away meanwhile is put back."""

    def __init__(
        self,
        scripts: Scripts,
        queue: str,
        remember: bool,
        take_again: Callable[[int, asyncio.Future[list[Message]]], None],
        give_back: Callable[[Sequence[Message]], None],
    ) -> None:
        self._scripts = scripts
        self._queue = queue
        self._remember = remember
        self._flavour = POPPED if remember else TAKEN
        self._take_again = take_again
        self._give_back = give_back
        self._wanted: list[tuple[int, asyncio.Future[list[Message]]]] = []

    def append(self, count: int, future: asyncio.Future[list[Message]]) -> None:
        """Add one more operation, which wants up to ``count`` messages."""
        self._wanted.append((count, future))

    def call(self, batch: str) -> Call:
        """Make the call."""
        total = sum(count for count, future in self._wanted if not future.done())
        return self._scripts.take(
            self._queue, self._flavour, batch, total, MAX_BATCH_BYTES, self._remember
        )

    def settle(self, reply: Reply) -> None:
        """Give each operation its share."""
        stopped_early = reply[-1] == 1
        messages = [Message(reply[at], reply[at + 1]) for at in range(0, len(reply) - 1, 2)]
        rest = _share_out(messages, self._wanted, self._take_again if stopped_early else None)
        if rest:
            self._give_back(rest)

    def measure(self, reply: Reply, measures: Measures) -> None:
        """Count the messages that were taken."""
        measures.note_taken(reply[1:-1:2])

    def fail(self, error: RestMQError) -> None:
        """Tell each operation that it failed."""
        _fail_all([future for _, future in self._wanted], error)

    def undo(self, batch: str) -> Call | None:
        """Make the call that puts back what a lost reply held."""
        return self._scripts.restore_reply(self._queue, self._flavour, batch)


class LeaseGroup(QueueGroup):
    """Leases from one queue, of one duration. What falls to nobody any more is released."""

    def __init__(
        self,
        scripts: Scripts,
        queue: str,
        seconds: float | None,
        held_by_stream: bool,
        heeds_pause: bool,
        defaults: LeaseDefaults | None,
        lease_again: Callable[[int, asyncio.Future[list[LeasedMessage]]], None],
        release: Callable[[Sequence[LeasedMessage]], None],
        note_lease: Callable[[float, float], None],
    ) -> None:
        self._scripts = scripts
        self._queue = queue
        self._seconds = seconds
        self._held_by_stream = held_by_stream
        self._heeds_pause = heeds_pause
        self._defaults = defaults
        self._lease_again = lease_again
        self._release = release
        self._note_lease = note_lease
        self._token = new_token()
        self._wanted: list[tuple[int, asyncio.Future[list[LeasedMessage]]]] = []

    def append(self, count: int, future: asyncio.Future[list[LeasedMessage]]) -> None:
        """Add one more operation, which wants up to ``count`` messages."""
        self._wanted.append((count, future))

    def call(self, batch: str) -> Call:
        """Make the call."""
        return self._scripts.lease(
            self._queue,
            count=sum(count for count, future in self._wanted if not future.done()),
            max_bytes=MAX_BATCH_BYTES,
            seconds=self._seconds,
            token=self._token,
            held_by_stream=self._held_by_stream,
            heeds_pause=self._heeds_pause,
            defaults=self._defaults,
        )

    def settle(self, reply: Reply) -> None:
        """Give each operation its share."""
        expires_at, seconds, flags = float(reply[0]), float(reply[1]), reply[2]
        stopped_early = bool(flags & 1)
        lease = (self._token, expires_at, seconds, flags >= 2)
        messages = [
            LeasedMessage(reply[at], reply[at + 2], reply[at + 1], *lease)
            for at in range(3, len(reply), 3)
        ]
        if messages:
            self._note_lease(seconds, expires_at)
        rest = _share_out(messages, self._wanted, self._lease_again if stopped_early else None)
        if rest:
            self._release(rest)

    def measure(self, reply: Reply, measures: Measures) -> None:
        """Count the messages that were leased."""
        measures.note_leased(reply[5::3], float(reply[0]) - float(reply[1]))

    def fail(self, error: RestMQError) -> None:
        """Tell each operation that it failed."""
        _fail_all([future for _, future in self._wanted], error)


class SettleGroup(QueueGroup):
    """Settlements of leases of one queue, in the order in which they were asked for.

    ``note_over`` is told of each delivery that is over, also when nobody waits for the outcome.
    """

    def __init__(
        self, scripts: Scripts, queue: str, note_over: Callable[[str, int, str], None]
    ) -> None:
        self._scripts = scripts
        self._queue = queue
        self._note_over = note_over
        self._settlements: list[Settlement] = []
        self._futures: list[asyncio.Future[Reply]] = []
        self._acked: list[str] = []
        """Tokens of the deliveries that were acknowledged, once that is known."""
        self._others: list[tuple[Settlement, Reply]] = []
        """All other settlements, and what became of them."""

    def append(self, settlement: Settlement, future: asyncio.Future[Reply]) -> None:
        """Add one more settlement, whose outcome ``future`` gets as settle.lua gives it."""
        self._settlements.append(settlement)
        self._futures.append(future)

    def call(self, batch: str) -> Call:
        """Make the call."""
        return self._scripts.settle(self._queue, self._settlements)

    def settle(self, reply: Reply) -> None:
        """Give each settlement its outcome."""
        note_acked, note_other = self._acked.append, self._others.append
        together = zip(self._settlements, self._futures, reply, strict=True)
        for settlement, future, outcome in together:
            if not future.done():
                future.set_result(outcome)
            verb, token = settlement.verb, settlement.token
            if outcome and verb == "ack":
                note_acked(token)
            else:
                note_other((settlement, outcome))
            # A stale one is over as well: its consumer holds it no more.
            if verb != "extend":
                self._note_over(self._queue, settlement.number, token)

    def measure(self, reply: Reply, measures: Measures) -> None:
        """Count what became of the messages; one that reached nobody counts for nothing."""
        measures.note_acks(self._acked)
        for settlement, outcome in self._others:
            verb = settlement.verb
            if not outcome:
                measures.stale_settlements += verb in _CONSUMERS_VERBS
            elif verb == "release":
                measures.nacked_messages += settlement.argument != "keep"
            elif verb == "dead":
                measures.buried_messages += 1
            elif verb == "extend":
                measures.extended_leases += 1

    def fail(self, error: RestMQError) -> None:
        """Tell each settlement that it failed."""
        _fail_all(self._futures, error)


def _share_out(
    messages: list[AnyMessage],
    wanted: Iterable[tuple[int, asyncio.Future[list[AnyMessage]]]],
    again: Callable[[int, asyncio.Future[list[AnyMessage]]], None] | None,
) -> list[AnyMessage]:
    """Give each operation that still waits its share, in their order; return what is left.

    ``again``: puts off an operation for which nothing is left, because there is more in Redis.
    """
    used = 0
    for count, future in wanted:
        if future.done():
            continue
        share = messages[used : used + count]
        if share or again is None:
            future.set_result(share)
            used += len(share)
        else:
            again(count, future)
    return messages[used:]


def _fail_all(futures: Sequence[asyncio.Future[Reply]], error: RestMQError) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
