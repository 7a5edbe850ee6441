"""What this node listens for: queues for which callers wait, or leased streams are open.

Redis knows of it for as long as the node calls in time; so whatever makes a message ready wakes
this node, and what the streams of a dead node held is noticed by the others. While Redis is out of
reach nobody can call, so only a node that has heard from it for a whole lifetime without a break
may count others as dead.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from restmq.broker.commit import Committer
from restmq.broker.schedule import QUEUE, Schedule
from restmq.broker.scripts import Reply, Scripts, command
from restmq.errors import RestMQError

logger = logging.getLogger(__name__)

LIFETIME_SECONDS = 12.0
"""A node that has not called for so long counts as dead: with a visit this stays below 15 s."""

_SLICE = 200

Callback = Callable[[], None]
Found = TypeVar("Found")


class _Contact:
    """Since when this node has heard from Redis without a break."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._since = self._last = -math.inf

    def heard(self) -> None:
        """Take note that Redis has answered a heartbeat."""
        now = self._loop.time()
        if self._is_broken(now):
            self._since = now
        self._last = now

    def lost(self) -> None:
        """Take note that Redis is, or was, out of reach."""
        self._last = -math.inf

    def seconds_until(self, age_seconds: float) -> float:
        """Return in how many seconds the contact will be so old, if it stays; 0 if it is."""
        now = self._loop.time()
        since = now if self._is_broken(now) else self._since
        return max(since + age_seconds - now, 0.0)

    def _is_broken(self, now: float) -> bool:
        # A Redis that hangs breaks no connection, but then one heartbeat or more stays unanswered.
        return now - self._last > LIFETIME_SECONDS / 2


