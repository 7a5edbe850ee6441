"""Queues as holders see them: a source leases messages of one queue for all who want some here.

In one call it leases what many of them have room for, and hands it out in turn. It asks again when
there is room, and after an empty reply only when it is woken. Nothing here waits: all of it is
callbacks, so that a consumer costs no task.
"""

import asyncio
import functools
import itertools
import logging
import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from restmq.broker.held import Held, slot_of
from restmq.broker.holders import Binding, Delivery
from restmq.broker.message import LeasedMessage
from restmq.broker.owed import Owed
from restmq.broker.scripts import LeaseDefaults, Reply, Settlement
from restmq.broker.store import Store
from restmq.errors import RestMQError, Unavailable

logger = logging.getLogger(__name__)

MAX_LEASED_PER_CALL = 1000
MIN_BREADTH, MAX_BREADTH = 8, 256
"""For how many holders one call leases: few where messages are rare, more as they are not."""

RENEWED_AFTER = (1 / 4, 1 / 3)
"""When a lease that is kept up is renewed, as parts of its time: at random between these, so that
what was leased together need not be renewed together for ever."""

MAX_RENEWED = 500
"""Renewals of one queue that are under way at a time; the others stay due."""

RENEW_AGAIN_SECONDS = 5.0
"""When to try again what Redis did not answer."""

_RETRY_SECONDS = 0.25
_RECHECK_SECONDS = 1.0
"""A reply that held less than was asked for may have been cut short by its bytes."""
_LOOK_SECONDS = 1.0
"""A purge is noticed within this time, though its wake-up looks like that of a message."""


class Terms(NamedTuple):
    """On what terms a source leases."""

    defaults: LeaseDefaults
    """What counts where a queue's own settings, or those of patterns, do not say."""
    is_renewing: bool
    """Whether leases that last as long as the defaults say are renewed while they are held."""


