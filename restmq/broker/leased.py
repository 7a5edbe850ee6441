"""Leased streams: consumers that hold messages for a time and settle them one by one.

Each message goes to one consumer, whatever the queue's policy. A consumer holds at most
``prefetch`` unsettled messages; a pump for each queue leases as many as its consumers here have
room for, and hands them out in turn. When a consumer leaves, what it held goes back at once;
when this node dies, the others give it back (``lua/leases.lua``).
"""

import asyncio
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from restmq.broker.consumers import Consumer, End
from restmq.broker.keepalive import KeepAlive
from restmq.broker.listeners import Listeners
from restmq.broker.message import LeasedMessage
from restmq.broker.queues import Queues
from restmq.broker.scripts import Reply, Settlement
from restmq.errors import RestMQError, Unavailable

logger = logging.getLogger(__name__)

MAX_LEASED_PER_CALL = 1000
MAX_OWED = 20_000
"""What could not be given back, and is once more; the leases of the rest run out by themselves."""

_RETRY_SECONDS = 0.25
_LOOK_SECONDS = 0.25
"""A purge is noticed within this time, though its wake-up looks like that of a message."""

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
        """When the lease of each delivery runs out, on this node's monotonic clock."""

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
        self.holder_of: dict[Delivery, _Holder] = {}
        """Who holds what, over all holders."""
        self.next_overdue = math.inf
        """No lease runs out before that time."""
        self.joining = 0
        self.turn = 0
        self.signal = asyncio.Event()
        self.was_called = False
        """Whether something happened in Redis, maybe a purge, since this was last looked at."""
        self.next_look = 0.0
        self.is_unsure = False
        """Whether word of settlements may have been lost, and Redis has not been asked yet."""
        self.pump: asyncio.Task[None] | None = None

    def hold(self, holder: _Holder, delivery: Delivery, deadline: float) -> None:
        """Note that a consumer holds a delivery until then."""
        holder.held[delivery] = deadline
        self.holder_of[delivery] = holder
        self.next_overdue = min(self.next_overdue, deadline)

    def let_go(self, delivery: Delivery) -> bool:
        """Note that a delivery is held no more; returns whether it was."""
        holder = self.holder_of.pop(delivery, None)
        if holder is None:
            return False
        del holder.held[delivery]
        return True

    def let_go_overdue(self, now: float) -> None:
        """Count leases that ran out as held no more: Redis has taken them back by itself."""
        if now < self.next_overdue:
            return
        deadlines = [(deadline, d) for h in self.holders.values() for d, deadline in h.held.items()]
        self.next_overdue = math.inf
        for deadline, delivery in deadlines:
            if deadline <= now:
                self.let_go(delivery)
            else:
                self.next_overdue = min(self.next_overdue, deadline)

    def rotation(self, lease_seconds: float | None) -> Iterator[_Holder]:
        """Yield the holders of this lease time in turn, each as often as it has room now."""
        able = [(h, h.room) for h in self.holders.values() if h.lease_seconds == lease_seconds]
        while able := [(holder, room) for holder, room in able if room > 0]:
            first = self.turn % len(able)
            for holder, _ in able[first:] + able[:first]:
                self.turn += 1
                yield holder
            able = [(holder, room - 1) for holder, room in able]


