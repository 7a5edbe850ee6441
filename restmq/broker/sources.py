"""Queues as holders see them: a source leases messages of one queue for all who want some here.

In one call it leases what many of them have room for, and hands it out in turn. It asks again when
there is room, and after an empty reply only when it is woken. Nothing here waits: all of it is
callbacks, so that a consumer costs no task.
"""

import asyncio
import functools
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from restmq.broker.holders import Binding, Delivery
from restmq.broker.message import LeasedMessage
from restmq.broker.scripts import Reply, Settlement
from restmq.broker.store import Store
from restmq.errors import RestMQError, Unavailable

logger = logging.getLogger(__name__)

MAX_LEASED_PER_CALL = 1000
MIN_BREADTH, MAX_BREADTH = 8, 256
"""For how many holders one call leases: few where messages are rare, more as they are not."""

SETTINGS_SECONDS = 30.0
"""How long a source believes what it read of the queue's settings."""

_RETRY_SECONDS = 0.25
_RECHECK_SECONDS = 1.0
"""A reply that held less than was asked for may have been cut short by its bytes."""

_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


class Defaults(NamedTuple):
    """What counts where a queue's own settings, or those of patterns, do not say."""

    overrides_of: Callable[[str], Mapping[str, Any]]
    """What patterns say."""
    lease_seconds: float
    max_attempts: int


