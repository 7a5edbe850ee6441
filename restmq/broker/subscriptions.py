"""Subscriptions: holders and the queues that they are bound to, on this node.

What a holder has goes back when it leaves; when this node dies, the others give it back
(``lua/leases.lua``). So leases are of the kind of leased streams.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import cast

from restmq.broker.holders import Binding, Delivery, Holder
from restmq.broker.limits import MAX_LEASE_SECONDS
from restmq.broker.scripts import Reply
from restmq.broker.sources import Defaults, Source
from restmq.broker.stores import Stores
from restmq.errors import RestMQError

logger = logging.getLogger(__name__)

_SWEEP_SECONDS = 0.5


class Subscriptions:
    """All bindings of this node.

    ``lease_seconds`` and ``max_attempts`` are for queues whose own settings do not say.
    """

    def __init__(self, stores: Stores, lease_seconds: float, max_attempts: int) -> None:
        self._stores = stores
        seconds = min(lease_seconds, MAX_LEASE_SECONDS)
        self._defaults = Defaults(stores.overrides_of, seconds, max_attempts)
        self._sources: dict[str, Source] = {}
        self._loop = asyncio.get_running_loop()
        self._sweep: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling: set[Source] = set()
        self._stale: set[Source] = set()

    async def close(self) -> None:
        """Wait until Redis knows who has left."""
        if self._sweep is not None:
            self._sweep.cancel()
        for source in self._sources.values():
            source.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def binding_count(self) -> int:
        """Return how many bindings there are on this node."""
        return sum(len(source.bindings) for source in self._sources.values())

    async def bind(
        self, queue: str, holder: Holder, prefetch: int, *, is_counted: bool, owner: object
    ) -> Binding:
        """Give a holder messages of one more queue, from now on.

        Raises ``InvalidInput`` for a bad name, ``Unavailable`` when Redis does not answer.
        """
        store = await self._stores.find(queue)
        source = self._sources.get(queue)
        if source is None or source.store is not store:
            source = self._sources[queue] = Source(self._defaults, store, queue)
        source.joining += 1
        try:
            await asyncio.gather(self._listen(source), source.read_settings())
            binding = Binding(source, holder, prefetch, is_counted, owner)
            source.bindings[binding] = None
        finally:
            source.joining -= 1
            self._drop_if_empty(source)
        if self._sweep is None:
            self._sweep = self._loop.call_later(_SWEEP_SECONDS, self._expire_overdue)
        source.offer(binding)
        source.wake()
        return binding

    def unbind(self, binding: Binding, held: Sequence[Delivery]) -> Sequence[asyncio.Future[Reply]]:
        """End a binding; what it held goes back to the head of the queue, in its order.

        The futures are done when it is there.
        """
        source = _source(binding)
        binding.is_open = False
        source.bindings.pop(binding, None)
        outcomes = [
            source.settle(delivery, "leave", "its consumer disconnected")
            for delivery in held
            if source.let_go(delivery)
        ]
        self._drop_if_empty(source)
        self._tell_later(source)
        return outcomes

    def ack(self, delivery: Delivery) -> asyncio.Future[Reply]:
        """Settle a delivery: the message is done. The future gives 0 if its lease had run out."""
        source = _source(delivery.binding)
        source.let_go(delivery)
        outcome = source.settle(delivery, "ack")
        delivery.binding.holder.take_turns()
        return outcome

    def nack(self, delivery: Delivery) -> asyncio.Future[Reply]:
        """Give a message back to the head of its queue, or to the dead after too many attempts."""
        source = _source(delivery.binding)
        outcome = source.settle(delivery, "release", "it was refused")

        def free(_: asyncio.Future[Reply]) -> None:
            # Not before it is back, so that it comes before those behind it.
            source.let_go(delivery)
            source.wake()
            delivery.binding.holder.take_turns()

        outcome.add_done_callback(free)
        return outcome

    def _expire_overdue(self) -> None:
        self._sweep = None
        now = self._loop.time()
        for source in list(self._sources.values()):
            source.expire_overdue(now)
        if self._sources:
            self._sweep = self._loop.call_later(_SWEEP_SECONDS, self._expire_overdue)

    async def _listen(self, source: Source) -> None:
        consumers = len(source.bindings) + source.joining
        await source.store.listeners.listen(source.queue, source, source.wake, consumers)

    def _drop_if_empty(self, source: Source) -> None:
        if not (source.bindings or source.joining):
            if self._sources.get(source.queue) is source:
                del self._sources[source.queue]
            source.close()
            source.store.listeners.forget(source.queue, source)

    def _tell_later(self, source: Source) -> None:
        """Tell Redis how many consumers are left; once for all that leave meanwhile."""
        self._stale.add(source)
        if source not in self._telling:
            self._telling.add(source)
            task = self._loop.create_task(self._tell(source), name="count-out")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _tell(self, source: Source) -> None:
        try:
            while source in self._stale:
                self._stale.discard(source)
                if source.bindings or source.joining:
                    await self._listen(source)
                else:
                    await source.store.listeners.forget_now(source.queue)
        except RestMQError as error:
            logger.debug("the heartbeat will tell who is left at %r: %s", source.queue, error)
        finally:
            self._telling.discard(source)


def _source(binding: Binding) -> Source:
    return cast(Source, binding.source)
