"""The part of the facade that takes and leases messages, and settles what was leased."""

import asyncio
from collections.abc import Sequence

from restmq.broker.limits import MAX_DELAY_SECONDS, MAX_LEASE_SECONDS, check_number
from restmq.broker.message import LeasedMessage, Message
from restmq.broker.receipts import Receipt
from restmq.broker.scripts import Reply, Settlement
from restmq.broker.stores import Stores
from restmq.errors import InvalidInput, StaleReceipt

MAX_REASON_CHARACTERS = 1000


class Taking:
    """Takes from the queues of ``stores``."""

    _stores: Stores

    async def pop(self, queue: str, count: int = 1, wait_seconds: float = 0) -> list[Message]:
        """Take up to ``count`` of the next messages; a later ``delete`` still knows them.

        ``wait_seconds``: how long to wait for the first one. If the caller is cancelled, the
        messages stay in the queue.
        """
        return await self._take(queue, count, remember=True, wait_seconds=wait_seconds)

    async def take(self, queue: str, count: int = 1, wait_seconds: float = 0) -> list[Message]:
        """Take and erase up to ``count`` of the next messages; else as ``pop``."""
        return await self._take(queue, count, remember=False, wait_seconds=wait_seconds)

    async def _take(
        self, queue: str, count: int, remember: bool, wait_seconds: float
    ) -> list[Message]:
        store = self._stores.found.get(queue) or await self._stores.find(queue)

        async def attempt() -> list[Message]:
            future = store.queues.take(queue, count, remember)
            try:
                return await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled() and future.exception() is None:
                    self.give_back(queue, future.result())
                raise

        if not wait_seconds:
            return await attempt()
        return await store.listeners.wait_for(queue, attempt, wait_seconds)

    def give_back(self, queue: str, messages: Sequence[Message]) -> None:
        """Put messages that were taken but reached nobody back at the head, in their order."""
        if messages:
            self._stores.located(queue).queues.give_back(queue, messages)

    async def lease(
        self,
        queue: str,
        count: int = 1,
        lease_seconds: float | None = None,
        wait_seconds: float = 0,
        *,
        heeds_pause: bool = False,
    ) -> list[LeasedMessage]:
        """Lease up to ``count`` of the next messages: they come back unless they are acked.

        ``lease_seconds``: 1 to 43,200; None as the queue's settings say. ``wait_seconds``: how
        long to wait for the first. ``heeds_pause``: nothing comes while delivery to streams is
        paused. If the caller is cancelled, they come back at once.
        """
        if lease_seconds is not None:
            check_number("lease", lease_seconds, 1, MAX_LEASE_SECONDS)
        store = self._stores.found.get(queue) or await self._stores.find(queue)

        async def attempt() -> list[LeasedMessage]:
            future = store.queues.lease(queue, count, lease_seconds, heeds_pause=heeds_pause)
            try:
                return await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled() and future.exception() is None:
                    store.queues.release_unseen(queue, future.result())
                raise

        if not wait_seconds:
            return await attempt()
        return await store.listeners.wait_for(queue, attempt, wait_seconds)

    def release_unseen(self, queue: str, messages: Sequence[LeasedMessage]) -> None:
        """Release leased messages that reached nobody, as if they had never been delivered."""
        if messages:
            self._stores.located(queue).queues.release_unseen(queue, messages)

    # Settling

    async def ack(self, receipt: Receipt) -> None:
        """Settle a delivery: the message is done. Raises ``StaleReceipt``."""
        await self._settle(receipt, "ack")

    async def extend(self, receipt: Receipt, seconds: float) -> float:
        """Let a lease run for so many seconds from now; returns when it ends on Redis's clock.

        ``seconds``: 1 to 43,200. Raises ``StaleReceipt``.
        """
        check_number("extend", seconds, 1, MAX_LEASE_SECONDS)
        expires = float(await self._settle(receipt, "extend", seconds))
        store = self._stores.located(receipt.queue)
        store.leased.extended(*receipt, seconds)
        return expires

    async def release(
        self, receipt: Receipt, delay_seconds: float = 0, *, keep_attempt: bool = False
    ) -> None:
        """Give a message back, to the head or delayed; it counts as an attempt unless kept.

        Raises ``StaleReceipt``.
        """
        check_number("release", delay_seconds, 0, MAX_DELAY_SECONDS)
        if keep_attempt and delay_seconds:
            raise InvalidInput("attempt=keep goes with release=0 only")
        argument: str | float = "keep" if keep_attempt else delay_seconds
        await self._settle(receipt, "release", argument)

    async def bury(self, receipt: Receipt, reason: str) -> None:
        """Move a leased message to the dead letters. Raises ``StaleReceipt``."""
        if not 1 <= len(reason) <= MAX_REASON_CHARACTERS or "\n" in reason:
            raise InvalidInput("dead must give a reason of one line, at most 1,000 characters")
        await self._settle(receipt, "dead", reason)

    async def _settle(self, receipt: Receipt, verb: str, argument: str | float = "") -> Reply:
        queue, number, token = receipt
        store = self._stores.found.get(queue) or await self._stores.find(queue)
        outcome = await store.queues.settle(queue, Settlement(verb, number, token, argument))
        if verb == "extend" and outcome:
            return outcome
        return self.conclude(receipt, outcome)

    def conclude(self, receipt: Receipt, outcome: Reply) -> Reply:
        """Return how a settlement ended that was begun; raises ``StaleReceipt``."""
        if not outcome:
            raise StaleReceipt("this lease ran out or was settled before")
        return outcome

    # Operations begun without waiting, for callers that count every microsecond. They are only
    # for queues that this node ``knows``; the ordinary methods do all that goes with them.

    def begin_pop(self, queue: str) -> asyncio.Future[list[Message]]:
        """Begin to ``pop`` one message; ``give_back`` it if it reaches nobody."""
        return self._stores.found[queue].queues.take(queue, 1, True)

    def begin_lease(
        self, queue: str, lease_seconds: float | None
    ) -> asyncio.Future[list[LeasedMessage]]:
        """Begin to ``lease`` one message; ``release_unseen`` it if it reaches nobody."""
        if lease_seconds is not None:
            check_number("lease", lease_seconds, 1, MAX_LEASE_SECONDS)
        return self._stores.found[queue].queues.lease(queue, 1, lease_seconds)

    def begin_ack(self, receipt: Receipt) -> asyncio.Future[Reply]:
        """Begin to ``ack``; ``conclude`` it with what the future gives."""
        settlement = Settlement("ack", receipt.number, receipt.token)
        return self._stores.found[receipt.queue].queues.settle(receipt.queue, settlement)
