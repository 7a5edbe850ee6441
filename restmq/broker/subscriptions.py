"""Subscriptions: holders and the queues that they are bound to, on this node.

What a holder has goes back when it leaves; when this node dies, the others give it back
(``lua/leases.lua``). So leases are of the kind of leased streams. Whoever settles or deletes a
message that a holder has, over whatever endpoint and node, makes room in that holder.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import cast

from restmq.broker.holders import Binding, Delivery, Holder
from restmq.broker.scripts import LeaseDefaults, Reply
from restmq.broker.sources import Source, Terms
from restmq.broker.store import Store
from restmq.broker.store_sources import StoreSources
from restmq.broker.stores import Stores
from restmq.errors import RestMQError

logger = logging.getLogger(__name__)

RENEWED_LEASE_SECONDS = 60.0
"""How long a lease lasts that is renewed while its message is held: what gets lost on the way,
between Redis and the holder, is back in its queue after so long."""

_SWEEP_SECONDS = 0.5


class Subscriptions:
    """All bindings of this node.

    ``lease_seconds`` and ``max_attempts`` are for queues whose own settings do not say; a
    ``lease_seconds`` of 0 lets leases last for as long as a holder has the message.
    """

    def __init__(self, stores: Stores, lease_seconds: float, max_attempts: int) -> None:
        self._stores = stores
        defaults = LeaseDefaults(lease_seconds or RENEWED_LEASE_SECONDS, max_attempts)
        self._terms = Terms(defaults, is_renewing=not lease_seconds)
        self._places: dict[Store, StoreSources] = {}
        self._loop = asyncio.get_running_loop()
        self._sweep: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling: set[Source] = set()
        self._stale: set[Source] = set()

    async def close(self) -> None:
        """Wait until Redis knows who has left."""
        if self._sweep is not None:
            self._sweep.cancel()
        for source in self._sources():
            source.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def binding_count(self) -> int:
        """Return how many bindings there are on this node."""
        return sum(len(source.bindings) for source in self._sources())

    def _sources(self) -> list[Source]:
        return [source for place in self._places.values() for source in place.sources.values()]

    async def bind(
        self, queue: str, holder: Holder, prefetch: int, *, is_counted: bool, owner: object
    ) -> Binding:
        """Give a holder messages of one more queue, from now on.

        Raises ``InvalidInput`` for a bad name, ``Unavailable`` when Redis does not answer.
        """
        store = await self._stores.find(queue)
        place = self._places.get(store)
        if place is None:
            place = self._places[store] = StoreSources(self._terms, store)
        source = place.open(queue)
        source.joining += 1
        try:
            await self._listen(source)
            binding = Binding(source, holder, prefetch, is_counted, owner)
            source.bindings[binding] = None
        finally:
            source.joining -= 1
            self._drop_if_empty(source)
        if self._sweep is None:
            self._sweep = self._loop.call_later(_SWEEP_SECONDS, self._look_after_held)
        source.offer(binding)
        source.wake()
        return binding

    def unbind(self, binding: Binding, held: Sequence[Delivery]) -> Sequence[asyncio.Future[Reply]]:
        """End a binding; what it held goes back to the head of the queue, in its order.

        The futures are done when it is there.
        """
        source = _source(binding)
        binding.close()
        source.bindings.pop(binding, None)
        outcomes = [
            source.settle_surely(delivery, "leave") for delivery in held if source.let_go(delivery)
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

    def ack_surely(self, delivery: Delivery) -> None:
        """Settle a delivery that nobody asks about, also when Redis is lost on the way."""
        source = _source(delivery.binding)
        source.let_go(delivery)
        source.settle_surely(delivery, "ack")
        delivery.binding.holder.take_turns()

    def nack(self, delivery: Delivery) -> asyncio.Future[Reply]:
        """Give a message back to the head of its queue, or to the dead after too many attempts."""
        source = _source(delivery.binding)
        outcome = source.settle_surely(delivery, "release")

        def free(_: asyncio.Future[Reply]) -> None:
            # Not before it is back, so that it comes before those behind it.
            source.let_go(delivery)
            source.wake()
            delivery.binding.holder.take_turns()

        outcome.add_done_callback(free)
        return outcome

    def _look_after_held(self) -> None:
        self._sweep = None
        now = self._loop.time()
        sources = self._sources()
        for source in sources:
            source.look_after_held(now)
            if source.wants_look(now):
                self._tell_later(source)
        if sources:
            self._sweep = self._loop.call_later(_SWEEP_SECONDS, self._look_after_held)

    async def _listen(self, source: Source) -> None:
        consumers = len(source.bindings) + source.joining
        listen = source.store.listeners.listen
        source.note_epoch(await listen(source.queue, source, source.call, consumers))

    def _drop_if_empty(self, source: Source) -> None:
        if not (source.bindings or source.joining):
            self._places[source.store].drop(source)

    def _tell_later(self, source: Source) -> None:
        """Tell Redis how many consumers are left, and hear whether the queue was purged.

        Once for all that ask for it meanwhile.
        """
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