class LeasedStreams:
    """All leased streams of this node."""

    def __init__(self, queues: Queues, listeners: Listeners, keep_alive: KeepAlive) -> None:
        self._queues = queues
        self._listeners = listeners
        self._keep_alive = keep_alive
        self._streams: dict[str, _LeasedStream] = {}
        self._owed: dict[tuple[str, Settlement], None] = {}
        """What could not be given back yet, by queue."""
        self.on_cut_off: Callable[[], None] = lambda: None
        """Called when a consumer is cut off because it does not read."""
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
            consumer.epoch = await self._listen(stream)
            stream.holders[consumer] = _Holder(consumer, prefetch, lease_seconds)
        finally:
            stream.joining -= 1
            self._recount(stream)
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
        for delivery in holder.held:
            del stream.holder_of[delivery]
        settlements = [Settlement("leave", number, token) for number, token in holder.held]
        outcomes = [self._give_back(queue, each) for each in settlements]
        self._recount(stream)
        self._drop_if_empty(stream)
        stream.signal.set()  # the pump may wait for this one to read
        told = asyncio.gather(*outcomes, self._count_out(stream), return_exceptions=True)
        for outcome in await told:
            if isinstance(outcome, BaseException):
                logger.warning("what a consumer of %r held comes back later: %s", queue, outcome)
                return

    def look_anew(self) -> None:
        """Ask what is still held here, because word of settlements may have been missed."""
        for stream in self._streams.values():
            stream.is_unsure = True
        self.catch_up()

    def catch_up(self) -> None:
        """Say and ask again what did not get through to Redis."""
        owed, self._owed = self._owed, {}
        for queue, settlement in owed:
            self._give_back(queue, settlement)
        for stream in self._streams.values():
            if stream.is_unsure:
                stream.is_unsure = False
                self._check(stream)

    def _give_back(self, queue: str, settlement: Settlement) -> asyncio.Future[Reply]:
        future = self._queues.settle(queue, settlement, is_admitted=True)

        def note_outcome(future: asyncio.Future[Reply]) -> None:
            # It may have been done all the same; a second one is stale, which harms nobody.
            is_lost = future.cancelled() or isinstance(future.exception(), Unavailable)
            if is_lost and len(self._owed) < MAX_OWED:
                self._owed[queue, settlement] = None

        future.add_done_callback(note_outcome)
        return future

    def _check(self, stream: _LeasedStream) -> None:
        held = list(stream.holder_of)
        for first in range(0, len(held), MAX_LEASED_PER_CALL):
            part = held[first : first + MAX_LEASED_PER_CALL]
            asked = self._queues.still_leased(stream.queue, part)
            asked.add_done_callback(functools.partial(self._note_checked, stream, part))

    def _note_checked(
        self, stream: _LeasedStream, held: list[Delivery], asked: asyncio.Future[Reply]
    ) -> None:
        if asked.cancelled() or asked.exception() is not None:
            stream.is_unsure = True
            return
        for delivery, is_leased in zip(held, asked.result(), strict=True):
            if not is_leased and stream.let_go(delivery):
                self._wake(stream)

    def _recount(self, stream: _LeasedStream) -> None:
        self._listeners.recount(stream.queue, stream, len(stream.holders) + stream.joining)

    async def _count_out(self, stream: _LeasedStream) -> None:
        if stream.holders or stream.joining:
            await self._listen(stream)
        else:
            await self._listeners.forget_now(stream.queue)

    async def _listen(self, stream: _LeasedStream) -> int:
        def call() -> None:
            stream.was_called = True
            self._wake(stream)

        consumers = len(stream.holders) + stream.joining
        return await self._listeners.listen(stream.queue, stream, call, consumers)

    def note_over(self, queue: str, deliveries: Sequence[Delivery]) -> None:
        """Take note that deliveries were settled, here or on another node: there is room again."""
        stream = self._streams.get(queue)
        if stream is None or not stream.holder_of:
            return
        for delivery in deliveries:
            if stream.let_go(delivery):
                self._wake(stream)

    def extended(self, queue: str, number: int, token: str, seconds: float) -> None:
        """Take note that a delivery may take longer."""
        stream = self._streams.get(queue)
        holder = stream.holder_of.get((number, token)) if stream is not None else None
        if stream is not None and holder is not None:
            stream.hold(holder, (number, token), self._loop.time() + seconds)
            self._wake(stream)  # it may wait for the end that was

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
            self.on_cut_off()
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
        stream.let_go_overdue(self._loop.time())
        wanted: dict[float | None, int] = {}
        for holder in stream.holders.values():
            if holder.room > 0:
                seconds = holder.lease_seconds
                wanted[seconds] = wanted.get(seconds, 0) + holder.room
        if not wanted:
            await self._look_for_purge(stream)
            return False
        leases: dict[float | None, asyncio.Future[list[LeasedMessage]]] = {}
        error: RestMQError | None = None
        try:
            for seconds, room in wanted.items():
                count = min(room, MAX_LEASED_PER_CALL)
                leases[seconds] = self._queues.lease(stream.queue, count, seconds, True)
        except RestMQError as refusal:  # those before it may get something all the same
            error = refusal
        messages, failure = await self._collect(stream, leases)
        error = error or failure
        for seconds, found in messages.items():
            self._write(stream, seconds, found)
        if error is not None:
            raise error
        if not messages:
            await self._look_for_purge(stream)
        return bool(messages)

    async def _collect(
        self,
        stream: _LeasedStream,
        leases: Mapping[float | None, asyncio.Future[list[LeasedMessage]]],
    ) -> tuple[dict[float | None, list[LeasedMessage]], RestMQError | None]:
        """Return what some got, and by what one failed, when all are done.

        If this is cancelled, what they got goes back.
        """
        try:
            if leases:
                await asyncio.wait(leases.values())
        except asyncio.CancelledError:
            for lease in leases.values():
                if not lease.cancel() and not lease.cancelled() and lease.exception() is None:
                    self._queues.release_unseen(stream.queue, lease.result())
            raise
        messages: dict[float | None, list[LeasedMessage]] = {}
        failure: RestMQError | None = None
        for seconds, lease in leases.items():
            error = lease.exception()
            if isinstance(error, RestMQError):
                failure = error
            elif found := lease.result():
                messages[seconds] = found
        return messages, failure

    def _write(
        self, stream: _LeasedStream, seconds: float | None, messages: list[LeasedMessage]
    ) -> None:
        now = self._loop.time()
        shares: dict[_Holder, list[LeasedMessage]] = {}
        rotation = stream.rotation(seconds)
        for index, message in enumerate(messages):
            holder = next(rotation, None)
            if holder is None:  # those with room left meanwhile
                self._queues.release_unseen(stream.queue, messages[index:])
                break
            stream.hold(holder, (message.number, message.token), now + message.lease_seconds)
            shares.setdefault(holder, []).append(message)
        for holder, share in shares.items():
            data = holder.consumer.encoding.encode(stream.queue, share)
            holder.consumer.handed_bytes += len(data)
            holder.consumer.write(data)

    async def _wait(self, stream: _LeasedStream) -> None:
        """Wait until there is something new, or a lease has run out, or a consumer has read."""
        deadline = stream.next_overdue + 0.05
        if stream.was_called:
            deadline = min(deadline, stream.next_look)
        timeout = None if deadline == math.inf else max(deadline - self._loop.time(), 0.0)
        slow = [h.consumer for h in stream.holders.values() if h.consumer.unsent_bytes]
        waiting = [self._loop.create_task(consumer.wait_until_sent()) for consumer in slow[:200]]
        waiting.append(self._loop.create_task(_wait_for(stream.signal)))
        try:
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _look_for_purge(self, stream: _LeasedStream) -> None:
        """Ask for the epoch if something happened, but not as often as messages come."""
        now = self._loop.time()
        if not stream.was_called or now < stream.next_look:
            return
        stream.was_called = False
        stream.next_look = now + _LOOK_SECONDS
        epoch = await self._listeners.epoch(stream.queue)
        for consumer in stream.holders:
            if consumer.epoch < epoch:
                consumer.end(End.PURGED)


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()
