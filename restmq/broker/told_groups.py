"""Groups that somebody on this node is told of: messages were added, or deliveries are over."""

from collections.abc import Callable, Sequence
from typing import Any

from restmq.broker.groups import AddGroup, SettleGroup
from restmq.broker.measures import Measures
from restmq.broker.scripts import Reply, Scripts

OnAdded = Callable[[str], None]
"""Called with a queue in which messages were stored."""

OnOver = Callable[[str, Sequence[tuple[int, str]]], None]
"""Called with a queue, and number and token of each delivery in it that is over."""


class ToldAddGroup(AddGroup):
    """Adds to one queue; ``on_added`` is called once if any is stored, before publishers hear."""

    def __init__(self, on_added: OnAdded, scripts: Scripts, queue: str, *rest: Any) -> None:
        super().__init__(scripts, queue, *rest)
        self._on_added = on_added

    def settle(self, reply: Reply) -> None:
        """Give each operation its numbers."""
        super().settle(reply)  # who waits for a future runs in a later turn of the event loop
        if self._stored_messages:
            self._on_added(self.queue)


class ToldSettleGroup(SettleGroup):
    """Settlements in one queue; ``on_over`` is called once, with all that is over."""

    def __init__(self, on_over: OnOver, scripts: Scripts, queue: str) -> None:
        over: list[tuple[int, str]] = []
        super().__init__(scripts, queue, lambda _, number, token: over.append((number, token)))
        self._on_over = on_over
        self._over = over

    def settle(self, reply: Reply) -> None:
        """Give each settlement its outcome."""
        super().settle(reply)
        if self._over:
            self._on_over(self.queue, self._over)


class RenewGroup(SettleGroup):
    """Extensions that no consumer has asked for, so that they are not counted as such."""

    def __init__(self, scripts: Scripts, queue: str) -> None:
        super().__init__(scripts, queue, lambda queue, number, token: None)

    def measure(self, reply: Reply, measures: Measures) -> None:
        """Count nothing."""
