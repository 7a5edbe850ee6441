"""Streams: how this node hands the messages of a queue to its connected consumers.

One ``Stream`` per queue that has consumers here; its pump runs only while there is something to
do. Redis decides what is for this node (``lua/deliver.lua``); this module decides which of its
consumers gets it, and what happens to one that does not read:

- broadcast: written to every consumer at once, whatever the others do. One whose unsent bytes
  pass ``outbox_bytes`` is cut off.
- round-robin: written only to a consumer with nothing unsent, in the order of connection; so a
  slow one is passed over and holds little, which goes back to the queue when it is cut off.
- either: one that has taken nothing between two keep-alives is cut off (``keepalive.py``).

New messages are moved out of the queue only while some consumer here has nothing unsent, so a
backlog flows at the pace of the fastest.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from restmq.broker.commit import Committer
from restmq.broker.consumers import Consumer, Encoding, End
from restmq.broker.keepalive import KeepAlive
from restmq.broker.message import Message, messages_from_history, messages_from_pairs
from restmq.broker.queues import Queues
from restmq.broker.resume import Missed, read_missed
from restmq.broker.scripts import DELIVERED, Reply, Scripts
from restmq.broker.streams import Stream, StreamLimits
from restmq.errors import RestMQError, Unavailable

logger = logging.getLogger(__name__)

NODE_LIFETIME_SECONDS = 15.0
"""A node that has not called for so long counts as dead."""

MAX_MESSAGES_PER_CALL = 256
MAX_BYTES_PER_CALL = 1024 * 1024
_RETRY_SECONDS = 0.25
_BLOCKED_SECONDS = 0.05
_SLICE = 200
"""Streams or consumers that a periodic task handles before it lets others run."""
_WRITES_PER_TURN = 50
_WRITES_PER_BUSY_TURN = 10
"""Consumers written to in one turn of the event loop, fewer while requests wait for Redis: what
they publish meanwhile is then written together with what comes next, once and not twice."""


class Dispatcher:
    """All streams of this node."""

    def __init__(
        self,
        committer: Committer,
        queues: Queues,
        scripts: Scripts,
        limits: StreamLimits,
        keep_alive: KeepAlive,
    ) -> None:
        self._committer = committer
        self._queues = queues
        self._scripts = scripts
        self._limits = limits
        self._keep_alive = keep_alive
        self._streams: dict[str, Stream] = {}
        self._calls = 0
        self._loop = asyncio.get_running_loop()
        self._periodic: list[asyncio.Task[None]] = []
        self._sending: set[asyncio.Task[None]] = set()
        self.cut_off_count = 0
        """Consumers cut off since the start because they did not read."""

    def start(self) -> None:
        """Start the periodic work."""
        self._periodic = [
            self._loop.create_task(self._stay_alive(), name="dispatcher-heartbeat"),
        ]

    async def close(self) -> None:
        """Stop handing out, and tell the other nodes that no consumer is left here."""
        pumps = [stream.pump for stream in self._streams.values() if stream.pump]
        tasks = [*self._periodic, *self._sending, *pumps]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        streams = list(self._streams.values())
        for stream in streams:
            for consumer in stream.consumers:
                self._take_back(stream, consumer)
            stream.consumers.clear()
            stream.joined.clear()
        await asyncio.gather(*(self._leave_again(stream) for stream in streams))

    def end_all(self, reason: End) -> None:
        """End every stream of this node."""
        for stream in self._streams.values():
            for consumer in (*stream.consumers, *stream.joined):
                consumer.end(reason)

    @property
    def consumer_count(self) -> int:
        """Return how many consumers are connected to this node."""
        return sum(len(stream.consumers) for stream in self._streams.values())

    async def join(self, queue: str, consumer: Consumer) -> None:
        """Count a new consumer in; it gets messages from ``begin`` on.

        When this returns, every node knows of it, so that a DELETE from now on ends it.
        Raises ``Unavailable`` when Redis does not answer.
        """
        stream = self._streams.get(queue)
        if stream is None:
            stream = self._streams[queue] = Stream(queue)
        elif not stream.count:
            stream.position = None  # what was sent while nobody was here is not for this one
        stream.joined.add(consumer)
        try:
            epoch, position, sent_number = await self._announce(stream)
        except BaseException:
            # Redis may count it all the same; so the stream stays until the heartbeat has told.
            stream.joined.discard(consumer)
            raise
        if stream.position is None:
            stream.position = position
            stream.last_number = sent_number
        consumer.epoch = epoch

    def read_missed(self, queue: str, consumer: Consumer, after: int) -> AsyncIterator[Missed]:
        """Yield what a consumer that has joined missed since message ``after``; then begin it."""
        stream = self._streams[queue]
        self._keep_alive.watch(consumer, lambda: self._cut_off(stream, consumer))
        return read_missed(self._committer, self._scripts, stream, consumer, after)

    def begin(self, queue: str, consumer: Consumer) -> None:
        """Start handing messages to a consumer that has joined and is ready to be written to.

        Until the caller awaits something, nothing is: its ``opened_at`` can be told before.
        """
        stream = self._streams[queue]
        stream.joined.discard(consumer)
        stream.consumers.append(consumer)
        consumer.opened_at = stream.last_number
        self._keep_alive.watch(consumer, lambda: self._cut_off(stream, consumer))
        self.wake(queue)

    async def leave(self, queue: str, consumer: Consumer) -> None:
        """Count a consumer out; what it was handed but cannot have received goes back."""
        stream = self._streams.get(queue)
        if stream is None:
            return
        stream.joined.discard(consumer)
        self._keep_alive.forget(consumer)
        with contextlib.suppress(ValueError):
            stream.consumers.remove(consumer)
        self._take_back(stream, consumer)
        stream.signal.set()  # a pump that waits for room may wait for nobody now
        try:
            await self._announce(stream)
        except RestMQError:
            return  # the heartbeat says it again
        self._drop_if_empty(stream)

    def wake(self, queue: str) -> None:
        """Look whether there is something for this node's consumers of ``queue``."""
        stream = self._streams.get(queue)
        if stream is None:
            return
        stream.signal.set()
        if stream.pump is None and stream.consumers:
            stream.pump = self._loop.create_task(self._pump(stream))

    def has_consumers(self, queue: str) -> bool:
        """Return whether this node will look at the queue when it is woken."""
        stream = self._streams.get(queue)
        return stream is not None and bool(stream.consumers)

    def wake_all(self) -> None:
        """Look at every queue, because wake-ups may have been missed."""
        for queue in list(self._streams):
            self.wake(queue)

    async def _announce(self, stream: Stream) -> tuple[int, int, int]:
        reply = await self._committer.submit(
            self._scripts.join(stream.queue, stream.count, NODE_LIFETIME_SECONDS, stream.position)
        )
        return reply[0], reply[1], reply[2]

    def _drop_if_empty(self, stream: Stream) -> None:
        if not stream.count and self._streams.get(stream.queue) is stream:
            del self._streams[stream.queue]

    async def _pump(self, stream: Stream) -> None:
        try:
            while stream.consumers and stream.signal.is_set():
                stream.signal.clear()
                await self._hand_out(stream)
        finally:
            stream.pump = None

    async def _hand_out(self, stream: Stream) -> None:
        """Fetch what is for this node once, and see to it that the rest is fetched too."""
        had_room = stream.has_room()
        try:
            reply = await self._fetch(stream, had_room)
        except RestMQError as error:
            if not isinstance(error, Unavailable):
                logger.error("cannot deliver %r: %s", stream.queue, error)
            stream.signal.set()
            await asyncio.sleep(_RETRY_SECONDS)
            return
        epoch, position, missed, more, entries, handed, generation, other_nodes, trimmed = reply
        stream.generation = generation.decode()
        self._end_purged(stream, epoch)
        if other_nodes or not entries or any(consumer.is_open for consumer in stream.consumers):
            stream.position = position
            if missed:
                logger.warning("%d broadcast messages of %r were missed", missed, stream.queue)
                self._announce_gap(stream, trimmed)
            if entries:
                messages = messages_from_history(entries)
                stream.last_number = messages[-1].number
                records = [message.record for message in messages]
                self._committer.measures.note_streamed(records, len(stream.consumers))
                await self._broadcast(stream, messages)
        # Else the last consumer left while they were fetched: as the position stays where it was,
        # they are for the next one, or go back once Redis hears that nobody is left (join.lua).
        if handed:
            self._rotate(stream, messages_from_pairs(handed))
        if more:
            stream.signal.set()
            if not entries and not handed:
                await self._wait_for_room(stream, had_room)

    async def _fetch(self, stream: Stream, has_room: bool) -> Reply:
        """Ask what is for this node; if this is cancelled, what it would have got goes back."""
        asked = self._ask(stream, has_room)
        try:
            return await asked
        except asyncio.CancelledError:
            # The committer takes back what comes later, but this may have come already.
            if asked.done() and not asked.cancelled() and asked.exception() is None:
                handed = asked.result()[5]
                if handed:
                    self._queues.give_back(stream.queue, messages_from_pairs(handed))
            raise

    def _ask(self, stream: Stream, has_room: bool) -> asyncio.Future[Reply]:
        self._calls += 1
        batch = str(self._calls)
        call = self._scripts.deliver(
            stream.queue,
            consumers=stream.count,
            lifetime_seconds=NODE_LIFETIME_SECONDS,
            position=stream.position or 0,
            has_room=has_room,
            max_messages=MAX_MESSAGES_PER_CALL,
            max_bytes=MAX_BYTES_PER_CALL,
            history=self._limits.history,
            batch=batch,
            generation=stream.generation,
        )
        undo = self._scripts.restore_reply(stream.queue, DELIVERED, batch)
        return self._committer.submit(call, undo)

    async def _wait_for_room(self, stream: Stream, had_room: bool) -> None:
        """Wait until a consumer has sent what it holds, or there is something new to look at."""
        if had_room:  # another node has yet to read the history
            await asyncio.sleep(_BLOCKED_SECONDS)
            return
        if not stream.consumers:  # the last one left meanwhile
            return
        stream.signal.clear()
        able = [consumer for consumer in stream.consumers if consumer.is_open]
        sample = able[:_SLICE]
        waiting = [self._loop.create_task(consumer.wait_until_sent()) for consumer in sample]
        waiting.append(self._loop.create_task(_wait_for(stream.signal)))
        timeout = _BLOCKED_SECONDS if len(able) > len(sample) else None
        try:
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        stream.signal.set()

    def _announce_gap(self, stream: Stream, last: int) -> None:
        """Tell every consumer of messages that left the history before this node read them."""
        if last > stream.last_number:
            for consumer in stream.consumers:
                consumer.tell(consumer.encoding.gap(stream.last_number + 1, last))

    def _end_purged(self, stream: Stream, epoch: int) -> None:
        for consumer in stream.consumers:
            if consumer.epoch < epoch:
                consumer.end(End.PURGED)

    async def _broadcast(self, stream: Stream, messages: Sequence[Message]) -> None:
        """Write to every consumer; requests are served in between, and their messages join."""
        encoded: dict[Encoding, bytes] = {}
        limit = self._limits.outbox_bytes
        for index, consumer in enumerate(list(stream.consumers), start=1):
            encoding = consumer.encoding
            data = encoded.get(encoding)
            if data is None:
                data = encoded[encoding] = encoding.encode(stream.queue, messages)
            if not consumer.offer(data, limit):
                self._cut_off(stream, consumer)
            consumer.handed_bytes += len(data)
            step = _WRITES_PER_BUSY_TURN if self._committer.is_busy else _WRITES_PER_TURN
            if index % step == 0:
                await asyncio.sleep(0)

    def _rotate(self, stream: Stream, messages: Sequence[Message]) -> None:
        self._committer.measures.note_streamed([message.record for message in messages], 1)
        rotation = stream.rotation()
        shares: dict[Consumer, list[Message]] = {}
        for index, message in enumerate(messages):
            consumer = next(rotation, None)
            if consumer is None:
                self._queues.give_back(stream.queue, messages[index:])
                break
            shares.setdefault(consumer, []).append(message)
        for consumer, share in shares.items():
            parts = [consumer.encoding.encode(stream.queue, [message]) for message in share]
            consumer.share += zip(share, map(len, parts), strict=True)
            consumer.handed_bytes += sum(map(len, parts))
            consumer.write(b"".join(parts))
            # The event loop writes when this round of callbacks is over; look after that.
            self._loop.call_soon(self._note_sent, consumer)

    def _note_sent(self, consumer: Consumer) -> None:
        consumer.forget_sent()
        if consumer.share:
            sending = self._loop.create_task(_forget_when_sent(consumer))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)

    def _take_back(self, stream: Stream, consumer: Consumer) -> None:
        lost = consumer.reclaim()
        if lost and not consumer.has_ended(End.PURGED):
            self._queues.give_back(stream.queue, lost)

    def _cut_off(self, stream: Stream, consumer: Consumer) -> None:
        if consumer.ended.done():
            return
        logger.info("consumer of %r cut off: %d bytes unsent", stream.queue, consumer.unsent_bytes)
        self.cut_off_count += 1
        self._committer.measures.cut_off_consumers += 1
        consumer.forget_sent()
        consumer.end(End.SLOW)
        consumer.cut_off()
        self._take_back(stream, consumer)

    async def _stay_alive(self) -> None:
        """Call for every stream often enough to stay alive, which also finds missed wake-ups."""
        while True:
            await asyncio.sleep(NODE_LIFETIME_SECONDS / 3)
            for index, stream in enumerate(list(self._streams.values())):
                if stream.consumers:
                    self.wake(stream.queue)
                elif not stream.joined:
                    await self._leave_again(stream)
                if index % _SLICE == _SLICE - 1:
                    await asyncio.sleep(0)

    async def _leave_again(self, stream: Stream) -> None:
        with contextlib.suppress(RestMQError):
            await self._announce(stream)
            self._drop_if_empty(stream)


async def _forget_when_sent(consumer: Consumer) -> None:
    await consumer.wait_until_sent()
    if consumer.is_connected:
        consumer.forget_sent()


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()
