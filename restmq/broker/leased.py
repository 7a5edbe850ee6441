"""Leased streams: consumers that hold messages for a time and settle them one by one.

Each message goes to one consumer, whatever the queue's policy. A consumer holds at most
``prefetch`` unsettled messages; a pump for each queue leases as many as its consumers here have
room for, and hands them out in turn. When a consumer leaves, what it held goes back at once;
when this node dies, the others give it back (``lua/leases.lua``).
"""

import asyncio
import logging
from collections.abc import Iterator

from restmq.broker.consumers import Consumer, End
from restmq.broker.keepalive import KeepAlive
from restmq.broker.listeners import Listeners
from restmq.broker.message import LeasedMessage
from restmq.broker.queues import Queues
from restmq.broker.scripts import Settlement
from restmq.errors import RestMQError, Unavailable

logger = logging.getLogger(__name__)

MAX_PREFETCH = 1000
MAX_LEASED_PER_CALL = 1000
_RETRY_SECONDS = 0.25

Delivery = tuple[int, str]
"""Number and token: what a receipt names within a queue."""


class _Holder:
    """One consumer, and what it holds."""

    __slots__ = ("consumer", "has_begun", "held", "lease_seconds", "prefetch")

    def __init__(self, consumer: Consumer, prefetch: int, lease_seconds: float | None) -> None:
        self.consumer = consumer
        self.prefetch = prefetch
        self.lease_seconds = lease_seconds
        self.has_begun = False
        self.held: dict[Delivery, float] = {}
        """Deliveries by when their leases run out, on this node's monotonic clock."""

    @property
    def room(self) -> int:
        """Return how many more messages it can take now."""
        consumer = self.consumer
        able = self.has_begun and consumer.is_open and consumer.unsent_bytes == 0
        return self.prefetch - len(self.held) if able else 0


