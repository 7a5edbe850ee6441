"""Consumers that hold leased messages of several queues at a time, within one limit.

A ``Holder`` is one such consumer, and each of its bindings one queue. A holder with less room than
it has queues with messages serves these in turn.
"""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from restmq.broker.message import LeasedMessage


class Offering(Protocol):
    """What hands out the messages of one queue."""

    queue: str

    def offer(self, binding: "Binding") -> None:
        """Have a binding wait its turn for messages."""


class Holder(ABC):
    """One consumer of several queues; ``prefetch`` is how many messages it may hold in all."""

    __slots__ = (
        "binding_count",
        "has_uncounted",
        "held_count",
        "prefetch",
        "served_count",
        "turns",
    )

    def __init__(self, prefetch: int) -> None:
        self.prefetch = prefetch
        self.held_count = 0
        """Messages that it holds or that are on their way, but for bindings that do not count."""
        self.turns: list[Binding] = []
        """A heap of bindings whose queue may have something while there was no room for it."""
        self.served_count = 0
        self.binding_count = 0
        """How many open bindings it has."""
        self.has_uncounted = False
        """Whether some binding may have room when the holder has none."""

    @property
    @abstractmethod
    def is_able(self) -> bool:
        """Return whether messages can be handed to it now; ``take_turns`` when it can again."""

    @abstractmethod
    def deliver(self, binding: "Binding", deliveries: "Sequence[Delivery]") -> None:
        """Take messages; must not raise."""

    @abstractmethod
    def expire(self, delivery: "Delivery") -> None:
        """Take note that it holds a message no more: its lease ran out, or others settled it."""

    def take_turns(self) -> None:
        """Ask for messages, as there is room: queue by queue, the one served last comes last."""
        if not self.is_able:
            return
        room = self.prefetch - self.held_count
        unable = []
        while self.turns and (room > 0 or self.has_uncounted):
            binding = heapq.heappop(self.turns)
            if not binding.is_open:
                continue
            if binding.room <= 0 or (binding.is_counted and room <= 0):
                unable.append(binding)
                continue
            if binding.is_counted:
                room -= binding.room
            binding.source.offer(binding)
        for binding in unable:
            binding.wait_for_turn()


class Binding:
    """One queue of one holder, which may hold up to ``prefetch`` messages of it.

    ``is_counted``: whether these count against the limit of the holder. ``owner``: whatever the
    holder wants to find with its messages.
    """

    __slots__ = (
        "held_count",
        "holder",
        "is_counted",
        "is_open",
        "owner",
        "prefetch",
        "served",
        "source",
    )

    def __init__(
        self, source: Offering, holder: Holder, prefetch: int, is_counted: bool, owner: object
    ) -> None:
        self.source = source
        self.holder = holder
        self.prefetch = prefetch
        self.is_counted = is_counted
        self.owner: object = owner
        if not is_counted:
            holder.has_uncounted = True
        self.held_count = 0
        self.served = 0
        """When it was served last, counted in servings of its holder."""
        self.is_open = True
        """Whether it still wants messages."""
        holder.binding_count += 1

    def __lt__(self, other: "Binding") -> bool:
        """Order by whose turn it is."""
        return self.served < other.served

    def close(self) -> None:
        """Want no more messages."""
        if self.is_open:
            self.is_open = False
            self.holder.binding_count -= 1

    def wait_for_turn(self) -> None:
        """Wait for room; who was served last comes last."""
        heapq.heappush(self.holder.turns, self)

    @property
    def queue(self) -> str:
        """The name of the queue."""
        return self.source.queue

    @property
    def room(self) -> int:
        """Return how many more messages may be handed to it now."""
        holder = self.holder
        if not (self.is_open and holder.is_able):
            return 0
        room = self.prefetch - self.held_count
        if self.is_counted:
            room = min(room, holder.prefetch - holder.held_count)
        return room

    def count(self, change: int) -> None:
        """Count messages in, or out."""
        self.held_count += change
        if self.is_counted:
            self.holder.held_count += change


class Delivery:
    """One message in the hands of a holder."""

    __slots__ = ("binding", "deadline", "message", "name", "slot")

    def __init__(self, binding: Binding, message: LeasedMessage, deadline: float) -> None:
        self.binding = binding
        self.message = message
        self.deadline = deadline
        """When the lease runs out, on this node's monotonic clock."""
        self.slot = 0
        """For ``held.py``: when something is to be done about the lease."""
        self.name = 0
        """For the holder: what it calls this delivery."""