class Source:
    """One queue, and who on this node has a binding to it."""

    def __init__(self, defaults: Defaults, store: Store, queue: str) -> None:
        self._defaults = defaults
        self._loop = asyncio.get_running_loop()
        self.store = store
        self.queue = queue
        self.bindings: dict[Binding, None] = {}
        self.joining = 0
        self.held: dict[Delivery, None] = {}
        self._waiting: deque[Binding] = deque()
        """Bindings that had room when they were last looked at, who waits longest first."""
        self._is_dry = False
        self._was_woken = False
        self._is_leasing = False
        self._is_scheduled = False
        self._recheck: asyncio.TimerHandle | None = None
        self._breadth = MIN_BREADTH
        self._lease_seconds: float | None = None
        self._max_attempts: int | None = None
        self._settings_until = 0.0

    def wake(self) -> None:
        """Look at the queue: it may have something."""
        self._was_woken = True
        self._is_dry = False
        self._schedule()

    def offer(self, binding: Binding) -> None:
        """Have a binding wait its turn for messages."""
        self._waiting.append(binding)
        if not self._is_dry:
            self._schedule()

    def close(self) -> None:
        """Let go of what is scheduled."""
        if self._recheck is not None:
            self._recheck.cancel()

    async def read_settings(self) -> None:
        """Find out what the queue's own settings leave to the defaults of subscriptions."""
        reply = await self.store.committer.submit(self.store.scripts.show_settings(self.queue))
        self._take_settings(reply)

    def _take_settings(self, reply: Any) -> None:
        own: dict[str, Any] = _decode(reply[2]) if reply[2] else {}
        defaults = self._defaults
        said = {**defaults.overrides_of(self.queue), **own}
        self._lease_seconds = None if "lease_seconds" in said else defaults.lease_seconds
        self._max_attempts = None if "max_attempts" in said else defaults.max_attempts
        self._settings_until = self._loop.time() + SETTINGS_SECONDS

    def _refresh_settings(self) -> None:
        self._settings_until = self._loop.time() + SETTINGS_SECONDS

        def take(future: asyncio.Future[Reply]) -> None:
            if not future.cancelled() and future.exception() is None:
                self._take_settings(future.result())

        call = self.store.scripts.show_settings(self.queue)
        self.store.committer.submit(call, is_admitted=True).add_done_callback(take)

    def _schedule(self) -> None:
        if not self._is_scheduled and self._waiting:
            self._is_scheduled = True
            self._loop.call_soon(self._lease)

    def _lease(self) -> None:
        """Lease for those who have room, unless a reply is still to come."""
        self._is_scheduled = False
        if self._is_leasing or self._is_dry:
            return
        asked, total = self._reserve()
        if not asked:
            return
        if self._loop.time() >= self._settings_until:
            self._refresh_settings()
        try:
            future = self.store.queues.lease(self.queue, total, self._lease_seconds, True)
        except RestMQError as error:
            self._give_up(asked, error)
            return
        self._is_leasing = True
        self._was_woken = False
        future.add_done_callback(functools.partial(self._leased, asked, total))

    def _reserve(self) -> tuple[list[tuple[Binding, int]], int]:
        asked: list[tuple[Binding, int]] = []
        total = 0
        while self._waiting and len(asked) < self._breadth and total < MAX_LEASED_PER_CALL:
            binding = self._waiting.popleft()
            if not binding.is_open:
                continue
            room = min(binding.room, MAX_LEASED_PER_CALL - total)
            if room <= 0:
                binding.wait_for_turn()
                continue
            binding.count(room)
            asked.append((binding, room))
            total += room
        return asked, total

    def _give_up(self, asked: list[tuple[Binding, int]], error: BaseException) -> None:
        """Put those who asked back where they were, and try again by and by."""
        if not isinstance(error, Unavailable):
            logger.error("cannot lease from %r: %s", self.queue, error)
        for binding, room in reversed(asked):
            binding.count(-room)
            self._waiting.appendleft(binding)
        self._is_dry = True
        self._check_again(_RETRY_SECONDS)

    def _check_again(self, seconds: float) -> None:
        if self._recheck is not None:
            self._recheck.cancel()
        self._recheck = self._loop.call_later(seconds, self.wake)

    def _leased(
        self,
        asked: list[tuple[Binding, int]],
        total: int,
        future: asyncio.Future[list[LeasedMessage]],
    ) -> None:
        self._is_leasing = False
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None:
            self._give_up(asked, error)
            return
        messages = future.result()
        if len(messages) < total and not self._was_woken:
            self._is_dry = True
            if messages:
                self._check_again(_RECHECK_SECONDS)
        self._breadth = (
            min(2 * self._breadth, MAX_BREADTH) if len(messages) == total else MIN_BREADTH
        )
        self._hand_out(asked, messages)
        self._schedule()

    def _hand_out(
        self, asked: list[tuple[Binding, int]], messages: Sequence[LeasedMessage]
    ) -> None:
        """Give each its share, one message at a time in turn."""
        shares: dict[Binding, list[Delivery]] = {}
        able = deque((b, room) for b, room in asked if b.is_open and b.holder.is_able)
        now = self._loop.time()
        left: list[LeasedMessage] = []
        for message in messages:
            if self._max_attempts and message.attempt > self._max_attempts:
                self._bury_worn(message)
            elif not able:
                left.append(message)
            else:
                binding, room = able.popleft()
                delivery = Delivery(binding, message, now + message.lease_seconds)
                shares.setdefault(binding, []).append(delivery)
                if room > 1:
                    able.append((binding, room - 1))
        self.store.queues.release_unseen(self.queue, left)
        unserved = []
        for binding, room in asked:
            share = shares.get(binding)
            binding.count((len(share) if share else 0) - room)
            if share:
                self.held.update(dict.fromkeys(share))
                holder = binding.holder
                holder.deliver(binding, share)
                holder.served_count += 1
                binding.served = holder.served_count
                binding.wait_for_turn()
            elif binding.is_open:
                unserved.append(binding)
        self._waiting.extendleft(reversed(unserved))
        for binding, _ in asked:
            binding.holder.take_turns()

    def _bury_worn(self, message: LeasedMessage) -> None:
        reason = f"it was delivered {message.attempt - 1} times"
        settlement = Settlement("dead", message.number, message.token, reason)
        self._settle(settlement).add_done_callback(_note_failure)

    def _settle(self, settlement: Settlement) -> asyncio.Future[Reply]:
        return self.store.queues.settle(self.queue, settlement, is_admitted=True)

    def let_go(self, delivery: Delivery) -> bool:
        """Note that a delivery is held no more; returns whether it was."""
        if self.held.pop(delivery, delivery) is delivery:
            return False
        delivery.binding.count(-1)
        return True

    def settle(self, delivery: Delivery, verb: str, reason: str = "") -> asyncio.Future[Reply]:
        """Begin to settle a delivery, which after too many attempts ends among the dead."""
        message = delivery.message
        worn = self._max_attempts and message.attempt >= self._max_attempts
        if worn and verb != "ack":
            verb = "dead"
        argument = reason if verb == "dead" else ""
        return self._settle(Settlement(verb, message.number, message.token, argument))

    def expire_overdue(self, now: float) -> None:
        """Count leases that ran out as held no more; Redis has taken the messages back."""
        while self.held:
            delivery = next(iter(self.held))
            if delivery.deadline > now:
                return
            self.let_go(delivery)
            delivery.binding.holder.expire(delivery)
            delivery.binding.holder.take_turns()


def _note_failure(future: asyncio.Future[Reply]) -> None:
    """Take note of a failure: the lease runs out by itself."""
    if not future.cancelled():
        future.exception()
