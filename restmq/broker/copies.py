"""Fan-out queues: carries every message of a queue to the queues that copy it.

A message and its copies are published in different queues, which no script can do at once. So
add.lua puts a note of each message into the queue's own list of copies, together with the
message; this module carries them on, under an idempotency key each, and crosses them out when
they have arrived. Whatever dies in between, some node goes on, and none arrives twice.

Copies are not copied again, and are stored even where the queue is full, because the publisher
has been promised them.
"""

import asyncio
import logging
import math
import struct
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from restmq.broker.commit import Committer
from restmq.broker.schedule import QUEUE, Schedule
from restmq.broker.scripts import Scripts
from restmq.errors import RestMQError, StoreUnavailable

logger = logging.getLogger(__name__)

MAX_CARRIED = 100
MAX_CARRIED_BYTES = 4 * 1024 * 1024
RETRY_SECONDS = 5.0
"""When another node looks, should this one not finish."""

_MAX_EXPECTED = 10_000
_ENTRY = struct.Struct(">dddd")
_decode = msgspec.msgpack.Decoder(list[str]).decode


class Copy(NamedTuple):
    """A message on its way."""

    number: int
    published_microseconds: int
    """Tells it from one of the same number that was published before Redis lost the queue."""
    expires: float
    """Absolute; 0 for never."""
    ready_at: float
    """Absolute; 0 for at once."""
    packed: bytes


StoreCopy = Callable[[str, Copy, str], Awaitable[None]]
"""Adds a copy to a queue, under an idempotency key."""


class _Way:
    """The copies of one queue that are being carried, and who waits for them."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.waiting: list[tuple[int, asyncio.Future[None]]] = []

    def arrived_before(self, number: float) -> None:
        """Tell those whose copies have all arrived."""
        rest = []
        for waited_for, future in self.waiting:
            if waited_for >= number:
                rest.append((waited_for, future))
            elif not future.done():
                future.set_result(None)
        self.waiting = rest

    def lost_after(self, number: int) -> None:
        """Tell those who wait for later messages that Redis has lost them, copies and all."""
        rest = []
        for waited_for, future in self.waiting:
            if waited_for <= number:
                rest.append((waited_for, future))
            elif not future.done():
                future.set_exception(StoreUnavailable("Redis lost the queue and its copies"))
        self.waiting = rest

    def fail(self, error: RestMQError) -> None:
        """Tell those who still wait that nothing more arrives now."""
        for _, future in self.waiting:
            if not future.done():
                future.set_exception(error)
        self.waiting = []


class Copier:
    """Carries copies, one queue at a time each."""

    def __init__(
        self, committer: Committer, scripts: Scripts, schedule: Schedule, store: StoreCopy
    ) -> None:
        self._committer = committer
        self._scripts = scripts
        self._schedule = schedule
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._ways: dict[str, _Way] = {}
        self._expected: set[str] = set()

    def expect(self, queue: str) -> None:
        """Have copies carried that the next add may make, even if this node dies right after."""
        if queue in self._expected:
            self._schedule.note(QUEUE, queue, RETRY_SECONDS, RETRY_SECONDS)

    def carry(self, queue: str, number: int) -> asyncio.Future[None]:
        """Carry copies; the future is done when those of all messages up to this one arrived.

        It raises ``Unavailable`` when Redis does not answer; they are carried later then.
        """
        if len(self._expected) >= _MAX_EXPECTED:
            self._expected.clear()
        self._expected.add(queue)
        way = self.start(queue)
        future: asyncio.Future[None] = self._loop.create_future()
        way.waiting.append((number, future))
        return future

    def start(self, queue: str) -> _Way:
        """See to it that the queue's copies are being carried."""
        way = self._ways.get(queue)
        if way is None:
            self._schedule.note(QUEUE, queue, RETRY_SECONDS)
            way = _Way(self._loop.create_task(self._run(queue), name=f"copies of {queue}"))
            self._ways[queue] = way
        return way

    async def close(self) -> None:
        """Stop; what is not carried yet, another node carries."""
        ways = list(self._ways.values())
        for way in ways:
            way.task.cancel()
        await asyncio.gather(*(way.task for way in ways), return_exceptions=True)

    async def _run(self, queue: str) -> None:
        error: RestMQError = StoreUnavailable("the server is stopping")
        try:
            while await self._carry_page(queue):
                pass
        except RestMQError as failure:
            error = failure
            logger.warning("copies of %r wait: %s", queue, failure)
        finally:
            self._ways.pop(queue).fail(error)

    async def _carry_page(self, queue: str) -> bool:
        """Carry what waits; returns whether anything did, or anyone came to wait meanwhile."""
        arrived: list[int] = []
        while True:
            call = self._scripts.copies(queue, MAX_CARRIED, MAX_CARRIED_BYTES, arrived)
            waiting_before = len(self._ways[queue].waiting)
            targets, last_number, *entries = await self._committer.submit(call, is_admitted=True)
            copies = [_read_copy(entry) for entry in entries]
            way = self._ways[queue]
            newcomers = way.waiting[waiting_before:]
            del way.waiting[waiting_before:]
            way.lost_after(last_number)
            if not copies:
                way.arrived_before(math.inf)
                way.waiting = newcomers
                return bool(newcomers)
            way.arrived_before(copies[0].number)
            way.waiting += newcomers
            for name in _decode(targets):
                if name != queue:
                    stores = [self._store(name, copy, _copy_id(queue, copy)) for copy in copies]
                    await asyncio.gather(*stores)
            arrived = [word for copy in copies for word in copy[:2]]


def _copy_id(queue: str, copy: Copy) -> str:
    return f"copy {queue}:{copy.number}:{copy.published_microseconds}"


def _read_copy(entry: bytes) -> Copy:
    number, published, expires, ready_at = _ENTRY.unpack_from(entry)
    return Copy(int(number), int(published), expires, ready_at, entry[_ENTRY.size :])