class _Interest:
    __slots__ = ("epoch", "is_told", "owners", "telling")

    def __init__(self) -> None:
        self.owners: dict[Hashable, tuple[Callback, int]] = {}
        """Who wants to be called, and for how many leased consumers it stands."""
        self.epoch = 0
        self.is_told = False
        """Whether Redis knows that this node listens, as far as this node knows."""
        self.telling: asyncio.Future[Reply] | None = None
        """The last call that says so, while it is under way."""

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
        self.waiting_count = 0
        """How many owners wait for messages that stand for no leased consumer."""
        self._contact = _Contact()
        self._signal = asyncio.Event()
        self.on_contact: Callable[[], None] = lambda: None
        """Called when Redis has answered a heartbeat."""
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Start telling Redis that this node lives."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._stay_alive(), name="listeners-heartbeat")

    @property
    def unsure_seconds(self) -> float:
        """Return for how long this node must not count others as dead yet; 0 if it may."""
        return self._contact.seconds_until(LIFETIME_SECONDS)

    async def close(self) -> None:
        """Stop; what is still listened for is forgotten by Redis at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        interests, self._interests = self._interests, {}
        for interest in interests.values():
            for owner in list(interest.owners):
                self._set_owner(interest, owner, None)
        calls = [self._committer.submit(self._scripts.listen(name, 0, None)) for name in interests]
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
        mine = (callback, consumers)
        self._set_owner(interest, owner, mine)
        try:
            if consumers or not is_known:
                return await self._tell(queue, interest)
            if interest.telling is not None:  # it fails for this one as well, if it does
                await asyncio.shield(interest.telling)
            elif not interest.is_told:
                await self._tell(queue, interest)
            return interest.epoch
        except BaseException:
            # Unless the owner has said something else meanwhile.
            if interest.owners.get(owner) is mine:
                if before is not None:
                    before = (before[0], min(before[1], consumers))
                self._set_owner(interest, owner, before)
            raise

    def _set_owner(
        self, interest: _Interest, owner: Hashable, entry: tuple[Callback, int] | None
    ) -> None:
        """Write down what an owner wants, or with None that it wants nothing any more."""
        before = interest.owners.pop(owner, None) if entry is None else interest.owners.get(owner)
        if before is not None and not before[1]:
            self.waiting_count -= 1
        if entry is not None:
            interest.owners[owner] = entry
            self.waiting_count += not entry[1]

    def recount(self, queue: str, owner: Hashable, consumers: int) -> None:
        """Take note of how many consumers an owner stands for; the heartbeat says so."""
        interest = self._interests.get(queue)
        if interest is not None and owner in interest.owners:
            self._set_owner(interest, owner, (interest.owners[owner][0], consumers))

    def forget(self, queue: str, owner: Hashable) -> None:
        """Call the owner no more. Redis hears of it by and by: a wake-up too many is cheap."""
        interest = self._interests.get(queue)
        if interest is not None:
            self._set_owner(interest, owner, None)

    async def forget_now(self, queue: str) -> None:
        """Tell Redis how many consumers are left here, or that nobody listens any more.

        Raises ``Unavailable``; then the heartbeat says it again.
        """
        interest = self._interests.get(queue)
        if interest is not None:
            await self._update(queue, interest)

    async def wait_for(
        self, queue: str, attempt: Callable[[], Awaitable[list[Found]]], wait_seconds: float
    ) -> list[Found]:
        """Return what ``attempt`` finds, as soon as it finds something; empty after the wait.

        Also empty when the node stops meanwhile.
        """
        found = await attempt()
        if found or self._is_stopping:
            return found
        changed = asyncio.Event()
        try:
            async with asyncio.timeout(wait_seconds):
                await self.listen(queue, changed, changed.set)
                while True:
                    changed.clear()
                    found = await attempt()
                    if found or self._is_stopping:
                        return found
                    await changed.wait()
        except TimeoutError:
            return []
        finally:
            self.forget(queue, changed)

    def end_waits(self) -> None:
        """Let all that wait go with empty hands, because the node stops."""
        self._is_stopping = True
        self.wake_all()

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

    def announce_all(self) -> None:
        """Say at once who listens: Redis is in reach again, and may count this node as dead.

        The calls go out with, and before, whatever is submitted next.
        """
        self._contact.lost()
        for queue, interest in list(self._interests.items()):
            if interest.owners:
                self._begin_to_tell(queue, interest, is_admitted=True)
        self._signal.set()

    async def _tell(self, queue: str, interest: _Interest, is_admitted: bool = False) -> int:
        # Others may wait for the same call, so nobody may cancel it.
        await asyncio.shield(self._begin_to_tell(queue, interest, is_admitted))
        return interest.epoch

    def _begin_to_tell(
        self, queue: str, interest: _Interest, is_admitted: bool
    ) -> asyncio.Future[Reply]:
        if interest.consumers:
            self._schedule.note(QUEUE, queue, LIFETIME_SECONDS)
        call = self._scripts.listen(queue, interest.consumers, LIFETIME_SECONDS)
        telling = interest.telling = self._committer.submit(call, is_admitted=is_admitted)

        def note_outcome(told: asyncio.Future[Reply]) -> None:
            if interest.telling is told:
                interest.telling = None
            interest.is_told = not told.cancelled() and told.exception() is None
            if interest.is_told:
                interest.epoch = told.result()

        telling.add_done_callback(note_outcome)
        return telling

    async def _stay_alive(self) -> None:
        while True:
            self._signal.clear()
            beats = [self._beat()]
            for queue, interest in list(self._interests.items()):
                beats.append(self._call_again(queue, interest))
                if len(beats) == _SLICE:
                    await asyncio.gather(*beats)
                    beats = []
            await asyncio.gather(*beats)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LIFETIME_SECONDS / 3):
                    await self._signal.wait()

    async def _beat(self) -> None:
        """Ask for a sign of life, also when there is nobody to listen for."""
        try:
            await self._committer.submit(command("PING"), is_admitted=True)
        except RestMQError:
            self._contact.lost()
        else:
            self._contact.heard()
            self.on_contact()

    async def _call_again(self, queue: str, interest: _Interest) -> None:
        try:
            await self._update(queue, interest)
        except RestMQError as error:
            logger.debug("cannot tell Redis who listens for %r: %s", queue, error)

    async def _update(self, queue: str, interest: _Interest) -> None:
        """Say again who listens; raises ``Unavailable``."""
        if interest.owners:
            before, was_told = interest.epoch, interest.is_told
            if await self._tell(queue, interest, is_admitted=True) != before or not was_told:
                self.wake(queue)
        elif self._interests.get(queue) is interest:
            del self._interests[queue]
            await self._committer.submit(self._scripts.listen(queue, 0, None))
