"""The facade that endpoints hold: queues in the field's own words, and no protocol.

Values are bytes, stored and returned verbatim. Every method may raise ``Unavailable`` (Redis out
of reach, or too much waiting for it), and ``InvalidInput`` for what cannot be a queue's name; a
method that changes something has done so, fsynced as Redis is set up to, when it returns.
"""

import asyncio
import enum
import logging
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from restmq.broker.backend import open_backend
from restmq.broker.commit import MAX_BATCH_BYTES, Committer
from restmq.broker.consumers import Consumer, End
from restmq.broker.dispatch import Dispatcher, StreamLimits
from restmq.broker.keys import NODE_CHANNEL, REGISTRY, check_queue_name
from restmq.broker.message import Message, pack
from restmq.broker.queues import Queues
from restmq.broker.scripts import Scripts, command
from restmq.broker.wakeups import Wakeups
from restmq.errors import InvalidInput

logger = logging.getLogger(__name__)

MAX_KNOWN_QUEUES = 100_000
"""Names that a node remembers to be registered; beyond that it forgets and registers again."""

PAGE = 1000
"""Queues that one round trip lists."""

CLOSE_SECONDS = 5.0
"""How long closing a broker waits for Redis."""

MAX_TTL_SECONDS = 10 * 366 * 86400


class Policy(enum.IntEnum):
    """How streaming consumers share a queue; the values are the classic protocol's."""

    BROADCAST = 1
    ROUNDROBIN = 2


class QueueStats(NamedTuple):
    """What a queue looks like at one moment."""

    name: str
    length: int
    """Messages waiting, expired ones not counted."""
    started: bool
    """False while delivery to streams is paused."""
    policy: Policy | None
    """None if it was never set, which means broadcast."""
    consumers: int
    """Streaming consumers on all nodes."""


