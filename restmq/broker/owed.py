"""Settlements that must come to pass: what got lost on the way to Redis is said again."""

import asyncio

from restmq.broker.queues import Queues
from restmq.broker.scripts import Reply, Settlement
from restmq.errors import Unavailable

MAX_OWED = 20_000
"""What could not be said yet; the leases of the rest run out by themselves."""


class Owed:
    """Settlements in the queues of one Redis."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self._owed: dict[tuple[str, Settlement], None] = {}

    def settle(self, queue: str, settlement: Settlement) -> asyncio.Future[Reply]:
        """Begin to settle a lease, and if Redis does not answer do so again at ``catch_up``."""
        outcome = self._queues.settle(queue, settlement, is_admitted=True)

        def note(outcome: asyncio.Future[Reply]) -> None:
            # It may have been done all the same; a second one is stale, which harms nobody.
            is_lost = outcome.cancelled() or isinstance(outcome.exception(), Unavailable)
            if is_lost and len(self._owed) < MAX_OWED:
                self._owed[queue, settlement] = None

        outcome.add_done_callback(note)
        return outcome

    def catch_up(self) -> None:
        """Say again what did not get through, now that Redis answers."""
        owed, self._owed = self._owed, {}
        for queue, settlement in owed:
            self.settle(queue, settlement)