class _LeasedStream:
    """The leased consumers of one queue on this node."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.holders: dict[Consumer, _Holder] = {}
        self.joining = 0
        self.turn = 0
        self.signal = asyncio.Event()
        self.pump: asyncio.Task[None] | None = None
        self.epoch = 0

    def rotation(self, lease_seconds: float | None) -> Iterator[_Holder]:
        """Yield the holders of this lease time that have room, in turn."""
        while True:
            holders = list(self.holders.values())
            able = [h for h in holders if h.lease_seconds == lease_seconds and h.room > 0]
            if not able:
                return
            for _ in range(len(able)):
                self.turn += 1
                holder = able[self.turn % len(able)]
                if holder.room > 0:
                    yield holder


class LeasedStreams:
    """All leased streams of this node."""

    def __init__(self, queues: Queues, listeners: Listeners, keep_alive: KeepAlive) -> None:
        self._queues = queues
        self._listeners = listeners
        self._keep_alive = keep_alive
        self._streams: dict[str, _LeasedStream] = {}
        self._loop = asyncio.get_running_loop()

    @property
    def consumer_count(self) -> int:
        """Return how many leased consumers are connected to this node."""
        return sum(len(stream.holders) for stream in self._streams.values())

    async def close(self) -> None:
        """Stop handing out, and give back what consumers hold."""
        streams = list(self._streams.values())
        pumps = [stream.pump for stream in streams if stream.pump]
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for stream in streams:
            await asyncio.gather(*(self.leave(stream.queue, c) for c in list(stream.holders)))

    def end_all(self, reason: End) -> None:
        """End every leased stream of this node."""
        for stream in self._streams.values():
            for consumer in list(stream.holders):
                consumer.end(reason)

    async def join(
        self, queue: str, consumer: Consumer, prefetch: int, lease_seconds: float | None
    ) -> None:
        """Count a consumer in; it gets messages from ``begin`` on.

        Raises ``Unavailable`` when Redis does not answer.
        """
        stream = self._streams.get(queue)
        if stream is None:
            stream = self._streams[queue] = _LeasedStream(queue)
        stream.joining += 1
        try:
            consumers = len(stream.holders) + 1
            consumer.epoch = await self._listeners.listen(
                queue, stream, lambda: self._wake(stream), consumers
            )
            stream.holders[consumer] = _Holder(consumer, prefetch, lease_seconds)
        finally:
            stream.joining -= 1
            self._drop_if_empty(stream)

    def begin(self, queue: str, consumer: Consumer) -> None:
        """Start handing messages to a consumer that is ready to be written to."""
        stream = self._streams[queue]
        stream.holders[consumer].has_begun = True
        self._keep_alive.watch(consumer, lambda: self._cut_off(consumer))
        self._wake(stream)

    async def leave(self, queue: str, consumer: Consumer) -> None:
        """Count a consumer out; what it holds goes back to the head of the queue."""
        stream = self._streams.get(queue)
        holder = stream.holders.pop(consumer, None) if stream is not None else None
        if stream is None or holder is None:
            return
        self._keep_alive.forget(consumer)
        self._drop_if_empty(stream)
        settlements = [Settlement("leave", number, token) for number, token in holder.held]
        outcomes = [self._queues.settle(queue, each, is_admitted=True) for each in settlements]
        for outcome in await asyncio.gather(*outcomes, return_exceptions=True):
            if isinstance(outcome, BaseException):
                logger.warning("what a consumer of %r held comes back later: %s", queue, outcome)
                return

    def settled(self, queue: str, number: int, token: str) -> None:
        """Take note that a delivery was settled, here or on another node: there is room again."""
        stream = self._streams.get(queue)
        if stream is None:
            return
        for holder in stream.holders.values():
            if holder.held.pop((number, token), None) is not None:
                self._wake(stream)
                return

    def extended(self, queue: str, number: int, token: str, seconds: float) -> None:
        """Take note that a delivery may take longer."""
        stream = self._streams.get(queue)
        for holder in stream.holders.values() if stream else ():
            if (number, token) in holder.held:
                holder.held[number, token] = self._loop.time() + seconds

    def _wake(self, stream: _LeasedStream) -> None:
        stream.signal.set()
        if stream.pump is None and stream.holders:
            stream.pump = self._loop.create_task(self._pump(stream))

    def _drop_if_empty(self, stream: _LeasedStream) -> None:
        if not (stream.holders or stream.joining) and self._streams.get(stream.queue) is stream:
            del self._streams[stream.queue]
            self._listeners.forget(stream.queue, stream)
            stream.signal.set()

    def _cut_off(self, consumer: Consumer) -> None:
        if not consumer.ended.done():
            consumer.end(End.SLOW)
            consumer.cut_off()

    async def _pump(self, stream: _LeasedStream) -> None:
        try:
            while stream.holders:
                stream.signal.clear()
                try:
                    has_more = await self._hand_out(stream)
                except RestMQError as error:
                    if not isinstance(error, Unavailable):
                        logger.error("cannot lease from %r: %s", stream.queue, error)
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                if not has_more:
                    await self._wait(stream)
        finally:
            stream.pump = None

    async def _hand_out(self, stream: _LeasedStream) -> bool:
        """Lease what there is room for; returns whether to try again at once."""
        self._forget_overdue(stream)
        wanted: dict[float | None, int] = {}
        for holder in stream.holders.values():
            if holder.room > 0:
                seconds = holder.lease_seconds
                wanted[seconds] = wanted.get(seconds, 0) + holder.room
        if not wanted:
            return False
        leases = [
            self._queues.lease(stream.queue, min(room, MAX_LEASED_PER_CALL), seconds, True)
            for seconds, room in wanted.items()
        ]
        has_more = False
        for seconds, messages in zip(wanted, await asyncio.gather(*leases), strict=True):
            self._write(stream, seconds, messages)
            has_more = has_more or bool(messages)
        if not has_more:
            self._end_purged(stream, await self._listeners.epoch(stream.queue))
        return has_more

    def _write(
        self, stream: _LeasedStream, seconds: float | None, messages: list[LeasedMessage]
    ) -> None:
        shares: dict[_Holder, list[LeasedMessage]] = {}
        rotation = stream.rotation(seconds)
        for index, message in enumerate(messages):
            holder = next(rotation, None)
            if holder is None:  # those with room left meanwhile
                self._queues.release_unseen(stream.queue, messages[index:])
                break
            deadline = self._loop.time() + message.lease_seconds
            holder.held[message.number, message.token] = deadline
            shares.setdefault(holder, []).append(message)
        for holder, share in shares.items():
            data = holder.consumer.encoding.encode(stream.queue, share)
            holder.consumer.handed_bytes += len(data)
            holder.consumer.write(data)

    async def _wait(self, stream: _LeasedStream) -> None:
        """Wait until there is something new, or a lease has run out, or a consumer has read."""
        now = self._loop.time()
        deadlines = [min(h.held.values()) for h in stream.holders.values() if h.held]
        timeout = max(min(deadlines) - now, 0.0) + 0.05 if deadlines else None
        slow = [h.consumer for h in stream.holders.values() if h.consumer.unsent_bytes]
        waiting = [self._loop.create_task(consumer.wait_until_sent()) for consumer in slow[:200]]
        waiting.append(self._loop.create_task(_wait_for(stream.signal)))
        try:
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def _forget_overdue(self, stream: _LeasedStream) -> None:
        """Count leases that ran out as held no more: Redis has taken them back by itself."""
        now = self._loop.time()
        for holder in stream.holders.values():
            for delivery in [d for d, deadline in holder.held.items() if deadline <= now]:
                del holder.held[delivery]

    def _end_purged(self, stream: _LeasedStream, epoch: int) -> None:
        for consumer in stream.holders:
            if consumer.epoch < epoch:
                consumer.end(End.PURGED)


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()