class Source:
    """One queue, and who on this node has a binding to it."""

    def __init__(self, terms: Terms, store: Store, queue: str, owed: Owed) -> None:
        self._terms = terms
        self._loop = asyncio.get_running_loop()
        self.store = store
        self.queue = queue
        self.bindings: dict[Binding, None] = {}
        self.joining = 0
        self.held = Held()
        """What holders have."""
        self._owed = owed
        self._renewing = 0
        """How many renewals are under way."""
        self._epoch: int | None = None
        """How often the queue had been purged when Redis was last asked."""
        self._was_called = False
        """Whether something happened in Redis, maybe a purge, since that was last looked at."""
        self._next_look = 0.0
        self._is_unsure = False
        """Whether word of settlements may have been lost, and Redis has not been asked yet."""
        self._waiting: deque[Binding] = deque()
        """Bindings that had room when they were last looked at, who waits longest first."""
        self._is_dry = False
        self._was_woken = False
        self._is_leasing = False
        self._is_scheduled = False
        self._recheck: asyncio.TimerHandle | None = None
        self._breadth = MIN_BREADTH

    def wake(self) -> None:
        """Look at the queue: it may have something."""
        self._was_woken = True
        self._is_dry = False
        self._schedule()

    def call(self) -> None:
        """Look at the queue: something happened in Redis, be it a message or a purge."""
        self._was_called = True
        self.wake()

    def offer(self, binding: Binding) -> None:
        """Have a binding wait its turn for messages."""
        self._waiting.append(binding)
        if not self._is_dry:
            self._schedule()

    def expect(self) -> None:
        """Have those without room wait their turn, for there is something.

        A wake-up will say so too, but perhaps later than room is made. To who has no other queue
        it is all the same.
        """
        first = itertools.islice(self._waiting, MIN_BREADTH)
        full = [
            binding
            for binding in first
            if binding.holder.binding_count > 1 and binding.is_open and binding.room <= 0
        ]
        for binding in full:
            self._waiting.remove(binding)
            binding.wait_for_turn()

    def close(self) -> None:
        """Let go of what is scheduled."""
        if self._recheck is not None:
            self._recheck.cancel()

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
        try:
            future = self.store.queues.lease(
                self.queue, total, None, held_by_stream=True, defaults=self._terms.defaults
            )
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
        # What other queues have may use the room meanwhile.
        for binding, _ in asked:
            binding.holder.take_turns()

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
        shares: dict[Binding, list[LeasedMessage]] = {}
        able = deque((b, room) for b, room in asked if b.is_open and b.holder.is_able)
        left: list[LeasedMessage] = []
        for message in messages:
            if not able:
                left.append(message)
            else:
                binding, room = able.popleft()
                shares.setdefault(binding, []).append(message)
                if room > 1:
                    able.append((binding, room - 1))
        self.store.queues.release_unseen(self.queue, left)
        unserved = []
        held = self._hold(shares)
        for binding, room in asked:
            share = held.get(binding)
            binding.count((len(share) if share else 0) - room)
            if share:
                self._deliver(binding, share)
                binding.wait_for_turn()
            elif binding.is_open:
                unserved.append(binding)
        self._waiting.extendleft(reversed(unserved))
        for binding, _ in asked:
            binding.holder.take_turns()

    def _hold(
        self, shares: Mapping[Binding, Sequence[LeasedMessage]]
    ) -> dict[Binding, list[Delivery]]:
        """Note who holds what; all of it was leased together, for the same time."""
        held: dict[Binding, list[Delivery]] = {}
        slot = 0
        for binding, messages in shares.items():
            if not slot:
                now, seconds = self._loop.time(), messages[0].lease_seconds
                deadline = now + seconds
                renews = self._terms.is_renewing and messages[0].is_by_default
                slot = slot_of(now + _renewed_after(seconds) if renews else deadline)
            deliveries = held[binding] = [Delivery(binding, each, deadline) for each in messages]
            for delivery in deliveries:
                replaced = self.held.add(delivery, slot)
                if replaced is not None:  # Redis had taken that back already
                    self._take_from_holder(replaced)
        return held

    def _deliver(self, binding: Binding, share: Sequence[Delivery]) -> None:
        holder = binding.holder
        holder.served_count += 1
        binding.served = holder.served_count
        try:
            holder.deliver(binding, share)
        except Exception:
            # Counted as attempts, so that what nobody can be given is not tried for ever.
            logger.exception("messages of %r could not be handed out; they go back", self.queue)
            for delivery in share:
                if self.held.remove(delivery):
                    self.settle_surely(delivery, "release")
                    self._take_from_holder(delivery)

    def settle(self, delivery: Delivery, verb: str) -> asyncio.Future[Reply]:
        """Begin to settle a delivery, as settle.lua has the verb."""
        settlement = _settlement(delivery, verb)
        return self.store.queues.settle(self.queue, settlement, is_admitted=True)

    def settle_surely(self, delivery: Delivery, verb: str) -> asyncio.Future[Reply]:
        """Settle a delivery, and if Redis is lost on the way do so again when it is back."""
        return self._owed.settle(self.queue, _settlement(delivery, verb))

    def let_go(self, delivery: Delivery) -> bool:
        """Note that a delivery is held no more; returns whether it was."""
        if not self.held.remove(delivery):
            return False
        delivery.binding.count(-1)
        return True

    def withdraw(self, number: int, token: str) -> None:
        """Take a delivery from its holder: the message is somebody else's, or no more."""
        delivery = self.held.find(number, token)
        if delivery is not None and self.held.remove(delivery):
            self._take_from_holder(delivery)

    def _take_from_holder(self, delivery: Delivery) -> None:
        delivery.binding.count(-1)
        delivery.binding.holder.expire(delivery)
        delivery.binding.holder.take_turns()

    def look_after_held(self, now: float) -> None:
        """Renew leases that are kept up, and withdraw what Redis has taken back by itself."""
        for delivery in self.held.due(now):
            if delivery.deadline <= now:
                self.withdraw(delivery.message.number, delivery.message.token)
            elif self._renewing < MAX_RENEWED:
                self._renew(delivery, now)
            else:
                return

    def _renew(self, delivery: Delivery, now: float) -> None:
        message = delivery.message
        seconds = message.lease_seconds
        self._renewing += 1
        self.held.move(delivery, slot_of(min(now + RENEW_AGAIN_SECONDS, delivery.deadline)))

        def note(future: asyncio.Future[Reply]) -> None:
            self._renewing -= 1
            if future.cancelled() or future.exception() is not None:
                return  # tried again, while there is time
            if future.result():
                delivery.deadline = now + seconds
                self.held.move(delivery, slot_of(now + _renewed_after(seconds)))
            else:
                self.withdraw(message.number, message.token)
            if not self._renewing:
                self.look_after_held(self._loop.time())

        renewed = self.store.queues.renew(self.queue, message.number, message.token, seconds)
        renewed.add_done_callback(note)

    def wants_look(self, now: float) -> bool:
        """Return whether to ask for the epoch, which is not as often as messages come."""
        if not (self._was_called and self.held) or now < self._next_look:
            return False
        self._was_called = False
        self._next_look = now + _LOOK_SECONDS
        return True

    def note_epoch(self, epoch: int) -> None:
        """Take note of how often the queue was purged: if that has changed, leases may be gone."""
        before, self._epoch = self._epoch, epoch
        if before is not None and epoch != before:
            self.doubt()

    def doubt(self) -> None:
        """Ask which leases run still: word of settlements may have been missed."""
        self._is_unsure = True
        self.resolve_doubt()

    def resolve_doubt(self) -> None:
        """Ask, unless that was answered."""
        if not self._is_unsure:
            return
        self._is_unsure = False
        held = self.held.names()
        for first in range(0, len(held), MAX_LEASED_PER_CALL):
            part = held[first : first + MAX_LEASED_PER_CALL]
            asked = self.store.queues.still_leased(self.queue, part)
            asked.add_done_callback(functools.partial(self._note_checked, part))

    def _note_checked(self, held: list[tuple[int, str]], asked: asyncio.Future[Reply]) -> None:
        if asked.cancelled() or asked.exception() is not None:
            self._is_unsure = True
            return
        for (number, token), is_leased in zip(held, asked.result(), strict=True):
            if not is_leased:
                self.withdraw(number, token)


def _renewed_after(lease_seconds: float) -> float:
    """Return after how many seconds a lease is renewed."""
    return lease_seconds * random.uniform(*RENEWED_AFTER)  # noqa: S311 - nothing secret


def _settlement(delivery: Delivery, verb: str) -> Settlement:
    return Settlement(verb, delivery.message.number, delivery.message.token)
