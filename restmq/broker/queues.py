"""The operations on queues that many requests share: adds and takes, grouped by queue.

What arrives for one queue during a round trip becomes one call of one script.
"""

import asyncio
from collections.abc import Sequence

from restmq.broker.commit import MAX_BATCH_BYTES, Committer, Group
from restmq.broker.message import Message
from restmq.broker.scripts import POPPED, TAKEN, Call, Reply, Scripts
from restmq.errors import RestMQError


class _Adds(Group):
    """Adds to one queue. A publisher that went away meanwhile has its message stored anyway."""

    def __init__(self, scripts: Scripts, queue: str) -> None:
        self._scripts = scripts
        self._queue = queue
        self.wakes_itself = True
        self._messages: list[tuple[int | None, bytes]] = []
        self._futures: list[asyncio.Future[int]] = []

    def append(self, ttl_seconds: int | None, packed: bytes, future: asyncio.Future[int]) -> None:
        self._messages.append((ttl_seconds, packed))
        self._futures.append(future)

    def call(self, batch: str) -> Call:
        return self._scripts.add(self._queue, self._messages, self.wakes_itself)

    def settle(self, reply: Reply) -> None:
        number: int = reply
        for future in self._futures:
            if not future.done():
                future.set_result(number)
            number += 1

    def fail(self, error: RestMQError) -> None:
        for future in self._futures:
            if not future.done():
                future.set_exception(error)


class _Takes(Group):
    """Takes from one queue. What falls to a consumer that went away meanwhile is put back."""

    def __init__(self, queues: "Queues", scripts: Scripts, queue: str, remember: bool) -> None:
        self._queues = queues
        self._scripts = scripts
        self._queue = queue
        self._remember = remember
        self._flavour = POPPED if remember else TAKEN
        self._wanted: list[tuple[int, asyncio.Future[list[Message]]]] = []

    def append(self, count: int, future: asyncio.Future[list[Message]]) -> None:
        self._wanted.append((count, future))

    def call(self, batch: str) -> Call:
        total = sum(count for count, future in self._wanted if not future.done())
        return self._scripts.take(
            self._queue, self._flavour, batch, total, MAX_BATCH_BYTES, self._remember
        )

    def settle(self, reply: Reply) -> None:
        stopped_early = reply[-1] == 1
        messages = [Message(reply[at], reply[at + 1]) for at in range(0, len(reply) - 1, 2)]
        used = 0
        for count, future in self._wanted:
            share = messages[used : used + count]
            if future.done():
                continue
            if not share and stopped_early:
                self._queues.take_again(self._queue, count, self._remember, future)
                continue
            future.set_result(share)
            used += len(share)
        if used < len(messages):
            self._queues.give_back(self._queue, messages[used:])

    def fail(self, error: RestMQError) -> None:
        for _, future in self._wanted:
            if not future.done():
                future.set_exception(error)

    def undo(self, batch: str) -> Call | None:
        return self._scripts.restore_reply(self._queue, self._flavour, batch)


class Queues:
    """Adds to, takes from and gives back to queues."""

    def __init__(self, committer: Committer, scripts: Scripts) -> None:
        self._committer = committer
        self._scripts = scripts
        self._loop = asyncio.get_running_loop()
        self._restores = 0

    def add(
        self, queue: str, ttl_seconds: int | None, packed: bytes, wakes_itself: bool = False
    ) -> asyncio.Future[int]:
        """Append a message; the future gives its number once it is stored.

        ``wakes_itself``: the caller looks at the queue for its own consumers afterwards.
        """
        group = self._committer.group(queue, lambda: _Adds(self._scripts, queue), len(packed))
        future: asyncio.Future[int] = self._loop.create_future()
        group.append(ttl_seconds, packed, future)
        group.wakes_itself &= wakes_itself
        return future

    def take(self, queue: str, count: int, remember: bool) -> asyncio.Future[list[Message]]:
        """Take messages off the queue; the future gives up to ``count`` of them.

        If the future is cancelled before it is done, its share goes back to the queue.
        """
        future: asyncio.Future[list[Message]] = self._loop.create_future()
        self._put_take(queue, count, remember, future, is_admitted=False)
        return future

    def take_again(
        self, queue: str, count: int, remember: bool, future: asyncio.Future[list[Message]]
    ) -> None:
        """Put a take that got nothing for lack of room in the reply into the next round trip."""
        self._put_take(queue, count, remember, future, is_admitted=True)

    def _put_take(
        self,
        queue: str,
        count: int,
        remember: bool,
        future: asyncio.Future[list[Message]],
        is_admitted: bool,
    ) -> None:
        group = self._committer.group(
            (queue, remember),
            lambda: _Takes(self, self._scripts, queue, remember),
            is_admitted=is_admitted,
        )
        group.append(count, future)

    def give_back(self, queue: str, messages: Sequence[Message]) -> None:
        """Put messages that reached nobody back at the head of the queue, in their order."""
        pairs = [(message.number, message.record) for message in messages]
        self._restores += 1
        self._committer.put_back(self._scripts.restore(queue, str(self._restores), pairs))
