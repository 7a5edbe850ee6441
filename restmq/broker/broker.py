"""The facade that endpoints hold: queues in the field's own words, and no protocol.

Values are bytes, stored and returned verbatim. Every method may raise ``Unavailable`` (Redis out
of reach, or too much waiting for it), and ``InvalidInput`` for what cannot be a queue's name; a
method that changes something has done so, fsynced as Redis is set up to, when it returns.

Queues live on disk, or in a second Redis that keeps nothing; the facade finds the right one.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from restmq.broker.commit import MAX_BATCH_BYTES
from restmq.broker.configuration import Configuration
from restmq.broker.consumers import Consumer, End
from restmq.broker.copies import Copy
from restmq.broker.dead_letters import DeadLetters
from restmq.broker.groups import Added
from restmq.broker.keys import REGISTRY, check_queue_name
from restmq.broker.message import DEFAULT_PRIORITY, LeasedMessage, Message, pack
from restmq.broker.receipts import Receipt
from restmq.broker.resume import Missed
from restmq.broker.scripts import Operation, Reply, Settlement, command
from restmq.broker.stats import MessageState, Policy, QueueStats, read_state, read_stats
from restmq.broker.store import Overrides, Store
from restmq.broker.stores import Stores
from restmq.broker.streams import StreamLimits
from restmq.errors import Conflict, InvalidInput, NotFound, StaleReceipt

PAGE = 1000
"""Queues that one round trip lists."""

CLOSE_SECONDS = 5.0
"""How long closing a broker waits for Redis."""

MAX_TTL_SECONDS = 10 * 366 * 86400
MAX_DELAY_SECONDS = MAX_TTL_SECONDS
MAX_LEASE_SECONDS = 43_200
MAX_ID_CHARACTERS = 128

__all__ = ["Broker", "Policy", "QueueStats"]


class Broker:
    """Queues over one Redis, as one node of any number.

    ``overrides``: what patterns set for a queue. ``memory_redis_url``: finds the second Redis,
    which queues with ``storage=memory`` need; without it there are none.
    """

    def __init__(
        self,
        redis_url: str,
        limits: StreamLimits | None = None,
        overrides: Overrides | None = None,
        memory_redis_url: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self.node = uuid.uuid4().hex[:12]

        def make_store(url: str) -> Store:
            return Store(url, self.node, limits or StreamLimits(), overrides, self._store_copy)

        self._stores = Stores(make_store, redis_url, overrides, memory_redis_url)
        self._disk = self._stores.disk
        self.scripts = self._disk.scripts
        self.configuration = Configuration(self._stores)
        """The settings of queues."""
        self.dead_letters = DeadLetters(self._stores)

    async def open(self) -> None:
        """Start the node's own work. Redis need not be there yet."""
        await self._stores.open()

    async def close(self, patience_seconds: float = CLOSE_SECONDS) -> None:
        """Return what consumers held, finish what was begun, and leave Redis.

        A Redis that does not answer is left after ``patience_seconds``; what consumers of this
        node held comes back when the other nodes count it as dead.
        """
        await self._stores.close(patience_seconds)

    async def __aenter__(self) -> "Broker":
        await self.open()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    @property
    def description(self) -> str:
        """Name the Redis behind this broker, for people, without its password."""
        return self._disk.backend.description

    @property
    def consumer_count(self) -> int:
        """Return how many streaming consumers are connected to this node."""
        stores = self._stores.all()
        return sum(s.dispatcher.consumer_count + s.leased.consumer_count for s in stores)

    async def ping(self) -> None:
        """Return if Redis answers and takes part; raises ``Unavailable`` if not."""
        await self._disk.committer.submit(command("PING"))

    # Publishing

    async def add(
        self,
        queue: str,
        value: bytes,
        *,
        ttl_seconds: int | None = None,
        content_type: str | None = None,
    ) -> int:
        """Append one message to the queue, which is created if need be; returns its number.

        ``ttl_seconds``: 1 or more, after which the message is gone. ``content_type``: kept
        with it. Raises ``InvalidInput`` for what is out of range, and ``QueueFull``.
        """
        added = await self.publish(
            queue, [value], ttl_seconds=ttl_seconds, content_type=content_type
        )
        return added.number

    async def publish(
        self,
        queue: str,
        values: Sequence[bytes],
        *,
        content_type: str | None = None,
        priority: int = DEFAULT_PRIORITY,
        ttl_seconds: int | None = None,
        delay_seconds: float | None = None,
        at: float | None = None,
        idempotency_key: str | None = None,
    ) -> Added:
        """Append messages to the queue, which is created if need be: all of them or none.

        ``ttl_seconds``: 1 or more, after which they are gone. ``delay_seconds`` or ``at`` (on
        Redis's clock): when they become ready. ``idempotency_key``: a repetition within the
        queue's ``dedupe_seconds`` stores nothing and returns what the first one did.
        Raises ``InvalidInput`` for what is out of range, ``QueueFull`` as the settings say.
        """
        options: dict[str, object] | None = None
        due_seconds = expiry_seconds = None
        if ttl_seconds is not None:
            _check("ttl", ttl_seconds, 1, MAX_TTL_SECONDS)
            options = {"ttl": ttl_seconds}
            expiry_seconds = float(ttl_seconds)
        if delay_seconds is not None or at is not None:
            options = options or {}
            due_seconds = self._note_delay(options, delay_seconds, at)
        if idempotency_key is not None:
            if not 1 <= len(idempotency_key) <= MAX_ID_CHARACTERS:
                raise InvalidInput(f"id must have 1 to {MAX_ID_CHARACTERS} characters")
            options = options or {}
            options["id"] = idempotency_key
        packed = [pack(value, content_type, priority) for value in values]
        if not packed:
            raise InvalidInput("there is no message in the batch")
        operation = Operation(packed, options)
        size_bytes = len(packed[0]) if len(packed) == 1 else sum(map(len, packed))
        store = self._stores.found.get(queue) or await self._stores.create(queue)
        # Consumers of this node get it in the same round trip, without a detour over Redis.
        dispatcher = store.dispatcher
        wakes_itself = dispatcher.has_consumers(queue)
        stored = store.queues.add(
            queue, operation, size_bytes, due_seconds, expiry_seconds, wakes_itself
        )
        if wakes_itself:
            dispatcher.wake(queue)
        added = await stored
        if added.has_copies:
            await store.copier.carry(queue, added.number + added.total - 1)
        if wakes_itself:
            store.listeners.wake(queue)
        if added.number == 1:
            # Redis has lost what this node remembers, or another one has taken its place.
            await self._stores.register(queue, store)
        return added

    @staticmethod
    def _note_delay(
        options: dict[str, object], delay_seconds: float | None, at: float | None
    ) -> float:
        if at is not None:
            if delay_seconds is not None:
                raise InvalidInput("say delay or at, not both")
            _check("at", at, 0, 10**11)
            options["at"] = at
            return 1.0  # looked at soon: only Redis's clock can tell how far away it is
        assert delay_seconds is not None
        _check("delay", delay_seconds, 0, MAX_DELAY_SECONDS)
        options["delay"] = delay_seconds
        return delay_seconds

    async def _store_copy(self, queue: str, copy: Copy, idempotency_key: str) -> None:
        """Add a copy of another queue's message."""
        options = {"id": idempotency_key, "is_copy": True, "at": copy.ready_at}
        if copy.expires:
            options["expires"] = copy.expires
        store = self._stores.found.get(queue) or await self._stores.create(queue)
        operation = Operation([copy.packed], options)
        await store.queues.add(queue, operation, len(copy.packed), 0.0, 0.0)

    # Taking

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
    ) -> list[LeasedMessage]:
        """Lease up to ``count`` of the next messages: they come back unless they are acked.

        ``lease_seconds``: 1 to 43,200; None as the queue's settings say. ``wait_seconds``: how
        long to wait for the first. If the caller is cancelled, they come back at once.
        """
        if lease_seconds is not None:
            _check("lease", lease_seconds, 1, MAX_LEASE_SECONDS)
        store = self._stores.found.get(queue) or await self._stores.find(queue)

        async def attempt() -> list[LeasedMessage]:
            future = store.queues.lease(queue, count, lease_seconds)
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
        _check("extend", seconds, 1, MAX_LEASE_SECONDS)
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
        _check("release", delay_seconds, 0, MAX_DELAY_SECONDS)
        if keep_attempt and delay_seconds:
            raise InvalidInput("attempt=keep goes with release=0 only")
        argument: str | float = "keep" if keep_attempt else delay_seconds
        await self._settle(receipt, "release", argument)

    async def bury(self, receipt: Receipt, reason: str) -> None:
        """Move a leased message to the dead letters. Raises ``StaleReceipt``."""
        if not 1 <= len(reason) <= 1000 or "\n" in reason:
            raise InvalidInput("dead must give a reason of one line, at most 1000 characters")
        await self._settle(receipt, "dead", reason)

    async def _settle(self, receipt: Receipt, verb: str, argument: str | float = "") -> Reply:
        queue, number, token = receipt
        store = self._stores.found.get(queue) or await self._stores.find(queue)
        outcome = await store.queues.settle(queue, Settlement(verb, number, token, argument))
        if not outcome:
            raise StaleReceipt("this lease ran out or was settled before")
        if verb != "extend":
            store.leased.settled(queue, number, token)
        return outcome

    # Single messages

    async def get(self, queue: str) -> tuple[Message, int] | None:
        """Look at the next message and count the look; returns both, or None when empty."""
        store = await self._stores.find(queue)
        reply = await store.committer.submit(store.scripts.get(queue))
        return (Message(reply[0], reply[1]), reply[2]) if reply else None

    async def peek(self, queue: str, count: int, *, newest: bool = False) -> list[Message]:
        """List ready messages from the next (or the last) on, without taking them."""
        store = await self._stores.find(queue)
        call = store.scripts.peek(queue, count, newest, MAX_BATCH_BYTES)
        reply = await store.committer.submit(call)
        return [Message(reply[at], reply[at + 1]) for at in range(0, len(reply), 2)]

    async def inspect(self, queue: str, number: int) -> MessageState:
        """Show one message, in whatever state it is. Raises ``NotFound``."""
        store = await self._stores.find(queue)
        reply = await store.committer.submit(store.scripts.inspect(queue, number))
        if not reply:
            raise NotFound(f"there is no message {number} in {queue!r}")
        return read_state(number, reply)

    async def delete(self, queue: str, number: int) -> bool:
        """Remove one message; returns whether there was such a message, or was until lately."""
        store = await self._stores.find(queue)
        return bool(await store.committer.submit(store.scripts.delete(queue, number)))

    async def reschedule(
        self,
        queue: str,
        number: int,
        *,
        delay_seconds: float | None = None,
        at: float | None = None,
    ) -> None:
        """Change when a delayed message becomes ready. Raises ``NotFound``, ``Conflict``."""
        options: dict[str, object] = {}
        due_seconds = self._note_delay(options, delay_seconds, at)
        store = await self._stores.find(queue)
        store.queues.note_due(queue, due_seconds)
        (what, value), *_ = options.items()
        await self._move(store, queue, number, what, value)

    async def set_priority(self, queue: str, number: int, priority: int) -> None:
        """Change how urgent a waiting message is, 0 to 9. Raises ``NotFound``, ``Conflict``."""
        _check("priority", priority, 0, 9)
        await self._move(await self._stores.find(queue), queue, number, "priority", priority)

    async def _move(self, store: Store, queue: str, number: int, what: str, value: object) -> None:
        call = store.scripts.move(queue, number, what, value)  # type: ignore[arg-type]
        state, is_changed = await store.committer.submit(call)
        if not state:
            raise NotFound(f"there is no message {number} in {queue!r}")
        if not is_changed:
            raise Conflict(f"the message is {state.decode()}, so its {what} cannot be changed")

    # Whole queues

    async def purge(self, queue: str) -> bool:
        """End the queue's streams on all nodes and empty it; returns whether it held anything.

        Dead letters stay; ``dead_letters`` can drop them.
        """
        store = await self._stores.find(queue)
        return bool(await store.committer.submit(store.scripts.purge(queue)))

    async def set_policy(self, queue: str, policy: Policy) -> None:
        """Set how streaming consumers share the queue, from the next message on."""
        await self._set_field(queue, "policy", int(policy))

    async def set_started(self, queue: str, started: bool) -> None:
        """Pause (False) or resume (True) delivery to streams; nothing else is affected."""
        await self._set_field(queue, "status", int(started))

    async def _set_field(self, queue: str, field: str, value: int) -> None:
        store = await self._stores.find(queue)
        await store.committer.submit(store.scripts.set_fields(queue, {field: str(value)}))

    async def stats(self, queue: str) -> QueueStats:
        """Return what the queue looks like; an unknown queue is empty and started."""
        return (await self._stats([queue]))[0]

    async def list_stats(self, after: str = "", limit: int = PAGE) -> list[QueueStats]:
        """Return a page of ``stats`` of known queues, by name, from the first after ``after``."""
        return await self._stats(await self.list_queues(after, limit))

    async def list_queues(self, after: str = "", limit: int = PAGE) -> list[str]:
        """Return up to ``limit`` names of known queues, in byte order, after ``after``."""
        start = f"({check_queue_name(after)}" if after else "-"
        names = await self._disk.committer.submit(
            command("ZRANGEBYLEX", REGISTRY, start, "+", "LIMIT", 0, limit)
        )
        return [name.decode() for name in names]

    async def count_queues(self) -> int:
        """Return how many queues are known."""
        count: int = await self._disk.committer.submit(command("ZCARD", REGISTRY))
        return count

    async def _stats(self, queues: Sequence[str]) -> list[QueueStats]:
        stores = await asyncio.gather(*(self._stores.find(queue) for queue in queues))
        replies = await asyncio.gather(
            *(
                store.committer.submit(store.scripts.stats(queue))
                for queue, store in zip(queues, stores, strict=True)
            )
        )
        return [read_stats(queue, reply) for queue, reply in zip(queues, replies, strict=True)]

    # Streams

    async def join(self, queue: str, consumer: Consumer) -> None:
        """Count a streaming consumer in, before its first bytes are sent.

        Raises ``Unavailable`` when Redis does not answer.
        """
        store = await self._stores.find(queue)
        await store.dispatcher.join(queue, consumer)

    def read_missed(self, queue: str, consumer: Consumer, after: int) -> AsyncIterator[Missed]:
        """Yield what a consumer that joined has missed since message ``after``.

        Write what comes, and ``begin`` right after the end of the iteration.
        """
        return self._stores.located(queue).dispatcher.read_missed(queue, consumer, after)

    def begin(self, queue: str, consumer: Consumer) -> None:
        """Start handing messages to a consumer that has joined."""
        self._stores.located(queue).dispatcher.begin(queue, consumer)

    async def leave(self, queue: str, consumer: Consumer) -> None:
        """Count a consumer out; what it was handed but did not get goes back to the queue."""
        await self._stores.located(queue).dispatcher.leave(queue, consumer)

    async def join_leased(
        self, queue: str, consumer: Consumer, prefetch: int, lease_seconds: float | None = None
    ) -> None:
        """Count in a consumer that holds up to ``prefetch`` messages (1 to 1,000) at a time."""
        _check("prefetch", prefetch, 1, 1000)
        if lease_seconds is not None:
            _check("lease", lease_seconds, 1, MAX_LEASE_SECONDS)
        store = await self._stores.find(queue)
        await store.leased.join(queue, consumer, prefetch, lease_seconds)

    def begin_leased(self, queue: str, consumer: Consumer) -> None:
        """Start handing messages to a leased consumer that has joined."""
        self._stores.located(queue).leased.begin(queue, consumer)

    async def leave_leased(self, queue: str, consumer: Consumer) -> None:
        """Count a leased consumer out; what it holds goes back at once."""
        await self._stores.located(queue).leased.leave(queue, consumer)

    def end_streams(self, reason: End) -> None:
        """End every stream of this node."""
        for store in self._stores.all():
            store.dispatcher.end_all(reason)
            store.leased.end_all(reason)


def _check(name: str, value: float, minimum: float, maximum: float) -> None:
    if not minimum <= value <= maximum:
        raise InvalidInput(f"{name} must be a number from {minimum} to {maximum}")