class Broker:
    """Queues over one Redis, as one node of any number."""

    def __init__(self, redis_url: str, limits: StreamLimits | None = None) -> None:
        self.node = uuid.uuid4().hex[:12]
        self.scripts = Scripts(self.node)
        self._backend = open_backend(redis_url, self.scripts.all())
        self._committer = Committer(self._backend)
        self._queues = Queues(self._committer, self.scripts)
        self._dispatcher = Dispatcher(
            self._committer, self._queues, self.scripts, limits or StreamLimits()
        )
        self._wakeups = Wakeups(
            self._backend,
            NODE_CHANNEL + self.node,
            self._dispatcher.wake,
            self._dispatcher.wake_all,
        )
        self._known: set[str] = set()

    async def open(self) -> None:
        """Start the node's own work. Redis need not be there yet."""
        self._committer.start()
        self._dispatcher.start()
        self._wakeups.start()
        await self._wakeups.wait_until_connected(timeout_seconds=2.0)

    async def close(self, patience_seconds: float = CLOSE_SECONDS) -> None:
        """Return what consumers held, finish what was begun, and leave Redis.

        A Redis that does not answer is left after ``patience_seconds``; what consumers of this
        node held comes back when the other nodes count it as dead.
        """
        try:
            async with asyncio.timeout(patience_seconds):
                await self._wakeups.close()
                await self._dispatcher.close()
                await self._committer.close()
        except TimeoutError:
            logger.error("Redis does not answer; leaving without it")
            await self._committer.abort()
        await self._backend.close()

    async def __aenter__(self) -> "Broker":
        await self.open()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    @property
    def description(self) -> str:
        """Name the Redis behind this broker, for people, without its password."""
        return self._backend.description

    @property
    def consumer_count(self) -> int:
        """Return how many streaming consumers are connected to this node."""
        return self._dispatcher.consumer_count

    async def ping(self) -> None:
        """Return if Redis answers and takes part; raises ``Unavailable`` if not."""
        await self._committer.submit(command("PING"))

    async def add(
        self,
        queue: str,
        value: bytes,
        *,
        ttl_seconds: int | None = None,
        content_type: str | None = None,
    ) -> int:
        """Append a message to the queue, which is created if need be; returns its number.

        ``ttl_seconds``: 1 or more, after which the message is gone. ``content_type``: kept
        with it. Raises ``InvalidInput`` for a bad name or ttl, and then nothing is stored.
        """
        if ttl_seconds is not None and not 1 <= ttl_seconds <= MAX_TTL_SECONDS:
            raise InvalidInput(f"ttl must be a whole number of seconds, 1 to {MAX_TTL_SECONDS}")
        packed = pack(value, content_type)
        if queue not in self._known:
            return await self._add_first(queue, ttl_seconds, packed)
        # Consumers of this node get it in the same round trip, without a detour over Redis.
        wakes_itself = self._dispatcher.has_consumers(queue)
        stored = self._queues.add(queue, ttl_seconds, packed, wakes_itself)
        if wakes_itself:
            self._dispatcher.wake(queue)
        number = await stored
        if number == 1:
            # Redis has lost what this node remembers, or another one has taken its place.
            await self._register(queue)
        return number

    async def _add_first(self, queue: str, ttl_seconds: int | None, packed: bytes) -> int:
        """Add to a queue that this node has not seen: both must have come to pass."""
        check_queue_name(queue)
        # First what may be refused for lack of room, then what goes with it.
        stored = self._queues.add(queue, ttl_seconds, packed)
        number, _ = await asyncio.gather(stored, self._register(queue))
        if len(self._known) >= MAX_KNOWN_QUEUES:
            self._known.clear()
        self._known.add(queue)
        return number

    def _register(self, queue: str) -> asyncio.Future[object]:
        return self._committer.submit(command("ZADD", REGISTRY, 0, queue), is_admitted=True)

    async def pop(self, queue: str, count: int = 1) -> list[Message]:
        """Take up to ``count`` of the oldest messages; a later ``delete`` still knows them.

        If the caller is cancelled, the messages stay in the queue.
        """
        check_queue_name(queue)
        future = self._queues.take(queue, count, remember=True)
        try:
            return await future
        except asyncio.CancelledError:
            self._untake(queue, future)
            raise

    async def take(self, queue: str, count: int = 1) -> list[Message]:
        """Take and erase up to ``count`` of the oldest messages.

        If the caller is cancelled, the messages stay in the queue.
        """
        check_queue_name(queue)
        future = self._queues.take(queue, count, remember=False)
        try:
            return await future
        except asyncio.CancelledError:
            self._untake(queue, future)
            raise

    def _untake(self, queue: str, future: asyncio.Future[list[Message]]) -> None:
        """Give back what came for a caller that was cancelled before it could look at it."""
        if future.done() and not future.cancelled() and future.exception() is None:
            self.give_back(queue, future.result())

    def give_back(self, queue: str, messages: Sequence[Message]) -> None:
        """Put messages that were taken but reached nobody back at the head, in their order."""
        if messages:
            self._queues.give_back(queue, messages)

    async def get(self, queue: str) -> tuple[Message, int] | None:
        """Look at the oldest message and count the look; returns both, or None when empty."""
        check_queue_name(queue)
        reply = await self._committer.submit(self.scripts.get(queue))
        return (Message(reply[0], reply[1]), reply[2]) if reply else None

    async def peek(self, queue: str, count: int, *, newest: bool = False) -> list[Message]:
        """List waiting messages from the oldest (or the newest) without taking them."""
        check_queue_name(queue)
        reply = await self._committer.submit(
            self.scripts.peek(queue, count, newest, MAX_BATCH_BYTES)
        )
        return [Message(reply[at], reply[at + 1]) for at in range(0, len(reply), 2)]

    async def delete(self, queue: str, number: int) -> bool:
        """Remove one message; returns whether there was such a message, or was until lately."""
        check_queue_name(queue)
        return bool(await self._committer.submit(self.scripts.delete(queue, number)))

    async def purge(self, queue: str) -> bool:
        """End the queue's streams on all nodes and empty it; returns whether it held anything."""
        check_queue_name(queue)
        return bool(await self._committer.submit(self.scripts.purge(queue)))

    async def set_policy(self, queue: str, policy: Policy) -> None:
        """Set how streaming consumers share the queue, from the next message on."""
        check_queue_name(queue)
        await self._committer.submit(self.scripts.configure(queue, "policy", str(int(policy))))

    async def set_started(self, queue: str, started: bool) -> None:
        """Pause (False) or resume (True) delivery to streams; nothing else is affected."""
        check_queue_name(queue)
        await self._committer.submit(self.scripts.configure(queue, "status", str(int(started))))

    async def stats(self, queue: str) -> QueueStats:
        """Return what the queue looks like; an unknown queue is empty and started."""
        check_queue_name(queue)
        return (await self._stats([queue]))[0]

    async def list_stats(self, after: str = "", limit: int = PAGE) -> list[QueueStats]:
        """Return a page of ``stats`` of known queues, by name, from the first after ``after``."""
        return await self._stats(await self.list_queues(after, limit))

    async def list_queues(self, after: str = "", limit: int = PAGE) -> list[str]:
        """Return up to ``limit`` names of known queues, in byte order, after ``after``."""
        start = f"({check_queue_name(after)}" if after else "-"
        names = await self._committer.submit(
            command("ZRANGEBYLEX", REGISTRY, start, "+", "LIMIT", 0, limit)
        )
        return [name.decode() for name in names]

    async def count_queues(self) -> int:
        """Return how many queues are known."""
        count: int = await self._committer.submit(command("ZCARD", REGISTRY))
        return count

    async def _stats(self, queues: Sequence[str]) -> list[QueueStats]:
        replies = await asyncio.gather(
            *(self._committer.submit(self.scripts.stats(queue)) for queue in queues)
        )
        found = []
        for queue, (length, status, policy, consumers) in zip(queues, replies, strict=True):
            found.append(
                QueueStats(
                    name=queue,
                    length=length,
                    started=status != b"0",
                    policy=Policy(int(policy)) if policy else None,
                    consumers=consumers,
                )
            )
        return found

    async def join(self, queue: str, consumer: Consumer) -> None:
        """Count a streaming consumer in, before its first bytes are sent.

        Raises ``Unavailable`` when Redis does not answer.
        """
        check_queue_name(queue)
        await self._dispatcher.join(queue, consumer)

    def begin(self, queue: str, consumer: Consumer) -> None:
        """Start handing messages to a consumer that has joined."""
        self._dispatcher.begin(queue, consumer)

    async def leave(self, queue: str, consumer: Consumer) -> None:
        """Count a consumer out; what it was handed but did not get goes back to the queue."""
        await self._dispatcher.leave(queue, consumer)

    def end_streams(self, reason: End) -> None:
        """End every stream of this node."""
        self._dispatcher.end_all(reason)
