"""One Redis, and the parts of this node that work on its queues.

A node has one store for queues on disk, and a second one when some queue lives in memory only;
which queue lives where is ``broker.py``'s business.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from restmq.broker.backend import open_backend
from restmq.broker.commit import Committer
from restmq.broker.copies import Copier, StoreCopy
from restmq.broker.dispatch import Dispatcher
from restmq.broker.groups import Added
from restmq.broker.keepalive import KeepAlive
from restmq.broker.keys import DUE_CHANNEL, NODE_CHANNEL
from restmq.broker.leased import LeasedStreams
from restmq.broker.listeners import Listeners
from restmq.broker.queues import Queues
from restmq.broker.schedule import QUEUE, Schedule
from restmq.broker.scripts import Operation, Script, Scripts
from restmq.broker.streams import StreamLimits
from restmq.broker.wakeups import Wakeups

logger = logging.getLogger(__name__)

CONNECT_PATIENCE_SECONDS = 2.0
"""How long opening waits for Redis, which need not be there yet."""

Overrides = Callable[[str], Mapping[str, Any]]


class LeaseKeeper(Protocol):
    """What holds leased messages for consumers of this node."""

    def note_over(self, queue: str, deliveries: Sequence[tuple[int, str]]) -> None:
        """Take note that deliveries, by number and token, are over, be it settled here or not."""

    def look_anew(self) -> None:
        """Ask what is still held here, because word of settlements may have been missed."""

    def catch_up(self) -> None:
        """Say and ask again what did not get through to Redis."""


class Store:
    """The engine over one Redis."""

    def __init__(
        self,
        redis_url: str,
        node: str,
        limits: StreamLimits,
        overrides: Overrides | None,
        store_copy: StoreCopy,
        further_scripts: Sequence[Script] = (),
    ) -> None:
        self.scripts = Scripts(node, overrides)
        self.backend = open_backend(redis_url, [*self.scripts.all(), *further_scripts])
        self.committer = Committer(self.backend)
        self.schedule = Schedule(self.committer, self.scripts)
        self.copier = Copier(self.committer, self.scripts, self.schedule, store_copy)
        self.queues = Queues(self.committer, self.scripts, self.schedule, self.copier)
        self.keep_alive = KeepAlive(limits.ping_seconds)
        self.dispatcher = Dispatcher(
            self.committer, self.queues, self.scripts, limits, self.keep_alive
        )
        self.listeners = Listeners(self.committer, self.scripts, self.schedule)
        self.leased = LeasedStreams(self.queues, self.listeners, self.keep_alive)
        self.keepers: list[LeaseKeeper] = [self.leased]
        self.queues.on_over = self._tell_over
        self.listeners.on_contact = self._catch_up
        self.schedule.on_due(QUEUE, self._visit)
        channel = NODE_CHANNEL + node
        handlers = {
            channel: self._wake,
            f"{channel}:settled": self._note_settled,
            DUE_CHANNEL: lambda _: self.schedule.look(),
        }
        self.wakeups = Wakeups(self.backend, handlers, self._look_at_all)
        self.on_reconnect: Callable[[], None] | None = None
        """Called when Redis is in reach again; it may have lost what it kept in memory only."""

    async def open(self) -> None:
        """Start the node's own work. Redis need not be there yet."""
        self.committer.start()
        self.keep_alive.start()
        self.dispatcher.start()
        self.listeners.start()
        self.schedule.start()
        self.wakeups.start()
        await self.wakeups.wait_until_connected(timeout_seconds=CONNECT_PATIENCE_SECONDS)

    async def close(self, patience_seconds: float) -> None:
        """Return what consumers held, finish what was begun, and leave Redis.

        A Redis that does not answer is left after ``patience_seconds``; what consumers of this
        node held comes back when the other nodes count it as dead.
        """
        try:
            async with asyncio.timeout(patience_seconds):
                await self.wakeups.close()
                await self.schedule.close()
                await self.copier.close()
                await self.keep_alive.close()
                await self.leased.close()
                await self.listeners.close()
                await self.dispatcher.close()
                await self.committer.close()
        except TimeoutError:
            logger.error("Redis does not answer; leaving without it")
            await self.committer.abort()
        await self.backend.close()

    def add(
        self,
        queue: str,
        operation: Operation,
        size_bytes: int,
        due_seconds: float | None = None,
        expiry_seconds: float | None = None,
    ) -> asyncio.Future[Added]:
        """Add messages, as ``Queues.add``, and hand them to the consumers of this node."""
        self.copier.expect(queue)
        # They get them in the same round trip, without a detour over Redis.
        wakes_itself = self.dispatcher.has_consumers(queue) and not self.listeners.has(queue)
        added = self.queues.add(
            queue, operation, size_bytes, due_seconds, expiry_seconds, wakes_itself
        )
        if wakes_itself:
            self.dispatcher.wake(queue)
        return added

    def _wake(self, queue: str) -> None:
        self.dispatcher.wake(queue)
        self.listeners.wake(queue)

    def _note_settled(self, payload: str) -> None:
        number, token, queue = payload.split(":", 2)
        self._tell_over(queue, [(int(number), token)])

    def _tell_over(self, queue: str, deliveries: Sequence[tuple[int, str]]) -> None:
        for keeper in self.keepers:
            keeper.note_over(queue, deliveries)

    def _catch_up(self) -> None:
        for keeper in self.keepers:
            keeper.catch_up()

    def _look_at_all(self) -> None:
        """Look at everything, because wake-ups may have been missed."""
        if self.on_reconnect is not None:
            self.on_reconnect()
        # Before anything is visited, or this node might count as dead: it could not call.
        self.listeners.announce_all()
        for keeper in self.keepers:
            keeper.look_anew()
        self.schedule.look_anew()
        self.dispatcher.wake_all()
        self.listeners.wake_all()

    async def _visit(self, queue: str) -> float | None:
        """Clear what is due in a queue; the schedule calls this."""
        has_more = True
        while has_more:
            call = self.scripts.visit(queue, self.listeners.unsure_seconds)
            due, has_copies, has_more = await self.committer.submit(call, is_admitted=True)
        if has_copies:
            self.copier.start(queue)
        return float(due) if due else None
