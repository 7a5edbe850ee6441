"""What this node listens for: queues for which callers wait, or leased streams are open.

Redis knows of it for as long as the node calls in time; so whatever makes a message ready wakes
this node, and what the streams of a dead node held is noticed by the others.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from restmq.broker.commit import Committer
from restmq.broker.schedule import QUEUE, Schedule
from restmq.broker.scripts import Scripts
from restmq.errors import RestMQError

logger = logging.getLogger(__name__)

LIFETIME_SECONDS = 12.0
"""A node that has not called for so long counts as dead: with a visit this stays below 15 s."""

_SLICE = 200

Callback = Callable[[], None]
Found = TypeVar("Found")


class _Interest:
    __slots__ = ("epoch", "owners")

    def __init__(self) -> None:
        self.owners: dict[Hashable, tuple[Callback, int]] = {}
        """Who wants to be called, and for how many leased consumers it stands."""
        self.epoch = 0

    @property
    def consumers(self) -> int:
        """Return how many consumers of leased streams are here."""
        return sum(consumers for _, consumers in self.owners.values())


class Listeners:
    """Who on this node wants to know when messages become ready in which queue."""

    def __init__(self, committer: Committer, scripts: Scripts, schedule: Schedule) -> None:
        self._committer = committer
        self._scripts = scripts
        self._schedule = schedule
        self._interests: dict[str, _Interest] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start telling Redis that this node lives."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._stay_alive(), name="listeners-heartbeat")

    async def close(self) -> None:
        """Stop; what is still listened for is forgotten by Redis at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        queues, self._interests = list(self._interests), {}
        calls = [self._committer.submit(self._scripts.listen(name, 0, None)) for name in queues]
        await asyncio.gather(*calls, return_exceptions=True)

    async def listen(
        self, queue: str, owner: Hashable, callback: Callback, consumers: int = 0
    ) -> int:
        """Have ``callback`` called, once or more, whenever messages may have become ready.

        ``consumers``: how many leased consumers ``owner`` stands for; it may say so again when
        there are more. Returns the queue's epoch, when Redis knows that this node listens.
        Raises ``Unavailable`` when Redis does not answer; then nobody is called.
        """
        interest = self._interests.get(queue)
        is_known = interest is not None and bool(interest.owners)
        if interest is None:
            interest = self._interests[queue] = _Interest()
        before = interest.owners.get(owner)
        interest.owners[owner] = (callback, consumers)
        if is_known and not consumers:
            return interest.epoch
        try:
            return await self._tell(queue, interest)
        except BaseException:
            if before is None:
                interest.owners.pop(owner, None)
            else:
                interest.owners[owner] = before
            raise

    def forget(self, queue: str, owner: Hashable) -> None:
        """Call the owner no more. Redis hears of it by and by: a wake-up too many is cheap."""
        interest = self._interests.get(queue)
        if interest is not None:
            interest.owners.pop(owner, None)

    async def forget_now(self, queue: str) -> None:
        """Tell Redis how many consumers are left here, or that nobody listens any more.

        Raises ``Unavailable``; then the heartbeat says it again.
        """
        interest = self._interests.get(queue)
        if interest is not None:
            await self._call_again(queue, interest)

    async def wait_for(
        self, queue: str, attempt: Callable[[], Awaitable[list[Found]]], wait_seconds: float
    ) -> list[Found]:
        """Return what ``attempt`` finds, as soon as it finds something; empty after the wait."""
        found = await attempt()
        if found:
            return found
        changed = asyncio.Event()
        try:
            async with asyncio.timeout(wait_seconds):
                await self.listen(queue, changed, changed.set)
                while True:
                    changed.clear()
                    found = await attempt()
                    if found:
                        return found
                    await changed.wait()
        except TimeoutError:
            return []
        finally:
            self.forget(queue, changed)

    def has(self, queue: str) -> bool:
        """Return whether anyone here listens for this queue."""
        interest = self._interests.get(queue)
        return interest is not None and bool(interest.owners)

    def wake(self, queue: str) -> None:
        """Call those who wait for this queue."""
        interest = self._interests.get(queue)
        if interest is not None:
            for callback, _ in list(interest.owners.values()):
                callback()

    def wake_all(self) -> None:
        """Call everyone, because wake-ups may have been missed."""
        for queue in list(self._interests):
            self.wake(queue)

    async def epoch(self, queue: str) -> int:
        """Ask how often the queue was purged; 0 if nobody here listens for it."""
        interest = self._interests.get(queue)
        return 0 if interest is None else await self._tell(queue, interest)

    async def _tell(self, queue: str, interest: _Interest) -> int:
        if interest.consumers:
            self._schedule.note(QUEUE, queue, LIFETIME_SECONDS)
        call = self._scripts.listen(queue, interest.consumers, LIFETIME_SECONDS)
        interest.epoch = await self._committer.submit(call)
        return interest.epoch

    async def _stay_alive(self) -> None:
        while True:
            await asyncio.sleep(LIFETIME_SECONDS / 3)
            for index, (queue, interest) in enumerate(list(self._interests.items()), start=1):
                try:
                    await self._call_again(queue, interest)
                except RestMQError as error:
                    logger.debug("cannot tell Redis who listens for %r: %s", queue, error)
                if index % _SLICE == 0:
                    await asyncio.sleep(0)

    async def _call_again(self, queue: str, interest: _Interest) -> None:
        if interest.owners:
            before = interest.epoch
            if await self._tell(queue, interest) != before:
                self.wake(queue)
        elif self._interests.get(queue) is interest:
            del self._interests[queue]
            await self._committer.submit(self._scripts.listen(queue, 0, None))
