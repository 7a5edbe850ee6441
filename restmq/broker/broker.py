"""The facade that endpoints hold: queues in the field's own words, and no protocol.

Values are bytes, stored and returned verbatim. Every method may raise ``Unavailable`` (Redis out
of reach, or too much waiting for it), and ``InvalidInput`` for what cannot be a queue's name; a
method that changes something has done so, fsynced as Redis is set up to, when it returns.

Queues live on disk, or in a second Redis that keeps nothing; the facade finds the right one.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from restmq import __version__
from restmq.broker.census import Census
from restmq.broker.census_scripts import CensusScripts
from restmq.broker.commit import MAX_BATCH_BYTES
from restmq.broker.configuration import Configuration
from restmq.broker.consumers import Consumer, End
from restmq.broker.cursors import Cursors
from restmq.broker.dead_letters import DeadLetters
from restmq.broker.keys import REGISTRY, check_queue_name
from restmq.broker.limits import (
    MAX_LEASE_SECONDS,
    MAX_PREFETCH,
    MAX_TTL_SECONDS,
    check_number,
)
from restmq.broker.log import Logs
from restmq.broker.log_follow import LogWatcher
from restmq.broker.log_scripts import LogScripts
from restmq.broker.measures import Measures
from restmq.broker.message import Message
from restmq.broker.nodes import Nodes
from restmq.broker.presence import Presences
from restmq.broker.publishing import Publishing, note_delay
from restmq.broker.redis_state import RedisStates
from restmq.broker.resume import Missed
from restmq.broker.scripts import command
from restmq.broker.stats import MessageState, Policy, QueueStats, read_state, read_stats
from restmq.broker.store import Overrides, Store
from restmq.broker.stores import Stores
from restmq.broker.streams import StreamLimits
from restmq.broker.taking import Taking
from restmq.errors import Conflict, NotFound, Unavailable

PAGE = 1000
"""Queues that one round trip lists."""

CLOSE_SECONDS = 5.0
"""How long closing a broker waits for Redis."""

__all__ = ["MAX_TTL_SECONDS", "Broker", "Policy", "QueueStats"]


class Broker(Publishing, Taking):
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

        self.measures = Measures()
        """What this node has done."""

        log_scripts = LogScripts()
        self.census_scripts = CensusScripts(self.node)
        scripts = [*log_scripts.all(), *self.census_scripts.all()]

        def make_store(url: str) -> Store:
            chosen = limits or StreamLimits()
            store = Store(url, self.node, chosen, overrides, self._store_copy, scripts)
            store.committer.measures = self.measures
            store.leased.on_cut_off = self._count_cut_off
            return store

        self._stores = Stores(make_store, redis_url, overrides, memory_redis_url)
        self._disk = self._stores.disk
        self.scripts = self._disk.scripts
        self.configuration = Configuration(self._stores)
        """The settings of queues."""
        self.dead_letters = DeadLetters(self._stores)
        self.consumer_counts: list[Callable[[], int]] = []
        """Each returns how many more consumers there are here, for whoever serves them."""
        self.on_reconnect: list[Callable[[], None]] = []
        """Called when Redis is in reach, or in reach again; it may have lost what it held."""
        self._disk.on_reconnect = self._tell_reconnect
        self.presences = Presences(self._stores, self.census_scripts)
        self.redis_states = RedisStates(self._stores)
        self.logs = Logs(self._disk.committer, log_scripts, self._disk.schedule)
        self.cursors = Cursors(self._disk.committer, log_scripts, self.logs)
        self.log_watcher = LogWatcher(self._disk.backend)
        committer = self._disk.committer
        self._nodes = Nodes(
            committer,
            self.census_scripts,
            self.node,
            __version__,
            self.count_readers,
            self.measures.note_clock,
        )
        self.census = Census(self._stores, self.census_scripts, self._nodes, committer.take_active)
        """What all queues look like together, and which nodes live."""

    async def open(self) -> None:
        """Start the node's own work. Redis need not be there yet."""
        await self._stores.open()
        self.log_watcher.start()
        self._nodes.start()

    async def close(self, patience_seconds: float = CLOSE_SECONDS) -> None:
        """Return what consumers held, finish what was begun, and leave Redis.

        A Redis that does not answer is left after ``patience_seconds``; what consumers of this
        node held comes back when the other nodes count it as dead.
        """
        await self.log_watcher.close()
        await self.census.close()
        await self._nodes.close()
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
        streaming = sum(s.dispatcher.consumer_count + s.leased.consumer_count for s in stores)
        return streaming + sum(count() for count in self.consumer_counts)

    def _tell_reconnect(self) -> None:
        for callback in self.on_reconnect:
            callback()

    def count_readers(self) -> tuple[int, int]:
        """Return how many streaming consumers are here, and how many requests wait."""
        waiting = sum(store.listeners.waiting_count for store in self._stores.all())
        return self.consumer_count, waiting

    @property
    def pending_operations(self) -> int:
        """Return how many operations of this node wait for Redis."""
        return sum(store.committer.pending_operations for store in self._stores.all())

    def _count_cut_off(self) -> None:
        self.measures.cut_off_consumers += 1

    async def ping(self) -> None:
        """Return if Redis answers and takes part; raises ``Unavailable`` if not."""
        await self._disk.committer.submit(command("PING"))

    # Single messages

    async def get(self, queue: str) -> tuple[Message, int] | None:
        """Look at the next message and count the look; returns both, or None when empty."""
        store = await self._stores.find(queue)
        reply = await store.committer.submit(store.scripts.get(queue))
        return (Message(reply[0], reply[1]), reply[2]) if reply else None

    async def peek(
        self, queue: str, count: int, *, newest: bool = False, max_bytes: int = MAX_BATCH_BYTES
    ) -> list[Message]:
        """List ready messages from the next (or the last) on, without taking them.

        The list ends with the one that passes ``max_bytes``.
        """
        store = await self._stores.find(queue)
        call = store.scripts.peek(queue, count, newest, max_bytes)
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
        due_seconds = note_delay(options, delay_seconds, at)
        store = await self._stores.find(queue)
        store.queues.note_due(queue, due_seconds)
        (what, value), *_ = options.items()
        await self._move(store, queue, number, what, value)

    async def set_priority(self, queue: str, number: int, priority: int) -> None:
        """Change how urgent a waiting message is, 0 to 9. Raises ``NotFound``, ``Conflict``."""
        check_number("priority", priority, 0, 9)
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
        await self.configuration.set_field(queue, field, value)

    async def stats(self, queue: str) -> QueueStats:
        """Return what the queue looks like; an unknown queue is empty and started."""
        return await self._stats(await self._stores.find(queue), queue)

    async def list_stats(self, after: str = "", limit: int = PAGE) -> list[QueueStats]:
        """Return a page of ``stats`` of known queues, by name, from the first after ``after``.

        Queues in memory count as empty while this node has not used their Redis yet, or cannot
        reach it; their policy and status are right all the same.
        """
        return await self.stats_of(await self.list_queues(after, limit))

    async def stats_of(self, queues: Iterable[str]) -> list[QueueStats]:
        """Return the ``stats`` of several queues, in one round trip; as ``list_stats`` does."""
        return list(await asyncio.gather(*(self._stats_if_possible(queue) for queue in queues)))

    async def list_queues(
        self, after: str = "", limit: int = PAGE, *, beginning: str = ""
    ) -> list[str]:
        """Return up to ``limit`` names of known queues, in byte order, after ``after``.

        Only those that begin with ``beginning`` are looked at.
        """
        start = f"({check_queue_name(after)}" if after else "-"
        if beginning > after:
            start = f"[{beginning}"
        end = b"(%b\xff" % beginning.encode() if beginning else b"+"  # no UTF-8 has that byte
        names = await self._disk.committer.submit(
            command("ZRANGEBYLEX", REGISTRY, start, end, "LIMIT", 0, limit)
        )
        return [name.decode() for name in names]

    async def count_queues(self) -> int:
        """Return how many queues are known."""
        count: int = await self._disk.committer.submit(command("ZCARD", REGISTRY))
        return count

    async def _stats(self, store: Store, queue: str) -> QueueStats:
        return read_stats(queue, await store.committer.submit(store.scripts.stats(queue)))

    async def _stats_if_possible(self, queue: str) -> QueueStats:
        try:
            return await self._stats(await self._stores.find_opened(queue), queue)
        except Unavailable:
            # The disk, where settings are kept, stands for memory; without it nothing can be said.
            return await self._stats(self._disk, queue)

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
        check_number("prefetch", prefetch, 1, MAX_PREFETCH)
        if lease_seconds is not None:
            check_number("lease", lease_seconds, 1, MAX_LEASE_SECONDS)
        store = await self._stores.find(queue)
        await store.leased.join(queue, consumer, prefetch, lease_seconds)

    def begin_leased(self, queue: str, consumer: Consumer) -> None:
        """Start handing messages to a leased consumer that has joined."""
        self._stores.located(queue).leased.begin(queue, consumer)

    async def leave_leased(self, queue: str, consumer: Consumer) -> None:
        """Count a leased consumer out; what it holds goes back at once."""
        await self._stores.located(queue).leased.leave(queue, consumer)

    def end_streams(self, reason: End) -> None:
        """End every stream of this node, and all that waits here for messages."""
        for store in self._stores.all():
            store.dispatcher.end_all(reason)
            store.leased.end_all(reason)
            store.listeners.end_waits()
